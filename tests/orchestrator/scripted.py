"""A cluster that follows a script, and a scheduler on it: what happens is what the test says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from jobs.errors import StoreUnavailableError
from jobs.records import (
    Assignment,
    BaseKey,
    CheckpointRecord,
    EvalReport,
    Event,
    Job,
    JobState,
    Report,
    ResumeReport,
    StateReport,
    StepReport,
    WorkerStatus,
)
from jobs.spec import JobSpec
from orchestrator.clusters import Observation, WorkerEnd
from orchestrator.decision import (
    NewWorker,
)
from orchestrator.job_files import JobFiles
from orchestrator.journal import Journal, Submission
from orchestrator.lives import Listener, Lives
from orchestrator.scheduler import HAND_OVER, Scheduler
from orchestrator.snapshot import (
    Device,
    PolicySettings,
)
from workers.estimate import Estimate
from workers.memory import BaseShape, Demand
from workers.settings import WorkerSettings

GIB = 2**30


class ScriptedCluster:
    """Says what it is told to say, and remembers what it was asked."""

    def __init__(self, num_devices: int = 1) -> None:
        self.calls: list[tuple[str, str, tuple[str, ...]]] = []
        self.settings: list[WorkerSettings] = []
        self.assigned: list[tuple[Assignment, ...]] = []
        self.acknowledged: list[tuple[str, int]] = []
        self.called_back: list[tuple[str, str]] = []
        self.priorities: list[tuple[str, str, int]] = []
        self.script: list[Observation] = []
        self.num_devices = num_devices
        self.memory_bytes = 8 * GIB

    def devices(self) -> list[Device]:
        return [
            Device(id=f"cpu-{number}", kind="cpu", memory_bytes=self.memory_bytes, num_cpus=1)
            for number in range(self.num_devices)
        ]

    def start_worker(self, worker: NewWorker, settings: WorkerSettings, jobs: Sequence[Assignment]) -> None:
        self.settings.append(settings)
        self.assigned.append(tuple(jobs))
        self.calls.append(("start", worker.id, tuple(job.job_id for job in jobs)))

    def assign(self, worker_id: str, jobs: Sequence[Assignment]) -> None:
        self.calls.append(("assign", worker_id, tuple(job.job_id for job in jobs)))

    @property
    def is_interruptible(self) -> bool:
        return False

    def preempt(self) -> None:
        self.calls.append(("preempt", "", ()))

    def release(self, worker_id: str, job_id: str) -> None:
        self.calls.append(("release", worker_id, (job_id,)))

    def hand_back(self, worker_id: str, job_id: str) -> None:
        self.called_back.append((worker_id, job_id))

    def prioritise(self, worker_id: str, job_id: str, priority: int) -> None:
        self.priorities.append((worker_id, job_id, priority))

    def acknowledge(self, worker_id: str, number: int) -> None:
        self.acknowledged.append((worker_id, number))

    def stop_worker(self, worker_id: str) -> None:
        self.calls.append(("stop", worker_id, ()))

    def poll(self, timeout_seconds: float) -> list[Observation]:
        said, self.script = self.script, []
        return said

    def shutdown(self) -> None:
        self.calls.append(("shutdown", "", ()))

    def says(self, worker_id: str, *reports: Report, end: WorkerEnd | None = None) -> None:
        status = WorkerStatus(worker_id=worker_id, base=estimate("x").base, base_loaded=True, adapters=1, waiting=0)
        self.script.append(Observation(worker_id=worker_id, reports=reports, status=status, end=end))


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

    def on_resume(self, job: Job, report: ResumeReport) -> None:
        self.logs.append(f"resumed at {report.progress.step}")

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


def make_scheduler(
    journal: Journal,
    files: JobFiles,
    cluster: ScriptedCluster,
    bases: dict[str, str],
    recorder: Listener | None = None,
    *,
    publish_error: str = "",
    store: list[str] | None = None,
    max_restarts: int = 0,
    now: Callable[[], float] = lambda: 0.0,
    wall: Callable[[], float] = lambda: 12.5,
    policy: PolicySettings = HAND_OVER,
    priorities: Mapping[str, int] = MappingProxyType({}),
    token_budget: int = WorkerSettings(staging_dir=Path("staging")).token_budget,
) -> Scheduler:
    def publish(job: Job, staged: str) -> str:
        if publish_error:
            raise ValueError(publish_error)
        if store:
            raise StoreUnavailableError(staged, store[-1])
        folder = files.root / "published" / job.id
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text('{"files": {}}')
        return str(folder)

    jobs = [
        Job(
            id=name,
            spec=JobSpec.model_validate(
                {
                    "name": name,
                    "model": {"model_name_or_path": base},
                    "datasets": [{"path": "rows.jsonl"}],
                    "job_recovery": {"max_restarts_on_errors": max_restarts},
                }
            ),
        )
        for name, base in bases.items()
    ]
    for job in jobs:
        job.priority = priorities.get(job.id, 0)
    journal.submit([Submission(job_id=job.id, spec=job.spec) for job in jobs], at=0.0)
    return Scheduler(
        jobs,
        {name: estimate(base) for name, base in bases.items()},
        cluster,
        WorkerSettings(staging_dir=Path("staging"), token_budget=token_budget),
        Lives(journal, files, [recorder or Recorder()], now=wall),
        publish=publish,
        now=now,
        policy=policy,
    )


def step(job_id: str, number: int, *, logged: bool = True, loss: float = 1.0) -> StepReport:
    return StepReport(
        job_id=job_id, step=number, total_steps=4, epoch=0.5, loss=loss, learning_rate=0.1, grad_norm=1.0,
        label_tokens=5, tokens=20, seconds=0.25, logged=logged,
    )  # fmt: skip


def evaluation(job_id: str, number: int) -> EvalReport:
    return EvalReport(
        job_id=job_id, step=number, epoch=0.5, loss=1.0, exact_match=0.0, rows=2, label_tokens=5, seconds=1.0
    )


def state(job_id: str, to: JobState, *, staged: str | None = None) -> StateReport:
    return StateReport(job_id=job_id, state=to, reason="told", message="so", staged_artifact=staged)


def record_of(job_id: str, number: int, *, attempt: int = 1) -> CheckpointRecord:
    return CheckpointRecord(
        job_id=job_id, attempt=attempt, step=number, micro_batch=0, folder=f"step-{number}-a{attempt}",
        manifest_sha256="0" * 64, size_bytes=1,
    )  # fmt: skip
