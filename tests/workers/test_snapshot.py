"""A snapshot says where a job stands to the last bit, and its parts fit each other."""

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
)
from workers.snapshot import Accumulation, JobSnapshot, Pair, from_json, to_json


def make(**changes: Any) -> JobSnapshot:
    values: dict[str, Any] = {
        "identity": IDENTITY,
        "surroundings": SURROUNDINGS,
        "peft_config": {"r": 2},
        "factors": make_modules(0),
        "moments": {"exp_avg": make_modules(1), "exp_avg_sq": make_modules(2)},
        "gradients": None,
        "standing": make_standing(),
    }
    return JobSnapshot(**values | changes)


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
        make(**changes).require_alike()


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
