"""Lanes share the weights and nothing else; what breaks on one is no business of the others."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.records import JobState
from tests.models import Trained, make_data, make_spec, make_worker, tiny_gpt2, tiny_llama, train
from tests.workers.test_isolation import assert_close, assert_same_bits, data_of, nan_weights, odd_llama, spec_of
from workers.dataset import Row
from workers.lane import Lane

NAMES = ("faulty", "left", "middle", "right")
WAYS = ({"num_lanes": 3}, {"grouped": True}, {"grouped": True, "num_lanes": 2})


def together(
    folder: Path,
    order: tuple[str, ...] = NAMES,
    *,
    dtype: torch.dtype = torch.float32,
    build: Callable[[torch.dtype], Any] = tiny_llama,
    before: Callable[[Trained], None] | None = None,
    packing: str = "shared",
    token_budget: int = 4096,
    **settings: Any,
) -> Trained:
    worker = make_worker(build(dtype), data_of(), folder, token_budget=token_budget, **settings)
    return train(worker, [spec_of(name, dtype, packing=packing) for name in order], before=before)


@pytest.mark.parametrize("settings", WAYS, ids=str)
@pytest.mark.parametrize("order", [NAMES, NAMES[::-1]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("build", [tiny_llama, odd_llama, tiny_gpt2])
def test_a_nan_job_changes_no_bit_of_its_neighbours(
    build: Any, dtype: torch.dtype, order: tuple[str, ...], settings: dict[str, Any], tmp_path: Path
) -> None:
    healthy = together(tmp_path / "healthy", order, dtype=dtype, build=build, **settings)
    faulty = together(tmp_path / "faulty", order, dtype=dtype, build=build, before=nan_weights, **settings)
    assert all(step.skipped for step in faulty.steps("faulty"))
    for name in ("left", "middle", "right"):
        assert_same_bits(faulty, healthy, name)


@pytest.mark.parametrize("settings", WAYS, ids=str)
def test_two_runs_give_the_same_bytes(settings: dict[str, Any], tmp_path: Path) -> None:
    first, second = (together(tmp_path / folder, **settings) for folder in ("first", "second"))
    for name in NAMES:
        assert_same_bits(first, second, name)


@pytest.mark.parametrize("packing", ["shared", "exact"])
def test_on_more_lanes_a_job_learns_the_same_and_an_exact_one_bit_for_bit(packing: str, tmp_path: Path) -> None:
    dtype = torch.float32 if packing == "exact" else torch.float64
    one, three = (together(tmp_path / str(lanes), dtype=dtype, packing=packing, num_lanes=lanes) for lanes in (1, 3))
    for name in NAMES:
        (assert_same_bits if packing == "exact" else assert_close)(three, one, name)


def test_an_exact_job_is_bit_equal_alone_and_beside_others_on_lanes(tmp_path: Path) -> None:
    beside = together(tmp_path / "beside", packing="exact", num_lanes=3)
    alone = together(tmp_path / "alone", ("left",), packing="exact", num_lanes=3)
    assert_same_bits(beside, alone, "left")


def test_lanes_hold_one_copy_of_the_weights(tmp_path: Path) -> None:
    worker = make_worker(tiny_llama(), data_of(), tmp_path, num_lanes=3)
    first, *others = [dict(lane.tree.named_parameters()) for lane in worker.base.lanes(3)]
    assert len({id(lane.router) for lane in worker.base.lanes(3)}) == 3
    for other in others:
        assert other.keys() == first.keys()
        assert all(other[name] is first[name] for name in first)


def num_tokens(rows: Sequence[Row]) -> int:
    return sum(len(row.ids) for row in rows)


def breaking(monkeypatch: pytest.MonkeyPatch, error: Callable[[Sequence[Row]], Exception | None]) -> list[int]:
    """Let lanes raise what `error` says of a pack's rows; half way, when gradients have been written already.

    Returns:
        The tokens of the packs that ran, from now on.
    """
    ran: list[int] = []
    original = Lane.train

    def train_or_break(self: Lane, rows: Any, segments: Any, *args: Any, **kwargs: Any) -> Any:
        ran.append(num_tokens(rows))
        losses = original(self, rows, segments, *args, **kwargs)
        if (found := error(rows)) is not None:
            raise found
        return losses

    monkeypatch.setattr(Lane, "train", train_or_break)
    return ran


def out_of_memory() -> Exception:
    return RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize("num_lanes", [1, 2])
def test_a_pack_that_runs_out_of_memory_is_halved_until_it_fits(
    num_lanes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = together(tmp_path / "roomy", dtype=torch.float64, num_lanes=num_lanes)
    ran = breaking(monkeypatch, lambda rows: out_of_memory() if num_tokens(rows) > 23 else None)
    tight = together(tmp_path / "tight", dtype=torch.float64, num_lanes=num_lanes)
    assert max(ran) > 23
    for name in NAMES:
        assert tight.end(name).state is JobState.SUCCEEDED
        assert_close(tight, expected, name)
        assert tight.runs[name].tokens == expected.runs[name].tokens


def test_a_micro_batch_that_breaks_every_pack_it_is_in_does_not_hold_up_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of an accumulation fits only by itself: each step goes back to the first, and must get past it."""
    lengths = {"job": [4, 20] * 3, "other": [6, 5, 7, 6]}
    data = {name: make_data(number, rows) for number, (name, rows) in enumerate(lengths.items())}
    training = {"num_train_epochs": 2, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 3}

    def trained(folder: str) -> Trained:
        worker = make_worker(tiny_llama(torch.float64), data, tmp_path / folder, num_lanes=1)
        return train(worker, [make_spec(name, dtype=torch.float64, training=training) for name in lengths])

    expected = trained("roomy")
    ran = breaking(monkeypatch, lambda rows: out_of_memory() if num_tokens(rows) > 20 else None)
    tight = trained("tight")
    assert max(ran) > 20
    for name in lengths:
        assert tight.end(name).state is JobState.SUCCEEDED
        assert_close(tight, expected, name)


