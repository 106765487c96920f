"""Four jobs as unlike as the spec allows, on each of two families of models, and what the oracle makes of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from jobs.spec import JobSpec
from tests.models import Trained, make_data, make_spec, make_worker, norms_in_own_dtype, tiny_gpt2, tiny_llama, train
from tests.parity.oracle import Errors, OracleRun, noise_floor, point_five, train_alone
from workers.dataset import JobData

NUM_STEPS = 20


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of model, and the names of its linears."""

    name: str
    build: Callable[[torch.dtype], PreTrainedModel]
    two_names: tuple[str, str]
    """Two short names of linears of attention."""
    feed_forward: str
    """A glob over the linears of the feed-forward part, without `excluded`."""
    excluded: str
    second_layer: str
    """A glob over everything in the second layer."""


LLAMA = Family(
    name="llama",
    build=tiny_llama,
    two_names=("q_proj", "v_proj"),
    feed_forward="model.layers.*.mlp.*",
    excluded="layers.0.mlp.gate_proj",
    second_layer="layers.1.*",
)
GPT2 = Family(
    name="gpt2",
    build=tiny_gpt2,
    two_names=("attn.c_attn", "attn.c_proj"),
    feed_forward="transformer.h.*.mlp.*",
    excluded="h.0.mlp.c_fc",
    second_layer="h.1.*",
)
FAMILIES = {family.name: family for family in (LLAMA, GPT2)}


def four_jobs(family: Family, dtype: torch.dtype, *, dropout: float = 0.2) -> tuple[JobSpec, ...]:
    """Unlike in everything: rank, scale, targets, init, batch, accumulation, optimizer, schedule, decay, clip."""
    jobs: dict[str, dict[str, Any]] = {
        "everywhere": {
            "lora": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
            "training": {
                "per_device_train_batch_size": 3,
                "gradient_accumulation_steps": 2,
                "learning_rate": 3e-3,
                "lr_scheduler_type": "linear",
                "warmup_steps": 3,
                "weight_decay": 0.3,
                "max_grad_norm": 0.5,
                "seed": 1,
            },
        },
        "dropped": {
            "lora": {
                "r": 8,
                "lora_alpha": 4,
                "lora_dropout": dropout,
                "target_modules": list(family.two_names),
                "init_lora_weights": "gaussian",
                "rank_pattern": {family.two_names[1]: 3},
                "alpha_pattern": {family.two_names[1]: 6},
            },
            "training": {
                "per_device_train_batch_size": 2,
                "gradient_accumulation_steps": 3,
                "learning_rate": 1e-2,
                "lr_scheduler_type": "cosine",
                "warmup_steps": 0.2,
                "adam_beta1": 0.8,
                "adam_beta2": 0.95,
                "adam_epsilon": 1e-6,
                "max_grad_norm": 1.0,
                "seed": 2,
            },
        },
        "descent": {
            "lora": {
                "r": 5,
                "lora_alpha": 10,
                "target_modules": [family.feed_forward],
                "exclude_modules": [family.excluded],
                "init_lora_weights": False,
            },
            "training": {
                "per_device_train_batch_size": 4,
                "optim": "sgd",
                "learning_rate": 2e-2,
                "lr_scheduler_type": "constant_with_warmup",
                "warmup_steps": 2,
                "weight_decay": 0.1,
                "max_grad_norm": 0.7,
                "seed": 3,
            },
        },
        "stabilised": {
            "lora": {
                "r": 2,
                "lora_alpha": 3,
                "target_modules": [family.second_layer],
                "use_rslora": True,
                "init_lora_weights": "orthogonal",
            },
            "training": {
                "per_device_train_batch_size": 1,
                "gradient_accumulation_steps": 4,
                "learning_rate": 5e-3,
                "lr_scheduler_type": "polynomial",
                "weight_decay": 0.05,
                "max_grad_norm": 0,
                "seed": 4,
            },
        },
    }
    return tuple(
        make_spec(name, dtype=dtype, lora=blocks["lora"], training=blocks["training"] | {"max_steps": NUM_STEPS})
        for name, blocks in jobs.items()
    )


def four_data() -> dict[str, JobData]:
    """Rows of unlike lengths, as short as two tokens; numbers of rows that leave short last batches and epochs."""
    return {
        "everywhere": make_data(1, [2, 9, 5, 12, 3, 7, 6, 2, 10, 4, 8]),
        "dropped": make_data(2, [6, 2, 11, 4, 3, 8, 5]),
        "descent": make_data(3, [4, 13, 2, 7, 7, 3, 9, 5, 6], share_labelled=0.3),
        "stabilised": make_data(4, [8, 2, 3, 10, 5]),
    }


def precise(dtype: torch.dtype) -> AbstractContextManager[None]:
    """Whatever a test in this dtype needs around both sides."""
    return norms_in_own_dtype() if dtype == torch.float64 else nullcontext()


def pack_together(family: Family, dtype: torch.dtype, staging_dir: Path, *, layout: str | None = None) -> Trained:
    """The four jobs, trained in one pack a round by a worker."""
    with precise(dtype):
        worker = make_worker(family.build(dtype), four_data(), staging_dir, layout=layout)
        if layout is None:
            assert worker.base.layout == "packed"
        return train(worker, four_jobs(family, dtype))


@cache
def oracles(family_name: str, dtype: torch.dtype, *, row_by_row: bool = False) -> dict[str, OracleRun]:
    """The four jobs one by one in PEFT. Computed once: many tests compare with them."""
    family = FAMILIES[family_name]
    specs, data = four_jobs(family, dtype), four_data()
    with precise(dtype):
        initial = _initial(family, dtype)
        return {
            spec.name: train_alone(
                family.build(dtype),
                spec,
                data[spec.name].train,
                initial[spec.name],
                num_steps=NUM_STEPS,
                row_by_row=row_by_row,
            )
            for spec in specs
        }


def tolerance(family_name: str, dtype: torch.dtype) -> Errors:
    """What point 5 of the numbers contract allows the four jobs together."""
    padded, unpadded = (oracles(family_name, dtype, row_by_row=one) for one in (False, True))
    return point_five(dtype, [noise_floor(padded[name], unpadded[name]) for name in padded])


def _initial(family: Family, dtype: torch.dtype) -> dict[str, Any]:
    """The factors that a worker starts the jobs from."""
    from tests.models import admit

    worker = make_worker(family.build(dtype), four_data(), Path("never-written"))
    return admit(worker, four_jobs(family, dtype)).initial
