"""Snapshots of a job that never ran: small, with numbers that are easy to tell apart."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from jobs.checkpoints import CheckpointIdentity, DataFingerprints, Surroundings
from jobs.records import BaseKey, EvalReport, StepReport
from workers.snapshot import Accumulation, JobSnapshot, Modules, Pair, Standing

MODULES = {"model.layers.0.self_attn.q_proj": (2, 3, 4), "model.layers.1.mlp.down_proj": (1, 5, 3)}
"""Name → rank, input and output features."""

IDENTITY = CheckpointIdentity(
    job_id="job-1",
    attempt=3,
    spec_sha256="5" * 64,
    base=BaseKey(model_name_or_path="tiny", revision=None, dtype="float32"),
    base_fingerprint="b" * 64,
    data=DataFingerprints(train="d" * 64, evaluation=None),
)
SURROUNDINGS = Surroundings(versions={"torch": "2.13.0", "loraloom": "0.1.0"}, device_type="cpu", num_threads=1)

STEP = StepReport(
    job_id="job-1",
    step=7,
    total_steps=20,
    epoch=0.1 + 0.2,
    loss=1 / 3,
    learning_rate=1e-4 / 7,
    grad_norm=math.inf,
    label_tokens=11,
    tokens=29,
    seconds=0.25,
    skipped=True,
)
EVALUATION = EvalReport(
    job_id="job-1", step=5, epoch=0.2, loss=2 / 3, exact_match=0.5, rows=4, label_tokens=9, seconds=0.125
)


def make_modules(seed: int, dtype: torch.dtype = torch.float32) -> Modules:
    """Factors in one flat buffer, B lying transposed in it, as a worker's are."""
    flat = torch.randn(
        sum(rank * (width + out) for rank, width, out in MODULES.values()),
        dtype=dtype,
        generator=torch.Generator().manual_seed(seed),
    )
    modules, end = {}, 0
    for name, (rank, width, out) in MODULES.items():
        middle = end + rank * width
        begin, end = end, middle + rank * out
        modules[name] = Pair(a_RI=flat[begin:middle].view(rank, width), b_OR=flat[middle:end].view(rank, out).T)
    return modules


def make_standing(*, step: int = 7, half_done: bool = False, **changes: Any) -> Standing:
    standing = Standing(
        step=step,
        total_steps=20,
        cursor_epoch=1,
        cursor_position=12,
        optimizer_steps=step - 1,
        learning_rates=(1e-4 / 7,),
        schedule={"last_epoch": step - 1, "base_lrs": [1e-4], "lr_lambdas": [{}], "_last_lr": [1e-4 / 7]},
        accumulation=Accumulation(micro_batches_done=2, loss_sum=math.nan, seconds=0.5) if half_done else None,
        nonfinite_in_a_row=1,
        evaluated_at=5,
        first_eval=replace(EVALUATION, step=0),
        last_eval=EVALUATION,
        last_step=replace(STEP, step=step),
        best_metric=2 / 3,
        best_step=5,
        tokens=12345,
        seconds=1.5,
    )
    return replace(standing, **changes)


def make_snapshot(
    *,
    seed: int = 0,
    step: int = 7,
    attempt: int = 3,
    job_id: str = "job-1",
    half_done: bool = False,
    dtype: torch.dtype = torch.float32,
    slots: tuple[str, ...] = ("exp_avg", "exp_avg_sq"),
) -> JobSnapshot:
    return JobSnapshot(
        identity=replace(IDENTITY, job_id=job_id, attempt=attempt),
        surroundings=SURROUNDINGS,
        peft_config={"peft_type": "LORA", "r": 2},
        factors=make_modules(seed, dtype),
        moments={slot: make_modules(seed + number, dtype) for number, slot in enumerate(slots, start=1)},
        gradients=make_modules(seed + 9, dtype) if half_done else None,
        standing=make_standing(step=step, half_done=half_done),
    )


def same_bits(one: Modules | None, other: Modules | None) -> bool:
    """Equal to the bit, signs of zero and NaN included; layouts may differ."""
    if one is None or other is None:
        return one is other
    return one.keys() == other.keys() and all(
        mine.dtype == theirs.dtype and mine.shape == theirs.shape and _bytes(mine) == _bytes(theirs)
        for name in one
        for mine, theirs in ((one[name].a_RI, other[name].a_RI), (one[name].b_OR, other[name].b_OR))
    )


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


def assert_same(one: JobSnapshot, other: JobSnapshot) -> None:
    assert one.identity == other.identity
    assert one.surroundings == other.surroundings
    assert one.peft_config == other.peft_config
    # repr, since NaN does not equal itself.
    assert repr(one.standing) == repr(other.standing)
    assert same_bits(one.factors, other.factors)
    assert one.moments.keys() == other.moments.keys()
    assert all(same_bits(one.moments[slot], other.moments[slot]) for slot in one.moments)
    assert same_bits(one.gradients, other.gradients)
