"""What jobs are charged adds up to their worker's busy time; what they would take alone is read off its packs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from jobs.ledger import Usage
from jobs.records import Assignment, StateReport, StepReport
from jobs.spec import JobSpec
from tests.models import make_data, make_spec, make_worker, tiny_gpt2, tiny_llama
from workers.batcher import Kind
from workers.flops import FlopCount, FlopLoad
from workers.pack_times import PackTimes
from workers.targets import LinearShape, Target
from workers.usage import Accounts, Ran
from workers.worker import Worker


def assign(worker: Worker, specs: Sequence[JobSpec]) -> None:
    worker.assign([Assignment(job_id=spec.name, spec=spec) for spec in specs])


def test_the_sum_over_jobs_is_the_workers_busy_time(tmp_path: Path) -> None:
    sizes = {"small": [3, 4, 5, 6], "large": [20, 30, 25, 28], "late": [9, 9, 9]}
    data = {name: make_data(index, lengths, held_out=[5, 6]) for index, (name, lengths) in enumerate(sizes.items())}
    worker = make_worker(tiny_llama(), data, tmp_path)
    specs = [make_spec(name, training={"max_steps": 12, "per_device_train_batch_size": 2}) for name in sizes]
    assign(worker, specs[:2])
    last: dict[str, Usage] = {}
    steps: dict[str, int] = {}
    while not worker.is_idle:
        for report in worker.step():
            if isinstance(report, StepReport | StateReport) and report.usage is not None:
                last[report.job_id] = report.usage
            if isinstance(report, StepReport):
                steps[report.job_id] = steps.get(report.job_id, 0) + report.tokens
        if "late" not in steps and steps.get("small", 0) > 40:
            steps["late"] = 0
            assign(worker, specs[2:])
    assert set(last) == set(sizes)
    assert {name: usage.tokens for name, usage in last.items()} == steps
    status = worker.status()
    assert sum(usage.device_seconds for usage in last.values()) == pytest.approx(status.busy_seconds, rel=0.01)
    assert sum(usage.tokens for usage in last.values()) == status.tokens
    assert sum(usage.label_tokens for usage in last.values()) == status.counters.label_tokens
    assert last["large"].device_seconds > last["small"].device_seconds
    assert all(usage.round_seconds >= usage.device_seconds / 2 for usage in last.values())
    assert status.counters.steps == 36
    assert sum(status.counters.pack_counts) == status.counters.packs
    assert 0 < status.counters.pack_tokens <= status.counters.pack_room
    assert status.counters.flops > 0
    assert status.counters.matrix_flops_per_second > 1e6
    assert status.counters.padding_tokens == 0


def test_padding_is_counted_where_a_base_needs_it(tmp_path: Path) -> None:
    """Two rows of 4 and 9 tokens side by side are 5 positions for nothing."""
    data = {"a": make_data(0, [4, 9])}
    worker = make_worker(tiny_gpt2(), data, tmp_path, layout="padded", num_lanes=1)
    assign(worker, [make_spec("a", training={"max_steps": 3, "per_device_train_batch_size": 2})])
    reports = [report for _ in range(6) for report in worker.step()]
    [ended] = [report for report in reports if isinstance(report, StateReport) and report.state.is_terminal]
    assert ended.usage is not None
    assert (ended.usage.tokens, ended.usage.padding_tokens) == (39, 15)
    assert worker.status().counters.padding_tokens == 15


def test_time_is_shared_by_tokens_and_nothing_is_charged_twice() -> None:
    clock = iter([0.0, 10.0, 14.0, 15.0, 18.0])
    accounts = Accounts(now=lambda: next(clock))
    accounts.start()
    assert accounts.charge({"a": 1, "b": 3}) == 4.0
    assert accounts.charge({"b": 5}) == 1.0
    assert accounts.charge({"a": 2, "c": 4}) == 3.0
    seconds = {job_id: accounts.usage(job_id).device_seconds for job_id in "abc"}
    assert seconds == {"a": 2.0, "b": 4.0, "c": 2.0}
    accounts.begin("a")
    assert accounts.usage("a") == Usage()


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
        f"layers.{layer}.{name}": LinearShape(in_features=2, out_features=3 if name != "mlp" else 5)
        for layer in range(2)
        for name in ("q", "k", "o", "mlp")
    }
    groups = [(f"layers.{layer}.q", f"layers.{layer}.k") for layer in range(2)]
    return FlopCount(shapes, groups, vocab_size=11, width=2, attention_width=4, num_layers=2)


def _target() -> Target:
    return Target(in_features=2, out_features=3, r=1, alpha=1.0, scale=1.0)


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


def test_the_lowest_adapter_of_a_pack_sets_where_its_backward_ends() -> None:
    count = _count()
    low = FlopLoad(adapter=count.adapter({"layers.0.q": _target()}), tokens=1, labels=1, squares=1)
    high = FlopLoad(adapter=count.adapter({"layers.1.mlp": _target()}), tokens=1, labels=1, squares=1)
    together = count.pack(Kind.TRAIN, [low, high])
    assert together == 2 * count.pack(Kind.TRAIN, [low])
    assert together > count.pack(Kind.TRAIN, [low]) + count.pack(Kind.TRAIN, [high])
