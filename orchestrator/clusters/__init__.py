"""Where workers live: the interface that the scheduler drives, and its implementations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from jobs.records import Assignment, Report, WorkerStatus
from orchestrator.placement import Device, NewWorker
from workers.worker import WorkerSettings


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a worker had to say since it was last asked."""

    worker_id: str
    reports: tuple[Report, ...]
    status: WorkerStatus | None
    error: str | None = None
    """Why the worker is gone: the last line of its traceback, or how its process ended. No more will come from it."""


class Cluster(Protocol):
    """A set of devices on which workers can be started. Every call returns at once, `poll` after a stated time."""

    def devices(self) -> list[Device]:
        """All devices, whether a worker lives there or not."""
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

    def poll(self, timeout_seconds: float) -> list[Observation]:
        """Collect what workers reported; wait up to `timeout_seconds` if there is nothing yet."""
        ...

    def stop_worker(self, worker_id: str) -> None:
        """End a worker and free its device."""
        ...

    def shutdown(self) -> None:
        """End everything that was started; nothing stays behind. Safe to call twice."""
        ...
