"""The scheduler: one loop, the sole owner of job state.

`tick()` follows what owners want (`intent`), places what waits (`placing`) and takes in what workers report (`intake`).
Everything that changes about a job changes here, through `Lives`: in the journal first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from jobs.records import Desired, Job, JobState
from orchestrator.clusters import Cluster
from orchestrator.decision import (
    NewWorker,
)
from orchestrator.intake import Intake
from orchestrator.intent import Intent
from orchestrator.lives import Lives
from orchestrator.placing import Placing
from orchestrator.publications import Publications
from orchestrator.roster import Roster, Unpublished, WorkerRecord
from orchestrator.snapshot import (
    PolicySettings,
    Queue,
)
from orchestrator.survey import Survey
from workers.estimate import Estimate
from workers.settings import WorkerSettings

HAND_OVER = PolicySettings(hand_over_at_once=True)
"""How `loraloom run` places jobs."""


class Scheduler:
    """Places jobs on a cluster and follows them to their ends."""

    def __init__(
        self,
        jobs: Sequence[Job],
        estimates: Mapping[str, Estimate],
        cluster: Cluster,
        settings: WorkerSettings,
        lives: Lives,
        *,
        publish: Callable[[Job, str], str],
        now: Callable[[], float] = time.monotonic,
        adopted: Sequence[NewWorker] = (),
        unpublished: Mapping[str, Unpublished] = MappingProxyType({}),
        num_started: int = 0,
        policy: PolicySettings = HAND_OVER,
        queues: Sequence[Queue] = (),
        memory: Mapping[str, Any] = MappingProxyType({}),
        waited_seconds: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Take over jobs that are PENDING, or that an adopted worker trains.

        Args:
            jobs: In order of submission; all are in the journal.
            estimates: By job id, from preflight.
            cluster: Where workers live; the caller shuts it down.
            settings: For every worker; its memory is set to that of its device.
            lives: Writes down and tells what happens to jobs.
            publish: Makes a staged artifact of a job visible and returns its final path.
            now: Seconds of a clock that never goes back, for delays.
            adopted: Workers of the cluster that an earlier scheduler started and that go on.
            unpublished: Adapters that an earlier scheduler could not publish, by job id.
            num_started: Workers ever started on this journal, so that no id is given twice.
            policy: How jobs are placed.
            queues: Weights and quotas; other queues have a weight of 1 and no quota.
            memory: Of an earlier scheduler.
            waited_seconds: Since jobs were submitted, by id, where that was before now.
        """
        self._estimates = dict(estimates)
        self._cluster = cluster
        self._lives = lives
        self._now = now
        self._roster = Roster(jobs, adopted, unpublished)
        self._survey = Survey(self._estimates, now, whole_jobs=policy.hand_over_at_once)
        for job in jobs:
            self._survey.enrol(job, waited_seconds=waited_seconds.get(job.id, 0.0))
            if job.worker_id is not None:
                self._survey.placed(job)
        self._survey.restore(memory)
        alive = self._roster.alive
        for job in self._roster.trained:
            if job.worker_id in alive:
                # The scheduler before this one may have died before it could say so.
                cluster.prioritise(job.worker_id, job.id, job.priority)
        self.tick_seconds = 0.0
        """That the last turn took, waiting for workers left out."""
        self._intent = Intent(self._roster, cluster, lives)
        publications = Publications(self._roster, lives, publish, now)
        self._intake = Intake(self._roster, cluster, lives, self._survey, publications=publications, now=now)
        self._placing = Placing(
            self._roster,
            self._estimates,
            cluster,
            lives,
            self._survey,
            self._intent,
            settings=settings,
            policy=policy,
            queues=queues,
            now=now,
            num_started=num_started,
            largest_device_bytes=memory.get("largest_device_bytes", 0),
        )
        self._placing.shares.restore(memory.get("fair_shares", {}))

    @property
    def jobs(self) -> Mapping[str, Job]:
        """By id, in order of submission."""
        return self._roster.jobs

    @property
    def workers(self) -> Mapping[str, WorkerRecord]:
        """By id, in order of their start; also those that have ended."""
        return self._roster.workers

    @property
    def num_workers(self) -> int:
        """Of those that live."""
        return len(self._roster.alive)

    @property
    def is_done(self) -> bool:
        """Whether every job has ended."""
        return all(job.state.is_terminal for job in self.jobs.values())

    def tick(self, timeout_seconds: float = 0.0) -> None:
        """One turn. Waits for news at most `timeout_seconds`."""
        began = time.perf_counter()
        self._intake.recover()
        self._intent.follow()
        self._placing.place()
        self._placing.rebalance()
        decided = time.perf_counter()
        observations = self._cluster.poll(timeout_seconds)
        heard = time.perf_counter()
        for observation in observations:
            self._intake.observe(observation)
        self._placing.give_back()
        if self._lives.record_progress(list(self._roster.trained)):
            self._intake.acknowledge()
        self.tick_seconds = decided - began + time.perf_counter() - heard

    def preempt(self, grace_seconds: float, message: str) -> None:
        """Let all workers save their jobs where they stand, and take the jobs back. Nothing is placed any more.

        Args:
            grace_seconds: A worker that takes longer is not waited for; its jobs go on from earlier checkpoints.
            message: Why, for the jobs' events.
        """
        deadline = self._now() + grace_seconds
        self._cluster.preempt()
        # One that was never heard of has not begun, and has nothing to save.
        while any(record.ended is None and record.status is not None for record in self.workers.values()):
            if self._now() >= deadline:
                break
            for observation in self._cluster.poll(0.1):
                self._intake.observe(observation)
        for job in list(self._roster.trained):
            self._lives.end_attempt(job, JobState.PENDING, "preempted", message)

    def add(self, job: Job) -> None:
        """Take over a job that was submitted, or that is tried again after it has ended."""
        self._roster.jobs[job.id] = job
        self._survey.enrol(job)

    def estimate(self, job_id: str) -> Estimate | None:
        """What the job will take, where that is known."""
        return self._estimates.get(job_id)

    def fix_token_budget(self, token_budget: int) -> None:
        """Tokens that packs of workers started from now on may hold."""
        self._placing.settings = replace(self._placing.settings, token_budget=token_budget)

    def checked(self, job_id: str, estimate: Estimate) -> None:
        """What a job will take is known; it can be placed from now on."""
        self._estimates[job_id] = estimate

    def refuse(self, job_id: str, message: str) -> None:
        """A job's base or data cannot be used. Without effect on one that has ended."""
        job = self.jobs.get(job_id)
        if job is not None and not job.state.is_terminal:
            self._lives.change(job, JobState.FAILED, "invalid", message)

    def steer(self, job_id: str, *, desired: Desired, priority: int, queue: str) -> None:
        """What the job's owner wants now; the next turns make it so."""
        job = self.jobs[job_id]
        if (job.priority, job.queue) != (priority, queue) and job_id in self._placing.line:
            self._placing.line.remove(job_id)
        if job.priority != priority and job.worker_id in self._roster.alive and job.id not in self._roster.unpublished:
            self._cluster.prioritise(job.worker_id, job_id, priority)
        job.desired, job.priority, job.queue = desired, priority, queue

    def cancel(self, job_id: str, message: str) -> None:
        """End a job on a person's word. Without effect on one that has ended."""
        self._intent.cancel(self.jobs[job_id], message)

    def forget_ended(self) -> list[Job]:
        """Let go of jobs that have ended; the journal has them."""
        ended = [job for job in self.jobs.values() if job.state.is_terminal]
        for job in ended:
            del self._roster.jobs[job.id]
            self._estimates.pop(job.id, None)
            self._intake.forget(job.id)
            self._roster.leaving.pop(job.id, None)
            self._roster.unpublished.pop(job.id, None)
            self._survey.forget(job.id)
        return ended

    def why(self, job_id: str) -> str | None:
        """Why a job waits; `None` for one that does not, or of which nothing was decided yet."""
        return self._placing.why(self.jobs[job_id])

    @property
    def waiting_ids(self) -> list[str]:
        """Jobs that could be placed if there was room, in no order."""
        return [job.id for job in self._placing.line]

    @property
    def wanted_devices(self) -> int:
        """Devices that the jobs which wait could fill, beside those in use."""
        return self._placing.decision.wanted_devices

    @property
    def memory(self) -> dict[str, Any]:
        """What the next scheduler decides by, as JSON, beside jobs and queues: a restart must not wipe it out."""
        return {
            "fair_shares": self._placing.shares.to_json(),
            "largest_device_bytes": self._placing.largest_device_bytes,
            **self._survey.to_json(),
        }

    @property
    def queue_shares(self) -> tuple[Queue, ...]:
        """All queues that have had anything, with what they had and what was due to them."""
        return self._placing.queue_shares

    def neighbours(self, job: Job) -> list[Job]:
        """Other live jobs on the same worker: who shares its base and its device."""
        if job.worker_id is None or job.state.is_terminal:
            return []
        return [other for other in self._roster.active(job.worker_id) if other.id != job.id]

    def active_jobs(self, worker_id: str) -> list[str]:
        """Ids of the live jobs of a worker."""
        return [job.id for job in self._roster.active(worker_id)]
