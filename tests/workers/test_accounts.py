"""How busy time is charged, what a job would take alone, and operations counted by hand; nothing here needs torch."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from jobs.ledger import Usage
from workers.batcher import Kind
from workers.flops import FlopCount, FlopLoad
from workers.pack_times import PackTimes
from workers.usage import Accounts, Ran


class Linear(NamedTuple):
    """A base's linear, as far as operations go."""

    in_features: int
    out_features: int


class Factors(NamedTuple):
    """A job's factors on one."""

    num_parameters: int
    is_head: bool = False


def test_time_is_shared_by_tokens_and_nothing_is_charged_twice() -> None:
    clock = iter([0.0, 10.0, 14.0, 15.0, 18.0, 25.0])
    accounts = Accounts(now=lambda: next(clock))
    accounts.start()
    accounts.charge({"a": 1, "b": 3})
    assert accounts.charged_seconds == 4.0
    accounts.charge({"b": 5})
    assert accounts.charged_seconds == 5.0
    accounts.charge({"a": 2, "c": 4})
    assert accounts.charged_seconds == 8.0
    accounts.charge({})
    assert accounts.charged_seconds == 8.0
    seconds = {job_id: accounts.usage(job_id).device_seconds for job_id in "abc"}
    assert seconds == {"a": 2.0, "b": 4.0, "c": 2.0}
    accounts.begin("a")
    assert accounts.usage("a") == Usage()
    accounts.keep_only({"b"})
    assert accounts.last_usage("b") == accounts.usage("b")
    assert accounts.last_usage("a") is None


def test_what_a_job_would_take_alone_is_on_the_line_of_measured_packs() -> None:
    times = PackTimes()
    assert times.alone_seconds(Kind.TRAIN, 3, 30) == 0.0
    for tokens in (100, 200, 400):
        times.add(Kind.TRAIN, tokens, 0.5 + 0.01 * tokens, disturbed=False)
    times.add(Kind.TRAIN, 100, 99.0, disturbed=True)
    assert times.alone_seconds(Kind.TRAIN, 4, 100) == pytest.approx(4 * 0.5 + 1.0)
    assert times.alone_seconds(Kind.EVALUATE, 4, 100) == 0.0
    assert sum(times.counts) == 4
    # Packs of one size say nothing of what a pack costs beside its tokens.
    for _ in range(3):
        times.add(Kind.EVALUATE, 50, 2.0, disturbed=False)
    assert times.alone_seconds(Kind.EVALUATE, 5, 100) == pytest.approx(4.0)


def test_alone_seconds_are_of_the_jobs_own_micro_batches() -> None:
    accounts = Accounts()
    for tokens in (10, 20, 40):
        accounts.times.add(Kind.TRAIN, tokens, 1.0 + tokens, disturbed=False)
    accounts.ran([Ran(job_id="a", kind=Kind.TRAIN, tokens=7, labels=3, padding=0)] * 2)
    assert accounts.usage("a").alone_seconds == pytest.approx(2 * 1.0 + 14.0)
    assert (accounts.usage("a").tokens, accounts.usage("a").label_tokens) == (14, 6)


def _count() -> FlopCount:
    """Two layers of q, k (one input), o and mlp, all 2 × 3 but the mlp."""
    shapes = {
        f"layers.{layer}.{name}": Linear(2, 3 if name != "mlp" else 5)
        for layer in range(2)
        for name in ("q", "k", "o", "mlp")
    }
    groups = [(f"layers.{layer}.q", f"layers.{layer}.k") for layer in range(2)]
    return FlopCount(shapes, groups, vocab_size=11, width=2, attention_width=4, num_layers=2)


def _target() -> Any:
    """Rank 1 on a 2 × 3 linear."""
    return Factors(5)


@pytest.mark.parametrize(
    "lowest, backward_linears, backward_layers",
    [
        # q's input has no gradient, nor has k's, which is the same tensor.
        ("layers.0.q", 6 + 10 + 28, 2),
        ("layers.0.k", 6 + 10 + 28, 2),
        ("layers.0.mlp", 28, 1),
        ("layers.1.o", 10, 0),
    ],
)
def test_operations_of_a_pack_by_hand(lowest: str, backward_linears: int, backward_layers: int) -> None:
    count = _count()
    load = FlopLoad(adapter=count.adapter({lowest: _target()}), tokens=7, labels=3, squares=49)
    forward = 2 * 7 * 56 + 2 * (2 * 49 * 4) + 2 * 22 * 3 + 2 * 5 * 7
    assert count.pack(Kind.EVALUATE, [load]) == forward
    backward = 2 * 7 * backward_linears + 2 * (2 * 49 * 4) * backward_layers + 2 * 22 * 3 + 4 * 5 * 7
    assert count.pack(Kind.TRAIN, [load]) == forward + backward


def test_factors_on_the_head_run_over_label_tokens_and_need_no_backward_through_the_base() -> None:
    count = _count()
    load = FlopLoad(adapter=count.adapter({"head": Factors(13, is_head=True)}), tokens=7, labels=3, squares=49)
    forward = 2 * 7 * 56 + 2 * (2 * 49 * 4) + 2 * 22 * 3 + 2 * 13 * 3
    assert count.pack(Kind.EVALUATE, [load]) == forward
    assert count.pack(Kind.TRAIN, [load]) == forward + 4 * 13 * 3


def test_the_lowest_adapter_of_a_pack_sets_where_its_backward_ends() -> None:
    count = _count()
    low = FlopLoad(adapter=count.adapter({"layers.0.q": _target()}), tokens=1, labels=1, squares=1)
    high = FlopLoad(adapter=count.adapter({"layers.1.mlp": _target()}), tokens=1, labels=1, squares=1)
    together = count.pack(Kind.TRAIN, [low, high])
    assert together == 2 * count.pack(Kind.TRAIN, [low])
    assert together > count.pack(Kind.TRAIN, [low]) + count.pack(Kind.TRAIN, [high])
