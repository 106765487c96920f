"""What jobs are charged on a real worker adds up to its busy time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from jobs.ledger import Usage
from jobs.records import Assignment, StateReport, StepReport
from jobs.spec import JobSpec
from tests.models import make_data, make_spec, make_worker, tiny_gpt2, tiny_llama
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
    assert status.counters.steps == 36
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
