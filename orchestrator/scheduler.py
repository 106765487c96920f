"""The scheduler: one loop, the sole owner of job state.

`tick()` decides (the placement policy), executes, and observes (what did workers report). Everything that changes about
a job changes here and is told to the listeners.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from jobs.records import (
    ALLOWED_TRANSITIONS,
    Assignment,
    BaseKey,
    EvalReport,
    Event,
    Job,
    JobState,
    LogReport,
    Report,
    StateReport,
    StepReport,
    WorkerStatus,
)
from orchestrator.clusters import Cluster, Observation
from orchestrator.placement import NewWorker, RunningWorker, Snapshot, WaitingJob, decide
from workers.preflight import Estimate
from workers.worker import WorkerSettings


class Listener(Protocol):
    """Who wants to know: the files on disk and the table on the screen."""

    def on_event(self, job: Job, event: Event) -> None:
        """A job changed state."""
        ...

    def on_step(self, job: Job, report: StepReport) -> None:
        """A job took an optimizer step."""
        ...

    def on_evaluation(self, job: Job, report: EvalReport) -> None:
        """A job was evaluated."""
        ...

    def on_log(self, job: Job, message: str) -> None:
        """Something that a job's owner should know."""
        ...


@dataclass
class WorkerRecord:
    """A worker that was started."""

    worker: NewWorker
    job_ids: list[str]
    status: WorkerStatus | None = None
    ended: str | None = None
    """Why it is no more: `None` while it lives."""


