"""Where workers live: the interface that the scheduler drives, and its implementations."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from jobs.errors import BaseUnavailableError, DeviceLostError, LoraloomError
from jobs.records import Assignment, Report, WorkerStatus
from orchestrator.decision import (
    NewWorker,
)
from orchestrator.snapshot import (
    Device,
)
from workers.device_errors import is_sticky
from workers.passing import is_memory_taken, is_passing
from workers.settings import WorkerSettings


class End(StrEnum):
    """How a worker ended, which decides what becomes of its jobs."""

    LOST = "lost"
    """Its process died, gave no sign of life within the lease, or lost its device."""
    PREEMPTED = "preempted"
    """It was told to stop and has saved its jobs."""
    RAISED = "raised"
    """An error that no job could be blamed for."""
    UNUSABLE = "unusable"
    """Its base cannot be loaded, and could not be the next time."""
    UNAVAILABLE = "unavailable"
    """Its base could not be loaded just now, for a reason that passes."""


@dataclass(frozen=True, kw_only=True)
class WorkerEnd:
    """A worker is gone. No more will come from it."""

    kind: End
    message: str
    """The last line of its traceback, or how its process ended."""
    suspects: tuple[str, ...] = ()
    """Ids of the jobs that ran when its device was lost: one of them may have done it."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a worker had to say since it was last asked."""

    worker_id: str
    reports: tuple[Report, ...]
    """In order, with ascending numbers. After a restart of the scheduler some may come a second time."""
    status: WorkerStatus | None
    silent_seconds: float = 0.0
    """Since the last sign of life of the thread that trains, while it has something to do."""
    end: WorkerEnd | None = None


@dataclass(frozen=True, kw_only=True)
class AdoptedWorker:
    """A worker that outlived the scheduler that started it."""

    worker: NewWorker
    attempts: Mapping[str, int]
    """By job id: those that it trains, or has ended and nobody has heard of it yet."""


class Cluster(Protocol):
    """A set of devices on which workers can be started. Every call returns at once, `poll` after a stated time."""

    def devices(self) -> list[Device]:
        """All devices, whether a worker lives there or not."""
        ...

    @property
    def is_interruptible(self) -> bool:
        """Whether the calling thread is inside of something long that may be broken off by an exception."""
        ...

    def start_worker(self, worker: NewWorker, settings: WorkerSettings, jobs: Sequence[Assignment]) -> None:
        """Load a base on a device and give it its first jobs, all of them before its first step."""
        ...

    def assign(self, worker_id: str, jobs: Sequence[Assignment]) -> None:
        """Hand more jobs to a worker."""
        ...

    def release(self, worker_id: str, job_id: str) -> None:
        """Take a job from a worker at its next step boundary."""
        ...

    def hand_back(self, worker_id: str, job_id: str) -> None:
        """Let a worker save one job where it stands and drop it; it reports the job PENDING then."""
        ...

    def prioritise(self, worker_id: str, job_id: str, priority: int) -> None:
        """Let a job count for more or less than its neighbours. Without effect on one that is not there."""
        ...

    def preempt(self) -> None:
        """Let every worker save its jobs where they stand and end; `poll` tells when it has."""
        ...

    def poll(self, timeout_seconds: float) -> list[Observation]:
        """Collect what workers reported; wait up to `timeout_seconds` if there is nothing yet."""
        ...

    def acknowledge(self, worker_id: str, number: int) -> None:
        """Reports of a worker up to this number were taken in and written down, and it need not keep them any more.

        For one that has ended this is the last word: its process goes, if there is one.
        """
        ...

    def stop_worker(self, worker_id: str) -> None:
        """End a worker and free its device."""
        ...

    def shutdown(self) -> None:
        """End everything that was started; nothing stays behind. Safe to call twice."""
        ...


class Loads(Protocol):
    """A worker whose base is not there yet."""

    def load(self) -> None:
        """Read the base into memory."""
        ...


def load(worker: Loads) -> None:
    """Let a worker read its base, and say of what goes wrong whether it passes.

    Raises:
        BaseUnavailableError: It does: the hub is busy, the share is away, another process has the device's memory.
        Exception: It does not.
    """
    try:
        worker.load()
    except Exception as error:
        if is_sticky(error):
            raise
        if is_memory_taken(error):
            raise BaseUnavailableError(f"the device has no memory for it now: {last_line(error)}") from error
        if is_passing(error):
            raise BaseUnavailableError(f"the base cannot be had just now: {error}") from error
        raise


def end_of(error: BaseException) -> WorkerEnd:
    """What an error that left a worker says of it. One whose device is lost is no job's fault, as far as is known."""
    suspects: tuple[str, ...] = ()
    match error:
        case DeviceLostError():
            kind, suspects = End.LOST, error.suspects
        case _ if is_sticky(error):
            kind = End.LOST
        case BaseUnavailableError():
            kind = End.UNAVAILABLE
        case LoraloomError():
            kind = End.UNUSABLE
        case _:
            kind = End.RAISED
    return WorkerEnd(kind=kind, message=last_line(error), suspects=suspects)


def last_line(error: BaseException) -> str:
    """Type and message of an error, as a traceback ends."""
    return "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
