"""The scheduler against a scripted cluster: who is told what, and what becomes of jobs when workers go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from jobs.records import Assignment, BaseKey, Event, Job, JobState, LogReport, Report, StateReport, StepReport
from jobs.spec import JobSpec
from orchestrator.clusters import Observation
from orchestrator.placement import Device, NewWorker
from orchestrator.scheduler import Scheduler
from workers.memory import BaseShape, Demand
from workers.preflight import Estimate
from workers.worker import WorkerSettings

GIB = 2**30


class ScriptedCluster:
    """Says what it is told to say, and remembers what it was asked."""

    def __init__(self, num_devices: int = 1) -> None:
        self.calls: list[tuple[str, str, tuple[str, ...]]] = []
        self.settings: list[WorkerSettings] = []
        self.script: list[Observation] = []
        self._num_devices = num_devices

    def devices(self) -> list[Device]:
        return [
            Device(id=f"cpu-{number}", kind="cpu", memory_bytes=8 * GIB, num_cpus=1)
            for number in range(self._num_devices)
        ]

    def start_worker(self, worker: NewWorker, settings: WorkerSettings, jobs: Sequence[Assignment]) -> None:
        self.settings.append(settings)
        self.calls.append(("start", worker.id, tuple(job.job_id for job in jobs)))

    def assign(self, worker_id: str, jobs: Sequence[Assignment]) -> None:
        self.calls.append(("assign", worker_id, tuple(job.job_id for job in jobs)))

    def release(self, worker_id: str, job_id: str) -> None:
        self.calls.append(("release", worker_id, (job_id,)))

    def stop_worker(self, worker_id: str) -> None:
        self.calls.append(("stop", worker_id, ()))

    def poll(self, timeout_seconds: float) -> list[Observation]:
        said, self.script = self.script, []
        return said

    def shutdown(self) -> None:
        self.calls.append(("shutdown", "", ()))

    def says(self, worker_id: str, *reports: Report, error: str | None = None) -> None:
        self.script.append(Observation(worker_id=worker_id, reports=reports, status=None, error=error))


class Recorder:
    def __init__(self) -> None:
        self.events: list[tuple[str, JobState, str]] = []
        self.times: list[float] = []
        self.logs: list[str] = []

    def on_event(self, job: Job, event: Event) -> None:
        self.events.append((job.id, event.state, event.reason))
        self.times.append(event.time_unix_seconds)

    def on_step(self, job: Job, report: StepReport) -> None:
        pass

    def on_evaluation(self, job: Job, report: object) -> None:
        pass

    def on_log(self, job: Job, message: str) -> None:
        self.logs.append(message)


def estimate(base: str) -> Estimate:
    return Estimate(
        base=BaseKey(model_name_or_path=base, revision=None, dtype="float32"),
        base_shape=BaseShape(num_parameters=1000, itemsize=4, vocab_size=10, linear_features=100),
        demand=Demand(adapter_bytes=1000, worst_tokens=10, worst_labels=5),
        trainable_parameters=10,
        train_rows=8,
        eval_rows=0,
        train_tokens=100,
        total_steps=4,
        peak_bytes=10_000,
    )


def scheduler_of(
    cluster: ScriptedCluster, bases: dict[str, str], recorder: Recorder | None = None, *, publish_error: str = ""
) -> Scheduler:
    def publish(job: Job, staged: str) -> str:
        if publish_error:
            raise ValueError(publish_error)
        return f"published/{job.id}"

    jobs = [
        Job(
            id=name,
            spec=JobSpec.model_validate(
                {"name": name, "model": {"model_name_or_path": base}, "datasets": [{"path": "rows.jsonl"}]}
            ),
        )
        for name, base in bases.items()
    ]
    return Scheduler(
        jobs,
        {name: estimate(base) for name, base in bases.items()},
        cluster,
        WorkerSettings(staging_dir=Path("staging")),
        [recorder or Recorder()],
        publish=publish,
        now=lambda: 12.5,
    )


def step(job_id: str, number: int, *, logged: bool = True, loss: float = 1.0) -> StepReport:
    return StepReport(
        job_id=job_id, step=number, total_steps=4, epoch=0.5, loss=loss, learning_rate=0.1, grad_norm=1.0,
        label_tokens=5, tokens=20, seconds=0.25, logged=logged,
    )  # fmt: skip


def state(job_id: str, to: JobState, *, staged: str | None = None) -> StateReport:
    return StateReport(job_id=job_id, state=to, reason="told", message="so", staged_artifact=staged)


def test_all_first_jobs_of_a_worker_are_there_before_its_first_step() -> None:
    cluster = ScriptedCluster()
    scheduler_of(cluster, {"a": "x", "b": "x", "c": "x"}).tick()
    assert cluster.calls == [("start", "w0", ("a", "b", "c"))]
    assert cluster.settings[0].capacity_bytes == 8 * GIB


def test_a_job_lives_from_placed_to_published_and_its_worker_ends_with_the_last() -> None:
    cluster, recorder = ScriptedCluster(), Recorder()
    scheduler = scheduler_of(cluster, {"a": "x"}, recorder)
    scheduler.tick()
    cluster.says("w0", state("a", JobState.RUNNING), step("a", 1), step("a", 2, logged=False, loss=7.0))
    scheduler.tick()
    progress = scheduler.jobs["a"].progress
    assert (progress.step, progress.train_loss, progress.tokens, progress.busy_seconds) == (2, 1.0, 40, 0.5)
    assert not scheduler.is_done
    cluster.says("w0", LogReport(job_id="a", message="line"), state("a", JobState.SUCCEEDED, staged="staging/a"))
    scheduler.tick()
    assert scheduler.is_done
    assert scheduler.jobs["a"].artifact == "published/a"
    assert [kind for _, kind, _ in recorder.events] == [JobState.STARTING, JobState.RUNNING, JobState.SUCCEEDED]
    assert set(recorder.times) == {12.5}
    assert recorder.logs == ["line"]
    assert cluster.calls[-1] == ("stop", "w0", ())


def test_a_worker_that_is_lost_fails_its_jobs_with_its_last_words_and_no_other() -> None:
    cluster = ScriptedCluster(num_devices=2)
    scheduler = scheduler_of(cluster, {"a": "x", "b": "y"})
    scheduler.tick()
    cluster.says("w0", error="ValueError: broken")
    scheduler.tick()
    lost, other = scheduler.jobs.values()
    assert (lost.state, lost.reason, lost.message) == (JobState.FAILED, "worker_lost", "w0: ValueError: broken")
    assert other.state is JobState.STARTING
    assert ("stop", "w0", ()) not in cluster.calls


def test_a_base_without_a_device_waits_for_one_and_gets_it() -> None:
    cluster = ScriptedCluster(num_devices=1)
    scheduler = scheduler_of(cluster, {"a": "x", "b": "y"})
    scheduler.tick()
    assert scheduler.jobs["b"].state is JobState.PENDING
    assert "no free device for y" in scheduler.jobs["b"].message
    cluster.says("w0", state("a", JobState.FAILED))
    scheduler.tick()
    scheduler.tick()
    assert cluster.calls == [("start", "w0", ("a",)), ("stop", "w0", ()), ("start", "w1", ("b",))]


def test_an_artifact_that_cannot_be_published_fails_the_job_with_the_reason() -> None:
    cluster = ScriptedCluster()
    scheduler = scheduler_of(cluster, {"a": "x"}, publish_error="a file is missing")
    scheduler.tick()
    cluster.says("w0", state("a", JobState.RUNNING), state("a", JobState.SUCCEEDED, staged="staging/a"))
    scheduler.tick()
    job = scheduler.jobs["a"]
    assert (job.state, job.reason, job.artifact) == (JobState.FAILED, "publish", None)
    assert "a file is missing" in job.message


def test_cancelling_releases_the_job_once_and_late_reports_change_nothing() -> None:
    cluster = ScriptedCluster()
    scheduler = scheduler_of(cluster, {"a": "x", "b": "x"})
    scheduler.tick()
    scheduler.cancel("a", "enough")
    scheduler.cancel("a", "again")
    assert [call for call in cluster.calls if call[0] == "release"] == [("release", "w0", ("a",))]
    cluster.says("w0", state("a", JobState.RUNNING), step("a", 1))
    scheduler.tick()
    assert scheduler.jobs["a"].state is JobState.CANCELLED
    assert scheduler.jobs["a"].progress.step == 0
    assert [job.id for job in scheduler.neighbours(scheduler.jobs["b"])] == []


def test_neighbours_are_the_live_jobs_of_the_same_worker() -> None:
    cluster = ScriptedCluster(num_devices=2)
    scheduler = scheduler_of(cluster, {"a": "x", "b": "y", "c": "x"})
    scheduler.tick()
    # Two devices, two bases: `a` and `c` share one.
    assert [job.id for job in scheduler.neighbours(scheduler.jobs["a"])] == ["c"]
    assert scheduler.neighbours(scheduler.jobs["b"]) == []


def test_a_state_may_not_be_left_once_it_is_final() -> None:
    cluster = ScriptedCluster()
    scheduler = scheduler_of(cluster, {"a": "x"})
    scheduler.tick()
    cluster.says("w0", state("a", JobState.SUCCEEDED))
    with pytest.raises(AssertionError, match="STARTING -> SUCCEEDED"):
        scheduler.tick()
