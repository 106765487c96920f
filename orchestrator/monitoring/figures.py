"""The state of jobs and workers at one moment, frozen, so that a scrape needs nothing of the scheduler's thread."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jobs.intervals import save_interval
from jobs.records import Job, JobState, WorkerCounters, WorkerStatus
from jobs.view import ClusterView, MemoryView
from orchestrator.scheduler import Scheduler

_WINDOW_SECONDS = 30.0
"""Over which rates are taken."""
_EVERY_SECONDS = 2.0
"""Between two times that figures are taken: it walks over all jobs, and nobody scrapes more often."""
_LOST_SECONDS = 600.0
"""For so long a lost worker is shown as down."""

JobCounts = Mapping[tuple[JobState, str], int]
"""Numbers of jobs by state and queue."""


@dataclass(frozen=True, kw_only=True)
class JobFigures:
    """Of a job that a worker has."""

    id: str
    name: str
    step: int
    progress: float | None
    train_loss: float | None
    eval_loss: float | None
    grad_norm: float | None
    unsaved_steps: int
    unsaved_intervals: float


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Of a worker, over the last while."""

    utilization: float | None = None
    flops: float | None = None
    pack_fill: float | None = None


@dataclass(frozen=True, kw_only=True)
class WorkerFigures:
    """Of a worker; of one that was lost, only that it is down."""

    id: str
    is_up: bool
    status: WorkerStatus | None = None
    memory: MemoryView | None = None
    rates: Rates = Rates()


@dataclass(frozen=True, kw_only=True)
class Figures:
    """All of them."""

    jobs: tuple[JobFigures, ...] = ()
    workers: tuple[WorkerFigures, ...] = ()
    oldest_pending_seconds: float = 0.0
    counts: JobCounts | None = None
    """Where nobody else counts them."""
    ticked_unix_seconds: float = 0.0


class Surveyor:
    """Takes figures from a scheduler, in the scheduler's thread."""

    def __init__(
        self,
        grad_norm: Callable[[str], float | None],
        *,
        now: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Begin without a past.

        Args:
            grad_norm: Of a job's last logged step.
            now: Seconds of a clock that never goes back.
            clock: Seconds since the epoch.
        """
        self._grad_norm = grad_norm
        self._now = now
        self._clock = clock
        self._past: dict[str, deque[tuple[float, WorkerStatus]]] = {}
        self._lost_at: dict[str, float] = {}
        """When a worker was first found to be lost."""
        self._taken_at: float | None = None

    @property
    def is_due(self) -> bool:
        """Whether it is time to take figures again."""
        return self._taken_at is None or self._now() - self._taken_at >= _EVERY_SECONDS

    def take(self, scheduler: Scheduler, view: ClusterView | None = None, *, count_jobs: bool = False) -> Figures:
        """Take them now.

        Args:
            scheduler: Between two turns.
            view: For the split of memory.
            count_jobs: Also count its jobs by state.
        """
        self._taken_at = self._now()
        at = oldest = self._clock()
        counts: dict[tuple[JobState, str], int] = {}
        live: list[JobFigures] = []
        for job in scheduler.jobs.values():
            if count_jobs:
                counts[job.state, job.queue] = counts.get((job.state, job.queue), 0) + 1
            if job.state is JobState.PENDING:
                since = job.progress.ledger.waiting_since_unix_seconds
                if since is not None and since < oldest:
                    oldest = since
            elif job.worker_id is not None and not job.state.is_terminal:
                live.append(self._job(job))
        return Figures(
            jobs=tuple(live),
            workers=self._workers(scheduler, view),
            oldest_pending_seconds=at - oldest,
            counts=counts if count_jobs else None,
            ticked_unix_seconds=at,
        )

    def _job(self, job: Job) -> JobFigures:
        progress = job.progress
        unsaved = progress.step - (job.checkpoints[0].step if job.checkpoints else 0)
        return JobFigures(
            id=job.id,
            name=job.spec.name,
            step=progress.step,
            progress=progress.step / progress.total_steps if progress.total_steps else None,
            train_loss=progress.train_loss,
            eval_loss=progress.eval_loss,
            grad_norm=self._grad_norm(job.id),
            unsaved_steps=max(0, unsaved),
            unsaved_intervals=max(0, unsaved) / _save_interval(job),
        )

    def _workers(self, scheduler: Scheduler, view: ClusterView | None) -> tuple[WorkerFigures, ...]:
        memory = {worker.id: worker.memory for worker in view.workers} if view is not None else {}
        found: list[WorkerFigures] = []
        for worker_id, record in scheduler.workers.items():
            if record.ended is not None:
                self._past.pop(worker_id, None)
                if record.is_lost and self._is_lately_lost(worker_id):
                    found.append(WorkerFigures(id=worker_id, is_up=False))
                continue
            rates = self._rates(worker_id, record.status) if record.status is not None else Rates()
            found.append(
                WorkerFigures(id=worker_id, is_up=True, status=record.status, memory=memory.get(worker_id), rates=rates)
            )
        return tuple(found)

    def _is_lately_lost(self, worker_id: str) -> bool:
        return self._now() - self._lost_at.setdefault(worker_id, self._now()) < _LOST_SECONDS

    def _rates(self, worker_id: str, status: WorkerStatus) -> Rates:
        """Since a while ago. By our clock: a worker without work says nothing, and its own stands still."""
        at = self._now()
        past = self._past.setdefault(worker_id, deque())
        past.append((at, status))
        while len(past) > 2 and at - past[1][0] >= _WINDOW_SECONDS:
            past.popleft()
        since, first = past[0]
        wall = at - since
        if wall <= 0:
            return Rates()
        now, before = status.counters, first.counters
        return Rates(
            utilization=min(1.0, (status.busy_seconds - first.busy_seconds) / wall),
            flops=_flops_ratio(now, before, wall),
            pack_fill=_ratio(now.pack_tokens - before.pack_tokens, now.pack_room - before.pack_room),
        )


def _flops_ratio(now: WorkerCounters, before: WorkerCounters, wall: float) -> float | None:
    if not now.matrix_flops_per_second:
        return None
    return (now.flops - before.flops) / wall / now.matrix_flops_per_second


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _save_interval(job: Job) -> float:
    """Steps between two checkpoints of a job, at least 1."""
    training, total = job.spec.training, job.progress.total_steps or 0
    # Where max_steps ends a job, the length of its epochs is not known here.
    epochs = training.num_train_epochs if training.max_steps < 0 else 1.0
    every = save_interval(training, total_steps=total, steps_per_epoch=round(total / epochs))
    return max(1, total if every is None else every)
