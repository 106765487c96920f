"""The value types of fields with a set of names, and of fields that are there for what is not supported yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from jobs.field_types import MAX_ITEMS, NONE_BY_DEFAULT, CountOrZero, text_or_list
from jobs.frozen_dict import FrozenDict

_SAME_AS_ADAMW = ("adamw_torch_fused", "adamw_apex_fused", "adamw_torch_xla", "adamw_torch_npu_fused")
_PAGED_ADAMW = ("paged_adamw", "paged_adamw_32bit")
QUANTISED_ADAMW = ("adamw_8bit", "adamw_bnb_8bit", "adamw_torch_8bit", "adamw_torch_4bit", "paged_adamw_8bit")
"""Names of AdamW with states of 8 or 4 bits. An adapter's are small: they stay fp32 here."""


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


SCHEDULES = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
)
_OTHER_SCHEDULES = {
    "cosine_with_min_lr": "cosine, which ends at 0",
    "cosine_warmup_with_min_lr": "cosine, which ends at 0",
    "warmup_stable_decay": "constant_with_warmup, which does not decay",
    "reduce_lr_on_plateau": "linear",
    "greedy": "linear",
}


def _schedule(value: object) -> object:
    if isinstance(value, str) and value in _OTHER_SCHEDULES:
        raise ValueError(f"not supported yet: write {_OTHER_SCHEDULES[value]}")
    if value not in SCHEDULES:
        raise ValueError(f"should be {', '.join(map(repr, SCHEDULES[:-1]))} or {SCHEDULES[-1]!r}")
    return value


Schedule = Annotated[
    Literal[
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "constant",
        "constant_with_warmup",
        "inverse_sqrt",
    ],
    BeforeValidator(_schedule),
]

Layers = Annotated[tuple[CountOrZero, ...], Field(max_length=MAX_ITEMS), BeforeValidator(_one_or_more)]
TokenRows = Annotated[
    Annotated[tuple[CountOrZero, ...], Tag("list")] | Annotated[Mapping[str, tuple[CountOrZero, ...]], Tag("block")],
    Discriminator(lambda value: "block" if isinstance(value, Mapping) else "list"),
    Field(max_length=MAX_ITEMS),
]
Settings = Annotated[
    Mapping[str, Any],
    Field(max_length=MAX_ITEMS, json_schema_extra=NONE_BY_DEFAULT),
    AfterValidator(FrozenDict[Any]),
]


def _optimizer(value: object) -> object:
    # Other kernels and places in memory for the same update, so the spec does not tell the names apart.
    if value in (*_SAME_AS_ADAMW, *_PAGED_ADAMW):
        return "adamw_torch"
    if value not in ("adamw_torch", "sgd", *QUANTISED_ADAMW):
        raise ValueError(
            "should be 'adamw_torch' or 'sgd'; names of AdamW's fused, paged and 8-bit forms are taken as well"
        )
    return value


Optimizer = Annotated[
    Literal[
        "adamw_torch",
        "sgd",
        "adamw_8bit",
        "adamw_bnb_8bit",
        "adamw_torch_8bit",
        "adamw_torch_4bit",
        "paged_adamw_8bit",
    ],
    BeforeValidator(_optimizer),
    Field(json_schema_extra={"enum": ["adamw_torch", "sgd", *_SAME_AS_ADAMW, *_PAGED_ADAMW, *QUANTISED_ADAMW]}),
]

Reporter = Literal["tensorboard", "trackio", "wandb", "mlflow"]
_REPORTERS = ("tensorboard", "trackio", "wandb", "mlflow")


def _reporters(value: object) -> object:
    # `[none]` is transformers' other way to write none.
    return "none" if value in (["none"], ("none",)) else value


ReportTo = Annotated[
    Annotated[Literal["none", "tensorboard", "trackio", "wandb", "mlflow"], Tag("text")]
    | Annotated[
        tuple[Reporter, ...],
        Field(
            max_length=4,
            json_schema_extra={
                "items": {"enum": ["none", *_REPORTERS]},
                "not": {"contains": {"const": "none"}, "minItems": 2},
            },
        ),
        Tag("list"),
    ],
    Discriminator(text_or_list),
    BeforeValidator(_reporters),
]