@pytest.mark.parametrize("packing", ["shared", "exact"])
@pytest.mark.parametrize("num_lanes", [1, 2])
def test_only_the_job_that_does_not_fit_alone_fails(
    num_lanes: int, packing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = {"small": [5, 4, 3, 6], "large": [30, 28, 31, 29], "other": [7, 2, 6, 3]}
    data = {name: make_data(number, rows) for number, (name, rows) in enumerate(lengths.items())}
    training = {"max_steps": 6, "per_device_train_batch_size": 1, "weight_decay": 0.1}
    dtype = torch.float32 if packing == "exact" else torch.float64

    def trained(folder: str, names: tuple[str, ...]) -> Trained:
        worker = make_worker(tiny_llama(dtype), data, tmp_path / folder, num_lanes=num_lanes)
        return train(worker, [make_spec(name, dtype=dtype, packing=packing, training=training) for name in names])

    expected = trained("without", ("small", "other"))
    breaking(monkeypatch, lambda rows: out_of_memory() if num_tokens(rows) > 25 else None)
    found = trained("with", ("small", "large", "other"))
    assert found.end("large").state is JobState.FAILED
    assert found.end("large").reason == "memory"
    assert "per_device_train_batch_size" in found.end("large").message
    for name in ("small", "other"):
        assert found.end(name).state is JobState.SUCCEEDED
        (assert_same_bits if packing == "exact" else assert_close)(found, expected, name)


@pytest.mark.parametrize("num_lanes", [1, 2, 3])
def test_a_job_that_breaks_its_lane_ends_alone(num_lanes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = together(tmp_path / "healthy", dtype=torch.float64, num_lanes=num_lanes)
    original = Lane.train

    def train_or_break(self: Lane, rows: Any, segments: Any, *args: Any, **kwargs: Any) -> Any:
        losses = original(self, rows, segments, *args, **kwargs)
        if any(segment.dropout is not None and segment.dropout.seed == 4 for segment in segments):
            raise ValueError("a kernel that dislikes this job")
        return losses

    monkeypatch.setattr(Lane, "train", train_or_break)
    found = together(tmp_path / "broken", dtype=torch.float64, num_lanes=num_lanes)
    assert found.end("faulty").state is JobState.FAILED
    assert "dislikes" in found.end("faulty").message
    for name in ("left", "middle", "right"):
        assert found.end(name).state is JobState.SUCCEEDED
        assert_close(found, expected, name)


def test_a_share_of_the_time_goes_to_each_job_and_all_shares_are_the_time(tmp_path: Path) -> None:
    worker = make_worker(tiny_llama(), copy.deepcopy(data_of()), tmp_path, num_lanes=2)
    trained = train(worker, [spec_of(name) for name in NAMES])
    shares = [step.seconds for name in NAMES for step in trained.steps(name)]
    assert all(share > 0 for share in shares)
    assert sum(shares) <= worker.status().busy_seconds


def test_an_exact_job_keeps_its_bits_whatever_threads_torch_has(tmp_path: Path) -> None:
    """Alone it must not fall into the caller's thread, which may have more threads for each operation than a lane."""
    data = {name: make_data(number, [40, 64, 55, 33], vocabulary=97) for number, name in enumerate(("job", "other"))}

    def trained(folder: str, names: tuple[str, ...]) -> Trained:
        model = tiny_llama(hidden_size=256, intermediate_size=512, max_position_embeddings=128)
        worker = make_worker(model, data, tmp_path / folder, num_lanes=2)
        training = {"max_steps": 3, "per_device_train_batch_size": 4}
        return train(worker, [make_spec(name, packing="exact", training=training) for name in names])

    torch.set_num_threads(2)
    alone, beside = trained("alone", ("job",)), trained("beside", ("job", "other"))
    assert_same_bits(beside, alone, "job")
