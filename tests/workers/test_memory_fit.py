"""Measured packs make the prediction; a few noisy ones are enough, and budgets follow from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.models import make_data, make_spec, make_worker, tiny_llama, train
from workers.device_errors import is_out_of_memory
from workers.memory import (
    MAX_TOKEN_BUDGET,
    MIN_TOKEN_BUDGET,
    BaseShape,
    Demand,
    PackLoad,
    find_token_budget,
    worker_bytes,
)
from workers.memory_fit import MemoryFit
from workers.memory_meter import PeakMeter

SHAPE = BaseShape(num_parameters=10**6, itemsize=4, vocab_size=1000, linear_features=10_000)


def random_loads(seed: int, number: int) -> list[PackLoad]:
    draw = np.random.default_rng(seed)
    loads = []
    for _ in range(number):
        lengths = draw.integers(5, 300, draw.integers(1, 30))
        loads.append(
            PackLoad(
                tokens=int(lengths.sum()), labels=int(draw.integers(1, lengths.sum())), squares=int((lengths**2).sum())
            )
        )
    return loads


@pytest.mark.parametrize("betas", [(10e6, 1e6, 0, 0), (0, 2e6, 300, 0), (5e6, 4e5, 0, 8e3), (3e7, 0, 900, 0)], ids=str)
@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_twenty_packs_are_enough_for_fifty_others(betas: tuple[float, ...], noise: float) -> None:
    def true_bytes(load: PackLoad) -> float:
        return betas[0] + betas[1] * load.tokens + betas[2] * load.squares + betas[3] * load.labels

    draw = np.random.default_rng(1)
    fit = MemoryFit(SHAPE)
    for load in random_loads(2, 20):
        fit.observe(load, int(true_bytes(load) * (1 + noise * draw.standard_normal())))
    errors = [abs(fit.predict(load) / true_bytes(load) - 1) for load in random_loads(3, 50)]
    assert np.mean(errors) <= (1e-6 if noise == 0 else 0.03)


def test_until_enough_was_measured_the_bound_from_shapes_holds() -> None:
    fit = MemoryFit(SHAPE)
    load = PackLoad(tokens=100, labels=10, squares=1000)
    for _ in range(5):
        fit.observe(load, 1)
        assert fit.predict(load) == SHAPE.pack_bytes(load)
    fit.observe(load, 1)
    assert fit.predict(load) < SHAPE.pack_bytes(load)
    kept = PackLoad(tokens=100, labels=10, squares=1000, checkpointing=True)
    assert fit.predict(kept) == SHAPE.pack_bytes(kept) < SHAPE.pack_bytes(load)


@given(st.lists(st.tuples(st.integers(1, 10**4), st.integers(1, 10**10)), min_size=6, max_size=30))
def test_whatever_was_measured_more_tokens_never_need_less(seen: list[tuple[int, int]]) -> None:
    fit = MemoryFit(SHAPE)
    for tokens, measured in seen:
        fit.observe(PackLoad(tokens=tokens, labels=1, squares=tokens), measured)
    predicted = [fit.bound(PackLoad(tokens=tokens, labels=1, squares=tokens)) for tokens in (1, 10, 1000, 10**5)]
    assert predicted == sorted(predicted)
    assert predicted[0] >= 0


def test_the_first_large_pack_is_admitted_by_the_bound_from_shapes_not_by_a_line_through_small_ones() -> None:
    fit = MemoryFit(SHAPE)
    for tokens in range(60, 120, 10):
        # Half of what the shapes say, as far as small packs show.
        small = PackLoad(tokens=tokens, labels=tokens // 2, squares=tokens * 10)
        fit.observe(small, SHAPE.pack_bytes(small) // 2)
    large = PackLoad(tokens=4096, labels=2048, squares=40960)
    assert fit.predict(large) < 0.6 * SHAPE.pack_bytes(large)
    assert fit.bound(large) >= SHAPE.pack_bytes(large)
    # As many tokens, in one row that is longer than any before: that is far from what was measured, too.
    long_row = PackLoad(tokens=100, labels=50, squares=100**2)
    assert fit.bound(long_row) >= SHAPE.pack_bytes(long_row)
    # The margin grows with the distance, up to twice the largest pack; what was measured needs none.
    near = [PackLoad(tokens=n, labels=n // 2, squares=n * 10) for n in (110, 140, 180, 220)]
    margins = [fit.bound(load) / fit.predict(load) for load in near]
    assert margins == sorted(margins)
    assert margins[0] == 1.0
    assert 1.5 <= margins[-1] <= 1.6
    # Each pack measured lets the next be up to twice as large.
    fit.observe(PackLoad(tokens=2048, labels=1024, squares=20480), SHAPE.pack_bytes(large) // 4)
    assert fit.bound(large) < 0.9 * SHAPE.pack_bytes(large)


def test_what_is_resident_on_a_cpu_has_no_part_in_what_runs_together(tmp_path) -> None:  # type: ignore[no-untyped-def]
    worker = make_worker(tiny_llama(), {"job": make_data(1, [9, 5, 12, 7])}, tmp_path)
    train(worker, [make_spec("job", training={"max_steps": 12, "per_device_train_batch_size": 4})])
    assert worker._admission.fit.num_observed() == 0


demands = st.builds(Demand, adapter_bytes=st.integers(0, 10**9), worst_tokens=st.just(10), worst_labels=st.just(5))


@given(st.lists(demands, max_size=5), st.integers(0, 10**11))
def test_a_budget_is_a_power_of_two_that_fits_beside_the_base(jobs: list[Demand], capacity: int) -> None:
    budget = find_token_budget(SHAPE, jobs, capacity)
    assert MIN_TOKEN_BUDGET <= budget <= MAX_TOKEN_BUDGET
    assert budget & (budget - 1) == 0
    if budget > MIN_TOKEN_BUDGET:
        assert SHAPE.base_bytes + budget * SHAPE.token_bytes <= capacity


def test_a_little_more_or_less_free_memory_gives_the_same_budget() -> None:
    capacity = SHAPE.base_bytes + 700 * SHAPE.token_bytes
    assert find_token_budget(SHAPE, [], capacity) == 512
    assert find_token_budget(SHAPE, [], round(capacity * 0.9)) == 512
    assert find_token_budget(SHAPE, [], round(capacity * 1.1)) == 512


def test_the_dearest_kind_of_pack_counts() -> None:
    keeps = Demand(adapter_bytes=100, worst_tokens=50, worst_labels=5)
    again = Demand(adapter_bytes=100, worst_tokens=100, worst_labels=5, checkpointing=True)
    together = worker_bytes(SHAPE, [keeps, again], 4096)
    assert together == SHAPE.base_bytes + 200 + SHAPE.pack_bytes(PackLoad(tokens=50, labels=5))


def test_a_worker_measures_its_first_packs_and_learns_from_them(tmp_path) -> None:  # type: ignore[no-untyped-def]
    worker = make_worker(tiny_llama(), {"job": make_data(1, [9, 5, 12, 7])}, tmp_path, num_measured_packs=3)
    train(worker, [make_spec("job", training={"max_steps": 6, "per_device_train_batch_size": 4})])
    assert worker._admission.fit.num_observed() == 3
    assert worker._admission.fit.largest_observed() == 33


def test_the_meter_sees_an_allocation_and_forgets_it() -> None:
    meter = PeakMeter(torch.device("cpu"))
    if not meter.begin():
        pytest.skip("this machine does not let a process reset its peak")
    before = meter.held_bytes()
    block = torch.ones(2**24)
    del block
    assert meter.peak_bytes() - before >= 0.9 * 2**26
    assert meter.begin()
    assert meter.peak_bytes() - before < 0.5 * 2**26


def test_what_counts_as_out_of_memory() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"))
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
