"""The jobs and the workers that a scheduler owns: who has whom."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from jobs.records import Job, JobState, WorkerStatus
from orchestrator.decision import (
    NewWorker,
)

WITH_A_WORKER = frozenset({JobState.STARTING, JobState.RUNNING, JobState.PAUSED})
"""States in which an attempt is open, and its worker is heard."""


@dataclass
class WorkerRecord:
    """A worker that was started."""

    worker: NewWorker
    status: WorkerStatus | None = None
    ended: str | None = None
    """Why it is no more: `None` while it lives."""
    is_lost: bool = False
    """It has ended, and not on our word."""
    heard: int = 0
    """Number of its last report that was taken in."""
    acknowledged: int = 0
    """The same of the last that it was told to be so."""
    idle_since: float | None = None
    """Since when it has had no job."""


@dataclass(frozen=True, kw_only=True)
class Unpublished:
    """What an attempt has made and left to be published. Its worker is done with it."""

    attempt: int
    staged: str
    """Folder or URI."""
    reason: str
    """Of the worker's report, as the message."""
    message: str

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self | None:
        """As `dataclasses.asdict` has written it; fields of another version are left out, `None` where one is missing:
        what an attempt without a worker has made is looked for where it is (`adoption`)."""
        names = {one.name for one in fields(cls)}
        return cls(**{name: values[name] for name in names}) if names <= values.keys() else None


class Roster:
    """Jobs by id in order of submission, workers by id in order of their start."""

    def __init__(
        self, jobs: Iterable[Job], adopted: Iterable[NewWorker], unpublished: Mapping[str, Unpublished]
    ) -> None:
        self.jobs = {job.id: job for job in jobs}
        self.workers = {worker.id: WorkerRecord(worker) for worker in adopted}
        self.leaving: dict[str, tuple[str, str]] = {}
        """Jobs that their workers were told to hand back, with reason and message."""
        self.suspects: dict[str, int] = {}
        """Jobs that ran when a device was lost → how often they did so alone. They run in packs of their own."""
        self.unpublished = {
            job_id: one
            for job_id, one in unpublished.items()
            if (job := self.jobs.get(job_id)) is not None and job.worker_id is not None and job.attempt == one.attempt
        }
        """By job id. What is of another attempt than the open one is nobody's any more."""

    @property
    def alive(self) -> dict[str, WorkerRecord]:
        """The workers that live."""
        return {worker_id: record for worker_id, record in self.workers.items() if record.ended is None}

    @property
    def trained(self) -> Iterator[Job]:
        """The jobs that a worker has."""
        return (job for job in self.jobs.values() if job.state in WITH_A_WORKER and job.id not in self.unpublished)

    def active(self, worker_id: str) -> list[Job]:
        """The jobs that one worker has."""
        return [job for job in self.trained if job.worker_id == worker_id]