class Scheduler:
    """Places jobs on a cluster and follows them to their ends."""

    def __init__(
        self,
        jobs: Sequence[Job],
        estimates: Mapping[str, Estimate],
        cluster: Cluster,
        settings: WorkerSettings,
        listeners: Sequence[Listener],
        *,
        publish: Callable[[Job, str], str],
        now: Callable[[], float] = time.time,
    ) -> None:
        """Take over jobs that are PENDING.

        Args:
            jobs: In order of submission.
            estimates: By job id, from preflight.
            cluster: Where workers live; the caller shuts it down.
            settings: For every worker; its memory is set to that of its device.
            listeners: Told of every change.
            publish: Makes a staged artifact of a job visible and returns its final path.
            now: Seconds since the epoch, for events.
        """
        self.jobs = {job.id: job for job in jobs}
        self.workers: dict[str, WorkerRecord] = {}
        self._sequence = {job.id: number for number, job in enumerate(jobs)}
        self._estimates = estimates
        self._cluster = cluster
        self._settings = settings
        self._listeners = list(listeners)
        self._publish = publish
        self._now = now
        self._num_events = 0

    @property
    def is_done(self) -> bool:
        """Whether every job has ended."""
        return all(job.state.is_terminal for job in self.jobs.values())

    def tick(self, timeout_seconds: float = 0.0) -> None:
        """One turn. Waits for news at most `timeout_seconds`."""
        self._place()
        for observation in self._cluster.poll(timeout_seconds):
            self._observe(observation)
        for worker_id, record in self.workers.items():
            if record.ended is None and not self._active(record) and self._no_more_for(record.worker.base):
                self._stop(worker_id, "no job left for its base")

    def cancel(self, job_id: str, message: str) -> None:
        """End a job on a person's word. Without effect on one that has ended."""
        job = self.jobs[job_id]
        if job.state.is_terminal:
            return
        if job.worker_id is not None and self.workers[job.worker_id].ended is None:
            self._cluster.release(job.worker_id, job_id)
        self._change(job, JobState.CANCELLED, "cancelled", message)

    def neighbours(self, job: Job) -> list[Job]:
        """Other live jobs on the same worker: who shares its base and its device."""
        record = self.workers.get(job.worker_id or "")
        if record is None or job.state.is_terminal:
            return []
        return [other for other in self._active(record) if other.id != job.id]

    def active_jobs(self, worker_id: str) -> list[str]:
        """Ids of the live jobs of a worker."""
        return [job.id for job in self._active(self.workers[worker_id])]

    def _place(self) -> None:
        waiting = [job for job in self.jobs.values() if job.state is JobState.PENDING]
        if not waiting:
            return
        alive = {worker_id: record for worker_id, record in self.workers.items() if record.ended is None}
        taken = {record.worker.device.id for record in alive.values()}
        decision = decide(
            Snapshot(
                waiting=tuple(self._waiting_job(job) for job in waiting),
                workers=tuple(self._running_worker(record) for record in alive.values()),
                free_devices=tuple(device for device in self._cluster.devices() if device.id not in taken),
                num_started=len(self.workers),
                token_budget=self._settings.token_budget,
            )
        )
        for job_id, message in decision.impossible:
            self._change(self.jobs[job_id], JobState.FAILED, "memory", message)
        for job_id, message in decision.waiting:
            self.jobs[job_id].message = message
        assignments: dict[str, list[Assignment]] = {new.id: [] for new in decision.new_workers}
        for new in decision.new_workers:
            self.workers[new.id] = WorkerRecord(new, [])
        for placement in decision.placements:
            job = self.jobs[placement.job_id]
            job.worker_id = placement.worker_id
            job.progress = replace(job.progress, total_steps=self._estimates[job.id].total_steps)
            self.workers[placement.worker_id].job_ids.append(job.id)
            self._change(job, JobState.STARTING, "placed", placement.reason)
            assignments.setdefault(placement.worker_id, []).append(Assignment(job_id=job.id, spec=job.spec))
        for new in decision.new_workers:
            settings = replace(self._settings, capacity_bytes=new.device.memory_bytes)
            self._cluster.start_worker(new, settings, assignments.pop(new.id))
        for worker_id, more in assignments.items():
            self._cluster.assign(worker_id, more)
        for worker_id in decision.retired:
            self._stop(worker_id, "its device is needed for another base")

    def _waiting_job(self, job: Job) -> WaitingJob:
        estimate = self._estimates[job.id]
        return WaitingJob(
            id=job.id,
            base=estimate.base,
            base_shape=estimate.base_shape,
            demand=estimate.demand,
            work_tokens=estimate.train_tokens,
            priority=job.spec.scheduling.priority,
            sequence=self._sequence[job.id],
        )

    def _running_worker(self, record: WorkerRecord) -> RunningWorker:
        estimates = [self._estimates[job.id] for job in self._active(record)]
        return RunningWorker(
            id=record.worker.id,
            device=record.worker.device,
            base=record.worker.base,
            demands=tuple(estimate.demand for estimate in estimates),
            work_tokens=sum(estimate.train_tokens for estimate in estimates),
        )

    def _active(self, record: WorkerRecord) -> list[Job]:
        return [self.jobs[job_id] for job_id in record.job_ids if not self.jobs[job_id].state.is_terminal]

    def _no_more_for(self, base: BaseKey) -> bool:
        return not any(
            job.state is JobState.PENDING and self._estimates[job.id].base == base for job in self.jobs.values()
        )

    def _stop(self, worker_id: str, reason: str) -> None:
        self._cluster.stop_worker(worker_id)
        self.workers[worker_id].ended = reason

    def _observe(self, observation: Observation) -> None:
        record = self.workers[observation.worker_id]
        if observation.status is not None:
            record.status = observation.status
        for report in observation.reports:
            job = self.jobs[report.job_id]
            if job.state.is_terminal:
                continue
            self._take_in(job, report)
        if observation.error is not None:
            record.ended = observation.error
            for job in self._active(record):
                self._change(job, JobState.FAILED, "worker_lost", f"{record.worker.id}: {observation.error}")

    def _take_in(self, job: Job, report: Report) -> None:
        match report:
            case StepReport():
                job.progress = replace(
                    job.progress,
                    step=report.step,
                    total_steps=report.total_steps,
                    epoch=report.epoch,
                    train_loss=report.loss if report.logged else job.progress.train_loss,
                    tokens=job.progress.tokens + report.tokens,
                    busy_seconds=job.progress.busy_seconds + report.seconds,
                )
                for listener in self._listeners:
                    listener.on_step(job, report)
            case EvalReport():
                job.progress = replace(
                    job.progress,
                    eval_loss=report.loss,
                    eval_exact_match=report.exact_match,
                    busy_seconds=job.progress.busy_seconds + report.seconds,
                )
                for listener in self._listeners:
                    listener.on_evaluation(job, report)
            case LogReport():
                for listener in self._listeners:
                    listener.on_log(job, report.message)
            case StateReport():
                self._state_report(job, report)

    def _state_report(self, job: Job, report: StateReport) -> None:
        if report.staged_artifact is None:
            self._change(job, report.state, report.reason, report.message)
            return
        try:
            job.artifact = self._publish(job, report.staged_artifact)
        except (OSError, ValueError) as error:
            self._change(job, JobState.FAILED, "publish", f"the artifact could not be published: {error}")
            return
        self._change(job, report.state, report.reason, f"{report.message}; artifact in {job.artifact}")

    def _change(self, job: Job, state: JobState, reason: str, message: str) -> None:
        assert state in ALLOWED_TRANSITIONS[job.state], f"{job.id}: {job.state} -> {state}"
        job.state, job.reason, job.message = state, reason, message
        event = Event(
            sequence=self._num_events,
            time_unix_seconds=self._now(),
            job_id=job.id,
            state=state,
            reason=reason,
            message=message,
        )
        self._num_events += 1
        for listener in self._listeners:
            listener.on_event(job, event)
