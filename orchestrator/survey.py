"""Jobs and workers as the policies see them: the part of a snapshot that is made of what the scheduler knows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.records import BaseKey, Job
from orchestrator.decision import (
    NewWorker,
)
from orchestrator.snapshot import (
    RunningJob,
    RunningWorker,
    WaitingJob,
)
from workers.estimate import Estimate
from workers.memory import MIN_TOKEN_BUDGET, Demand


@dataclass
class _Pace:
    """What training on a base has cost."""

    seconds: float = 0.0
    tokens: int = 0


class Survey:
    """Keeps, beside the jobs themselves, what only policies ask for: when, how fast, how often."""

    def __init__(
        self,
        estimates: Mapping[str, Estimate],
        now: Callable[[], float],
        *,
        whole_jobs: bool,
    ) -> None:
        """Begin with nothing known of speeds.

        Args:
            estimates: By job id; a view that grows.
            now: Seconds of a clock that never goes back.
            whole_jobs: Count all tokens of a job, done or not, so that where it goes does not depend on when it was
                stopped (`PolicySettings.hand_over_at_once`).
        """
        self._estimates = estimates
        self._now = now
        self._whole_jobs = whole_jobs
        self._sequence: dict[str, int] = {}
        self._next_sequence = 0
        self._since: dict[str, float] = {}
        """When a job was submitted."""
        self._latest_since = -math.inf
        self._placed_at: dict[str, float] = {}
        self._saved_at: dict[str, float] = {}
        """Device-seconds of a job at its last checkpoint."""
        self._num_preemptions: dict[str, int] = {}
        self._paces: dict[BaseKey, _Pace] = {}

    def enrol(self, job: Job, *, waited_seconds: float = 0.0) -> None:
        """A job is there. Jobs are ordered by when they were.

        Args:
            job: After all that were submitted before it.
            waited_seconds: Since it was submitted, by a clock that may have been set since: whatever it says, no job is
                older than one that came before it.
        """
        if job.id not in self._sequence:
            self._sequence[job.id] = self._next_sequence
            self._next_sequence += 1
            self._latest_since = max(self._latest_since, self._now() - max(0.0, waited_seconds))
            self._since[job.id] = self._latest_since

    def forget(self, job_id: str) -> None:
        """It has ended."""
        for known in (self._sequence, self._since, self._placed_at, self._saved_at, self._num_preemptions):
            known.pop(job_id, None)

    def placed(self, job: Job) -> None:
        """An attempt begins."""
        self._placed_at[job.id] = self._now()
        self._saved_at[job.id] = job.progress.busy_seconds

    def saved(self, job: Job) -> None:
        """It stands where its newest durable checkpoint does."""
        self._saved_at[job.id] = job.progress.busy_seconds

    def preempted(self, job_id: str) -> None:
        """A job was told to make room."""
        self._num_preemptions[job_id] = self._num_preemptions.get(job_id, 0) + 1

    def stepped(self, job_id: str, seconds: float, tokens: int) -> None:
        """A job has trained on tokens, which cost so many device-seconds."""
        estimate = self._estimates.get(job_id)
        if estimate is not None:
            pace = self._paces.setdefault(estimate.base, _Pace())
            pace.seconds += seconds
            pace.tokens += tokens

    def tokens_left(self, job: Job) -> int:
        """That a job has still to train on, by the mean row."""
        estimate = self._estimates.get(job.id)
        if estimate is None:
            done = job.progress
            left = max(0, (done.total_steps or 0) - done.step)
            return round(done.tokens * left / done.step) if done.step else 0
        if self._whole_jobs or not job.progress.step:
            return estimate.train_tokens
        return round(estimate.train_tokens * max(0, estimate.total_steps - job.progress.step) / estimate.total_steps)

    def waiting(self, job: Job) -> WaitingJob:
        """A job without a worker."""
        estimate = self._estimates[job.id]
        tokens = self.tokens_left(job)
        return WaitingJob(
            id=job.id,
            base=estimate.base,
            base_shape=estimate.base_shape,
            demand=estimate.demand,
            work_tokens=tokens,
            priority=job.priority,
            queue=job.queue,
            sequence=self._sequence[job.id],
            submitted_seconds=self._since[job.id],
            work_seconds=self._seconds(estimate.base, tokens),
        )

    def running(self, job: Job, worker: NewWorker, *, stopping: bool) -> RunningJob:
        """A job with a worker.

        One that an earlier service has placed trains on while it is being looked into again, where what that service
        knew of it cannot be read: until then it is taken to fill its device, and nothing is put beside it.
        """
        estimate = self._estimates.get(job.id)
        unknown = Demand(adapter_bytes=worker.device.memory_bytes, worst_tokens=MIN_TOKEN_BUDGET, worst_labels=1)
        tokens = self.tokens_left(job)
        return RunningJob(
            id=job.id,
            demand=estimate.demand if estimate is not None else unknown,
            tokens_left=tokens,
            priority=job.priority,
            queue=job.queue,
            seconds_left=self._seconds(worker.base, tokens),
            unsaved_seconds=max(0.0, job.progress.busy_seconds - self._saved_at.get(job.id, 0.0)),
            placed_seconds=self._placed_at.get(job.id, 0.0),
            num_preemptions=self._num_preemptions.get(job.id, 0),
            stopping=stopping,
        )

    def worker(
        self, worker: NewWorker, jobs: Iterable[Job], *, leaving: Iterable[str], idle_since: float | None
    ) -> RunningWorker:
        """A worker and its jobs."""
        stopping = set(leaving)
        return RunningWorker(
            id=worker.id,
            device=worker.device,
            base=worker.base,
            jobs=tuple(self.running(job, worker, stopping=job.id in stopping) for job in jobs),
            as_of_seconds=self._now(),
            idle_since_seconds=idle_since,
        )

    def to_json(self) -> dict[str, Any]:
        """What the next scheduler cannot know from the jobs themselves."""
        return {"num_preemptions": dict(self._num_preemptions), "saved_seconds": dict(self._saved_at)}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up what `to_json` gave, of the jobs that are still there."""
        for known, name in ((self._num_preemptions, "num_preemptions"), (self._saved_at, "saved_seconds")):
            known.update({job_id: value for job_id, value in saved.get(name, {}).items() if job_id in self._sequence})

    def _seconds(self, base: BaseKey, tokens: int) -> float:
        """Device-seconds by the speed measured for the base; 0 where none was yet."""
        pace = self._paces.get(base)
        return tokens * pace.seconds / pace.tokens if pace is not None and pace.tokens else 0.0
