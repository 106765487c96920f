"""What a worker tells is kept until it is written down, by whoever asks, and does not fill the memory meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from jobs.records import (
    Assignment,
    BaseKey,
    CheckpointRecord,
    CheckpointReport,
    EvalReport,
    Job,
    JobProgress,
    JobState,
    LogReport,
    Report,
    ResumeReport,
    StateReport,
    StepReport,
    WorkerStatus,
)
from jobs.spec import JobSpec
from orchestrator.clusters import End
from orchestrator.clusters.outbox import Outbox
from orchestrator.clusters.worker_loop import WorkerLoop
from orchestrator.output_directory import OutputDirectory
from workers.worker import Worker

SPEC = JobSpec.model_validate({"name": "a", "model": {"model_name_or_path": "x"}, "datasets": [{"path": "rows.jsonl"}]})


def step(number: int, *, job_id: str = "a", logged: bool = False, skipped: bool = False) -> StepReport:
    return StepReport(
        job_id=job_id, step=number, total_steps=10**6, epoch=0.5, loss=float(number), learning_rate=0.1, grad_norm=1.0,
        label_tokens=5, tokens=20, seconds=0.25, logged=logged, skipped=skipped,
    )  # fmt: skip


def evaluation(number: int) -> EvalReport:
    return EvalReport(
        job_id="a", step=number, epoch=0.5, loss=1.0, exact_match=0.0, rows=2, label_tokens=5, seconds=1.0
    )


def state(to: JobState, *, job_id: str = "a", reason: str = "told") -> StateReport:
    return StateReport(job_id=job_id, state=to, reason=reason, message="so")


def checkpoint(number: int) -> CheckpointReport:
    record = CheckpointRecord(
        job_id="a", attempt=1, step=number, micro_batch=0, folder=f"step-{number}", manifest_sha256="0", size_bytes=1
    )
    return CheckpointReport(record=record)


def test_reports_are_told_again_until_they_are_acknowledged() -> None:
    outbox = Outbox()
    outbox.add([step(1), step(2)])
    outbox.add([step(3)])
    assert [report.number for report in outbox.after(0)] == [1, 2, 3]
    assert [report.number for report in outbox.after(2)] == [3]
    assert not outbox.has_after(3)
    assert [report.number for report in outbox.acknowledge(2)] == [1, 2]
    assert [report.number for report in outbox.after(0)] == [3]
    outbox.acknowledge(3)
    outbox.add([step(4)])
    # Numbers are never given twice, however empty it has become.
    assert [report.number for report in outbox.after(0)] == [4]


def test_hours_without_a_scheduler_keep_the_memory_bounded_and_the_sums_right() -> None:
    outbox, most = Outbox(most_kept=400), 400
    outbox.add([state(JobState.RUNNING)])
    largest = 0
    for number in range(1, 20_001):
        outbox.add([step(number, logged=number == 1 or number % 10 == 0)])
        outbox.add([evaluation(number)] if number % 100 == 0 else [])
        outbox.add([checkpoint(number)] if number % 1000 == 0 else [])
        outbox.add([LogReport(job_id="a", message=f"line {number}")] if number % 7 == 0 else [])
        if number % 500 == 0:
            outbox.add([state(JobState.PAUSED), state(JobState.RUNNING)])
        largest = max(largest, len(outbox))
    assert largest <= most + 5
    outbox.add([state(JobState.SUCCEEDED)])
    kept = all_of(outbox)
    steps = [report for report in kept if isinstance(report, StepReport)]
    assert sum(report.tokens for report in steps) == 20 * 20_000
    assert sum(report.label_tokens for report in steps) == 5 * 20_000
    assert sum(report.seconds for report in steps) == 0.25 * 20_000
    assert [report.step for report in steps] == sorted({report.step for report in steps})
    assert steps[-1].step == 20_000
    assert steps[0].step == 1
    assert steps[0].logged
    assert sum(report.logged for report in steps) >= 20
    evaluations = [report for report in kept if isinstance(report, EvalReport)]
    assert sum(report.seconds for report in evaluations) == 200
    assert evaluations[-1].step == 20_000
    # Nothing that a decision hangs on is gone: all checkpoints, and every state that still says something.
    assert [one.record.step for one in kept if isinstance(one, CheckpointReport)] == list(range(1000, 20_001, 1000))
    states = [one.state for one in kept if isinstance(one, StateReport)]
    assert states[0] is JobState.RUNNING
    assert states[-1] is JobState.SUCCEEDED
    assert [one.message for one in kept if isinstance(one, LogReport)][-1] == "line 19999"
    assert [one.number for one in kept] == sorted(one.number for one in kept)


def all_of(outbox: Outbox) -> list[Report]:
    """What a scheduler that comes back hears."""
    heard: list[Report] = []
    while reports := outbox.after(heard[-1].number if heard else 0):
        heard += reports
        outbox.acknowledge(heard[-1].number)
    return heard


def test_what_was_handed_out_is_not_changed_and_no_more_goes_out_than_is_kept() -> None:
    outbox = Outbox(most_kept=10)
    outbox.add(step(number) for number in range(1, 9))
    before = outbox.after(0)
    assert len(before) == 8
    outbox.add(step(number) for number in range(9, 100))
    # Those 8 may have been taken in: were one of them merged into a later one, it would count twice.
    assert outbox.after(0)[:8] == before
    assert len(outbox.after(0)) <= 10
    heard = all_of(outbox)
    assert sum(report.tokens for report in heard if isinstance(report, StepReport)) == 20 * 99


def test_skipped_steps_and_jobs_are_not_mixed_up() -> None:
    outbox = Outbox(most_kept=20)
    for number in range(1, 16):
        outbox.add([step(number, skipped=number == 5), step(number, job_id="b")])
    kept = all_of(outbox)
    of_a = [report for report in kept if isinstance(report, StepReport) and report.job_id == "a"]
    assert 5 in {report.step for report in of_a if report.skipped}
    for job_id in ("a", "b"):
        assert sum(one.tokens for one in kept if isinstance(one, StepReport) and one.job_id == job_id) == 20 * 15


class FakeWorker:
    """Takes a step whenever it is told to."""

    is_preparing = False
    silent_seconds = 0.0

    def __init__(self) -> None:
        self.script: list[Sequence[Report]] = []
        self.assigned: list[Assignment] = []
        self.released: list[str] = []

    @property
    def is_idle(self) -> bool:
        return not self.script

    def load(self) -> None: ...

    def assign(self, assignments: Sequence[Assignment]) -> None:
        self.assigned += assignments

    def release(self, job_id: str) -> None:
        self.released.append(job_id)

    def step(self) -> Sequence[Report]:
        return self.script.pop(0)

    def preempt(self) -> Sequence[Report]:
        return [checkpoint(9)]

    def status(self) -> WorkerStatus:
        base = BaseKey(model_name_or_path="x", revision=None, dtype="float32")
        return WorkerStatus(worker_id="w0", base=base, base_loaded=True, adapters=1, waiting=0)


def loop_of(worker: FakeWorker, *jobs: str) -> WorkerLoop:
    build: Callable[[], Worker] = lambda: cast(Worker, worker)  # noqa: E731
    return WorkerLoop("w0", build, [Assignment(job_id=job_id, spec=SPEC, attempt=3) for job_id in jobs])


def until(happened: Callable[[], Any]) -> Any:
    for _ in range(1000):
        if found := happened():
            return found
        time.sleep(0.01)
    return pytest.fail("never happened")


def test_a_worker_tells_the_next_scheduler_what_the_one_before_did_not_confirm() -> None:
    worker = FakeWorker()
    worker.script = [[state(JobState.RUNNING)], [step(1), step(2)]]
    loop = loop_of(worker, "a", "b")
    loop.start()
    first = until(lambda: reports if len(reports := loop.observe(1.0).reports) == 3 else None)
    # Asked by one who has them, it waits for more; asked by one who has not, it tells them again.
    assert loop.observe(0.0, after=3).reports == ()
    assert loop.observe(0.0).reports == first
    assert [report.number for report in loop.observe(0.0, acknowledged=1).reports] == [2, 3]
    assert loop.observe(0.0, acknowledged=3).reports == ()


def test_a_worker_has_the_word_for_a_job_until_its_end_is_confirmed() -> None:
    worker = FakeWorker()
    done = [
        replace(state(JobState.SUCCEEDED, job_id=job_id), attempt=attempt) for job_id, attempt in (("a", 3), ("b", 2))
    ]
    worker.script = [done]
    loop = loop_of(worker, "a", "b", "c")
    loop.start()
    until(lambda: len(loop.observe(1.0).reports) == 2)
    assert loop.attempts == {"a": 3, "b": 3, "c": 3}
    loop.observe(0.0, acknowledged=2)
    # What ended of b was an attempt before the one that it has now.
    assert loop.attempts == {"b": 3, "c": 3}
    loop.release("c")
    assert loop.attempts == {"b": 3}


def test_a_job_that_is_released_before_it_was_taken_in_is_never_taken_in() -> None:
    worker = FakeWorker()
    loop = loop_of(worker)
    loop.assign([Assignment(job_id="a", spec=SPEC)])
    loop.release("a")
    loop.assign([Assignment(job_id="b", spec=SPEC)])
    loop.start()
    until(lambda: worker.assigned)
    assert [one.job_id for one in worker.assigned] == ["b"]
    assert worker.released == ["a"]


def test_the_end_of_a_worker_comes_with_its_last_report_and_not_before() -> None:
    worker = FakeWorker()
    worker.script = [[step(number) for number in range(1, 8)]]
    build: Callable[[], Worker] = lambda: cast(Worker, worker)  # noqa: E731
    loop = WorkerLoop("w0", build, [Assignment(job_id="a", spec=SPEC)], outbox=Outbox(most_kept=4))
    loop.start()
    until(lambda: loop.observe(1.0).reports)
    loop.preempt("told to stop")
    heard, ends, after = [], [], 0
    while not ends or ends[-1] is None:
        observation = loop.observe(0.0, acknowledged=after)
        heard += observation.reports
        after = heard[-1].number
        ends.append(observation.end)
    assert sum(report.tokens for report in heard if isinstance(report, StepReport)) == 20 * 7
    assert isinstance(heard[-1], CheckpointReport)
    assert ends[-1].kind is End.PREEMPTED


def test_a_history_on_disk_has_each_step_once_whoever_writes_it(tmp_path: Path) -> None:
    job = Job(id="a", spec=SPEC)
    first = OutputDirectory(tmp_path)
    for report in (step(1, logged=True), step(2, logged=True)):
        first.on_step(job, report)
    first.on_evaluation(job, evaluation(2))
    path = first.metrics / "a.jsonl"
    whole = path.read_text()
    # Killed in the middle of a line.
    path.write_text(whole + '{"step": 3, "lo')
    later = OutputDirectory(tmp_path)
    for number in (1, 2, 3):
        later.on_step(job, step(number, logged=True))
    later.on_evaluation(job, evaluation(2))
    assert path.read_text().startswith(whole)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 2, 3]
    resumed = ResumeReport(job_id="a", record=None, progress=JobProgress(step=1), evaluated_at=-1)
    later.on_resume(job, resumed)
    later.on_step(job, step(2, logged=True))
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]
