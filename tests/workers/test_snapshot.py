"""A snapshot stands still while what it was taken of goes on, and says where a job stands to the last bit."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.workers.snapshots import (
    IDENTITY,
    SURROUNDINGS,
    assert_same,
    make_modules,
    make_snapshot,
    make_standing,
    same_bits,
)
from workers.snapshot import Accumulation, JobSnapshot, Pair, from_json, tensors, to_json


def take(**changes: Any) -> JobSnapshot:
    values: dict[str, Any] = {
        "identity": IDENTITY,
        "surroundings": SURROUNDINGS,
        "peft_config": {"r": 2},
        "factors": make_modules(0),
        "moments": {"exp_avg": make_modules(1), "exp_avg_sq": make_modules(2)},
        "gradients": None,
        "standing": make_standing(),
    }
    return JobSnapshot.take(**values | changes)


def test_training_on_changes_nothing_of_it() -> None:
    factors, moments, gradients = make_modules(0), {"exp_avg": make_modules(1)}, make_modules(9)
    schedule: dict[str, Any] = {"last_epoch": 3, "base_lrs": [1e-4]}
    config: dict[str, Any] = {"target_modules": ["q_proj"]}
    snapshot = take(
        factors=factors,
        moments=moments,
        gradients=gradients,
        peft_config=config,
        standing=make_standing(half_done=True, schedule=schedule),
    )
    for modules in (factors, moments["exp_avg"], gradients):
        for tensor in tensors(modules):
            tensor.fill_(77.0)
    schedule["base_lrs"].append(2.0)
    config["target_modules"].clear()
    assert same_bits(snapshot.factors, make_modules(0))
    assert same_bits(snapshot.moments["exp_avg"], make_modules(1))
    assert same_bits(snapshot.gradients, make_modules(9))
    assert snapshot.standing.schedule == {"last_epoch": 3, "base_lrs": [1e-4]}
    assert snapshot.peft_config == {"target_modules": ["q_proj"]}


def test_a_flat_buffer_is_copied_once_and_a_stack_of_many_jobs_is_not_copied_whole() -> None:
    flat = {tensor.untyped_storage().data_ptr() for tensor in tensors(take().factors)}
    assert len(flat) == 1
    stack = torch.randn(50, 2, 3)
    pair = Pair(a_RI=stack[7], b_OR=torch.randn(4, 2))
    snapshot = take(factors={"m": pair}, moments={})
    assert torch.equal(snapshot.factors["m"].a_RI, stack[7])
    assert snapshot.factors["m"].a_RI.untyped_storage().nbytes() == stack[7].nbytes


def test_parameters_are_copied_without_their_graph() -> None:
    parameter = torch.nn.Parameter(torch.randn(2, 3))
    snapshot = take(factors={"m": Pair(a_RI=parameter, b_OR=torch.randn(4, 2))}, moments={})
    assert not snapshot.factors["m"].a_RI.requires_grad


def test_its_bytes_are_counted() -> None:
    assert make_snapshot(slots=()).tensor_bytes == 4 * (2 * 7 + 1 * 8)
    assert make_snapshot(half_done=True).tensor_bytes == 4 * 4 * (2 * 7 + 1 * 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gradients": make_modules(9)}, "come together"),
        ({"standing": make_standing(half_done=True)}, "come together"),
        ({"moments": {"exp_avg": {}}}, "exp_avg are of other modules"),
        ({"moments": {"exp_avg": make_modules(1, torch.float64)}}, "float64"),
        (
            {
                "gradients": {name: Pair(a_RI=pair.a_RI, b_OR=pair.a_RI) for name, pair in make_modules(9).items()},
                "standing": make_standing(half_done=True),
            },
            "gradients of model.layers.0.self_attn.q_proj are",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        take(**changes)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 5e-324, 0.1 + 0.2, 1.7976931348623157e308])
def test_where_a_job_stands_survives_strict_json(value: float) -> None:
    standing = make_standing(
        half_done=True,
        accumulation=Accumulation(micro_batches_done=1, loss_sum=value, seconds=value),
        learning_rates=(value, 1.0),
        schedule={"deep": [{"er": value}]},
        best_metric=value,
    )
    back = from_json(json.loads(json.dumps(to_json(standing), allow_nan=False)))
    assert repr(back) == repr(standing)


def test_the_least_that_can_be_said_survives_too() -> None:
    standing = make_standing(
        first_eval=None, last_eval=None, last_step=None, best_metric=None, best_step=None, schedule={}
    )
    assert from_json(to_json(standing)) == standing
    assert standing.micro_batch == 0
    assert replace(make_standing(half_done=True)).micro_batch == 2


def test_two_snapshots_of_one_instant_are_the_same() -> None:
    assert_same(make_snapshot(half_done=True), make_snapshot(half_done=True))
