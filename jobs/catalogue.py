"""Which fields there are, and what was meant by a name that is none of them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from jobs.field_paths import FieldPath, shown_key, shown_path

OTHER_NAMES: dict[str, str] = {
    "alpha": "lora.lora_alpha",
    "base_model": "model.model_name_or_path",
    "batch_size": "training.per_device_train_batch_size",
    "bf16": "model.dtype",
    "dataset": "datasets",
    "dropout": "lora.lora_dropout",
    "epochs": "training.num_train_epochs",
    "eval_dataset": "eval_datasets",
    "evaluation_strategy": "training.eval_strategy",
    "fp16": "model.dtype",
    "lr": "training.learning_rate",
    "lr_scheduler": "training.lr_scheduler_type",
    "max_seq_length": "training.max_length",
    "optimizer": "training.optim",
    "rank": "lora.r",
    "torch_dtype": "model.dtype",
}
"""Names that other programs have for our fields."""

_STEP = re.compile(r"[^.\[\]]+")


class UnknownFieldError(ValueError):
    """There is no such field; the message offers the nearest."""


def resolve(text: str, root: type[BaseModel]) -> FieldPath:
    """The path that a dotted field names, such as `lora.r` or `datasets[0].path`.

    What follows a mapping of free keys is one key, dots and all: `lora.rank_pattern.model.layers.0.q_proj`.

    Raises:
        UnknownFieldError: there is no such field.
    """
    path: FieldPath = ()
    block: type[BaseModel] | None = root
    rest = text
    while rest:
        match = _STEP.match(rest)
        if match is None or block is None:
            raise UnknownFieldError(f"{shown_key(text)!r} is not the name of a field")
        key = match[0]
        if key not in block.model_fields:
            raise UnknownFieldError(unknown_key(path, key, root=root))
        path, rest = (*path, key), rest[match.end() :]
        annotation = block.model_fields[key].annotation
        if rest.startswith(".") and len(rest) > 1 and _is_mapping(annotation):
            return (*path, rest[1:])
        block = block_in(annotation)
        if rest and is_list_of_blocks(annotation):
            match = re.match(r"\[(\d{1,4})\]", rest)
            if match is None:
                raise UnknownFieldError(f"{shown_path(path)} is a list: write {shown_path(path)}[0] for its first item")
            path, rest = (*path, int(match[1])), rest[match.end() :]
        if rest:
            if not re.match(r"\.[^.\[\]]", rest):
                raise UnknownFieldError(f"{shown_key(text)!r} is not the name of a field")
            rest = rest[1:]
    if not path:
        raise UnknownFieldError("the name of a field is missing")
    return path


def unknown_key(parent: FieldPath, key: str, *, root: type[BaseModel], value: object = None) -> str:
    """The sentence that answers a key which its block does not have."""
    shown = shown_key(key)
    if key == "warmup_ratio":
        share = value if isinstance(value, float) and 0 <= value < 1 else 0.1
        return f"`warmup_ratio` is gone from transformers 5: write `warmup_steps: {share}` under training"
    if key == "<<":
        return "merge keys are not used in a spec: write the keys out"
    if key in OTHER_NAMES:
        return f"there is no such field; did you mean `{OTHER_NAMES[key]}`?"
    known = blocks(root)
    here = known.get(_pattern(parent), ())
    elsewhere = [f"{block}.{name}" if block else name for block, names in known.items() for name in names]
    # The same name in another block is more telling than a similar one in this block.
    exact = [field for field in elsewhere if field == key or field.endswith(f".{key}")]
    if exact:
        return f"there is no such field here; did you mean {_either(exact[:3])}?"
    if len(key) <= 2 * max(map(len, elsewhere)):
        near = difflib.get_close_matches(key, here, n=1, cutoff=0.6)
        if near:
            return f"there is no such field; did you mean `{near[0]}`?"
        by_name = {field.rpartition(".")[2]: field for field in reversed(elsewhere)}
        near = difflib.get_close_matches(key, by_name, n=1, cutoff=0.75)
        if near:
            return f"there is no such field; did you mean `{by_name[near[0]]}`?"
    if not here:
        return f"there is no field `{shown}`"
    return f"there is no such field; here are {', '.join(here)}"


@cache
def blocks(root: type[BaseModel]) -> Mapping[str, tuple[str, ...]]:
    """The keys of every block of a document, by the block's path; lists are written `datasets[]`."""
    return dict(_blocks("", root))


def _blocks(path: str, block: type[BaseModel]) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield path, tuple(block.model_fields)
    for name, info in block.model_fields.items():
        inner = block_in(info.annotation)
        if inner is not None:
            suffix = "[]" if is_list_of_blocks(info.annotation) else ".*" if _is_mapping(info.annotation) else ""
            yield from _blocks(f"{path}.{name}{suffix}".lstrip("."), inner)


def block_in(annotation: Any) -> type[BaseModel] | None:
    """The block that a field holds, alone or in a list or mapping; None where it holds none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        arguments = arguments[:1]
    return next((found for found in map(block_in, arguments) if found is not None), None)


def is_list_of_blocks(annotation: Any) -> bool:
    """True for fields such as `datasets`."""
    return get_origin(annotation) is tuple and block_in(annotation) is not None


def _is_mapping(annotation: Any) -> bool:
    return isinstance(get_origin(annotation), type) and issubclass(get_origin(annotation) or object, Mapping)


def _pattern(path: FieldPath) -> str:
    if path[:2] == ("sweep", "parameters") and len(path) > 2:
        return "sweep.parameters.*"
    return ".".join("[]" if isinstance(step, int) else step for step in path).replace(".[]", "[]")


def _either(fields: list[str]) -> str:
    quoted = [f"`{field}`" for field in fields]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"
