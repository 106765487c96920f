"""The jobs and the workers that a scheduler owns: who has whom."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from jobs.records import Job, JobState, WorkerStatus
from orchestrator.snapshot import NewWorker

WITH_A_WORKER = frozenset({JobState.STARTING, JobState.RUNNING, JobState.PAUSED})
"""States in which an attempt is open, and its worker is heard."""


@dataclass
class WorkerRecord:
    """A worker that was started."""

    worker: NewWorker
    status: WorkerStatus | None = None
    ended: str | None = None
    """Why it is no more: `None` while it lives."""
    heard: int = 0
    """Number of its last report that was taken in."""
    acknowledged: int = 0
    """The same of the last that it was told to be so."""
    idle_since: float | None = None
    """Since when it has had no job."""


class Roster:
    """Jobs by id in order of submission, workers by id in order of their start."""

    def __init__(self, jobs: Iterable[Job], adopted: Iterable[NewWorker]) -> None:
        self.jobs = {job.id: job for job in jobs}
        self.workers = {worker.id: WorkerRecord(worker) for worker in adopted}
        self.leaving: dict[str, tuple[str, str]] = {}
        """Jobs that their workers were told to hand back, with reason and message."""

    @property
    def alive(self) -> dict[str, WorkerRecord]:
        """The workers that live."""
        return {worker_id: record for worker_id, record in self.workers.items() if record.ended is None}

    @property
    def trained(self) -> Iterator[Job]:
        """The jobs that a worker has."""
        return (job for job in self.jobs.values() if job.state in WITH_A_WORKER)

    def active(self, worker_id: str) -> list[Job]:
        """The jobs that one worker has."""
        return [job for job in self.trained if job.worker_id == worker_id]
