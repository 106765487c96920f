"""Every way of running a pack gives what PEFT gives job by job: lanes, grouped products, padded rows, recomputation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.spec import JobSpec
from tests.models import Trained, make_data, make_spec, make_worker, tiny_llama, train
from tests.parity.oracle import compare_all, distance
from tests.parity.scenario import FAMILIES, four_data, four_jobs, oracles, precise, tolerance
from workers import grouped_products
from workers.lane import Lane

WAYS: dict[str, dict[str, Any]] = {
    "2 lanes": {"num_lanes": 2},
    "3 lanes": {"num_lanes": 3},
    "grouped": {"grouped": True},
    "grouped padded": {"grouped": True, "layout": "padded"},
    "2 lanes padded": {"num_lanes": 2, "layout": "padded"},
    "grouped 2 lanes": {"grouped": True, "num_lanes": 2},
}


def run(family: str, dtype: torch.dtype, folder: Path, **settings: Any) -> Trained:
    with precise(dtype):
        worker = make_worker(FAMILIES[family].build(dtype), four_data(), folder, **settings)
        return train(worker, four_jobs(FAMILIES[family], dtype))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", WAYS)
def test_four_unlike_jobs_equal_peft_job_by_job_in_fp32(
    way: str, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grouped = 0
    add_deltas = grouped_products.add_deltas

    def counted(*args: Any) -> Any:
        nonlocal grouped
        grouped += 1
        return add_deltas(*args)

    monkeypatch.setattr(grouped_products, "add_deltas", counted)
    errors = compare_all(run(family, torch.float32, tmp_path, **WAYS[way]), oracles(family, torch.float32))
    bound = tolerance(family, torch.float32)
    assert errors.loss <= bound.loss
    assert errors.adapter <= bound.adapter
    assert bool(grouped) is ("grouped" in way)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_lanes", [2, 3])
def test_lanes_equal_peft_to_the_last_digits_in_fp64(num_lanes: int, family: str, tmp_path: Path) -> None:
    trained = run(family, torch.float64, tmp_path, num_lanes=num_lanes)
    errors = compare_all(trained, oracles(family, torch.float64))
    assert errors.loss <= 1e-9
    assert errors.adapter <= 1e-7


def long_job(name: str = "job", *, dtype: torch.dtype = torch.float64, **training: Any) -> JobSpec:
    """Eight rows of one job, cut over lanes between them, under dropout and accumulation."""
    settings = {
        "max_steps": 5,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
    }
    return make_spec(name, dtype=dtype, lora={"r": 4, "lora_dropout": 0.2}, training=settings | training)


LENGTHS = [9, 3, 14, 5, 7, 11, 4, 6, 8, 10, 3, 12, 5, 9, 7, 6]


@pytest.mark.parametrize("num_lanes", [2, 3, 8])
def test_a_job_cut_over_lanes_learns_what_it_learns_on_one(num_lanes: int, tmp_path: Path) -> None:
    data = {"job": make_data(5, LENGTHS, held_out=[4, 9, 6, 3, 8])}
    with precise(torch.float64):
        whole = train(make_worker(tiny_llama(torch.float64), data, tmp_path / "whole", num_lanes=1), [long_job()])
        cut_worker = make_worker(tiny_llama(torch.float64), data, tmp_path / "cut", num_lanes=num_lanes)
        cut = train(cut_worker, [long_job()])
    assert cut_worker._runner._spares
    assert all(not spare.any() for spare in cut_worker._runner._spares)
    assert cut.losses("job") == pytest.approx(whole.losses("job"), rel=1e-12, abs=0)
    assert distance(cut.final("job"), whole.final("job")) <= 1e-10
    for ours, theirs in zip(cut.evaluations("job"), whole.evaluations("job"), strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-12)
        assert (ours.exact_match, ours.rows) == (theirs.exact_match, theirs.rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_recomputing_activations_changes_no_bit_and_keeps_less(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"job": make_data(5, LENGTHS)}
    recomputed: list[bool] = []
    train_lane = Lane.train

    def watched(self: Lane, *args: Any, checkpointing: bool = False, **kwargs: Any) -> Any:
        recomputed.append(checkpointing)
        return train_lane(self, *args, checkpointing=checkpointing, **kwargs)

    monkeypatch.setattr(Lane, "train", watched)
    kept = train(make_worker(tiny_llama(dtype), data, tmp_path / "kept"), [long_job(dtype=dtype)])
    assert not any(recomputed)
    recomputed.clear()
    again = train(
        make_worker(tiny_llama(dtype), data, tmp_path / "again"), [long_job(dtype=dtype, gradient_checkpointing=True)]
    )
    assert recomputed
    assert all(recomputed)
    assert again.losses("job") == kept.losses("job")
    assert torch.equal(again.runs["job"].adapter.values, kept.runs["job"].adapter.values)
