"""The scheduler: one loop, the sole owner of job state.

`tick()` decides (the placement policy), executes, and observes (what did workers report). Everything that changes about
a job changes here, through `Lives`: in the journal first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from jobs.errors import StoreError
from jobs.records import (
    Assignment,
    BaseKey,
    CheckpointReport,
    EvalReport,
    Job,
    JobState,
    LogReport,
    Report,
    ResumeReport,
    StateReport,
    StepReport,
    WorkerStatus,
)
from orchestrator import retries
from orchestrator.clusters import Cluster, End, Observation, WorkerEnd
from orchestrator.lives import Lives
from orchestrator.placement import NewWorker, RunningWorker, Snapshot, WaitingJob, decide
from orchestrator.snapshot import PolicySettings, RunningJob
from workers.estimate import Estimate
from workers.settings import WorkerSettings

_WITH_A_WORKER = frozenset({JobState.STARTING, JobState.RUNNING, JobState.PAUSED})
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
        num_started: int = 0,
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
            num_started: Workers ever started on this journal, so that no id is given twice.
        """
        self.jobs = {job.id: job for job in jobs}
        self.workers: dict[str, WorkerRecord] = {worker.id: WorkerRecord(worker) for worker in adopted}
        self._num_started = num_started
        self._sequence = {job.id: number for number, job in enumerate(jobs)}
        self._estimates = estimates
        self._cluster = cluster
        self._settings = settings
        self._lives = lives
        self._publish = publish
        self._now = now
        self._not_before: dict[str, float] = {}
        """When RECOVERING jobs may be placed again."""
        self._num_fruitless: dict[str, int] = {}
        """Workers that a job has lost in a row without taking a step."""

    @property
    def is_done(self) -> bool:
        """Whether every job has ended."""
        return all(job.state.is_terminal for job in self.jobs.values())

    def tick(self, timeout_seconds: float = 0.0) -> None:
        """One turn. Waits for news at most `timeout_seconds`."""
        self._recover()
        self._place()
        for observation in self._cluster.poll(timeout_seconds):
            self._observe(observation)
        for worker_id, record in self.workers.items():
            if record.ended is None and not self._active(record) and self._no_more_for(record.worker.base):
                self._stop(worker_id, "no job left for its base")
        if self._lives.record_progress([job for job in self.jobs.values() if job.state in _WITH_A_WORKER]):
            self._acknowledge()

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
                self._observe(observation)
        for job in self.jobs.values():
            if job.state in _WITH_A_WORKER:
                self._lives.end_attempt(job, JobState.PENDING, "preempted", message)

    def cancel(self, job_id: str, message: str) -> None:
        """End a job on a person's word. Without effect on one that has ended."""
        job = self.jobs[job_id]
        if job.state.is_terminal:
            return
        if job.worker_id is not None and self.workers[job.worker_id].ended is None:
            self._cluster.release(job.worker_id, job_id)
        self._lives.change(job, JobState.CANCELLED, "cancelled", message)

    def neighbours(self, job: Job) -> list[Job]:
        """Other live jobs on the same worker: who shares its base and its device."""
        record = self.workers.get(job.worker_id or "")
        if record is None or job.state.is_terminal:
            return []
        return [other for other in self._active(record) if other.id != job.id]

    def active_jobs(self, worker_id: str) -> list[str]:
        """Ids of the live jobs of a worker."""
        return [job.id for job in self._active(self.workers[worker_id])]

    def _recover(self) -> None:
        for job in self.jobs.values():
            if job.state is JobState.RECOVERING and self._now() >= self._not_before[job.id]:
                self._lives.change(job, JobState.PENDING, "retry", "waiting to be placed again")

    def _place(self) -> None:
        waiting = [job for job in self.jobs.values() if job.state is JobState.PENDING]
        if not waiting:
            return
        requests = [self._waiting_job(job) for job in waiting]
        alive = {worker_id: record for worker_id, record in self.workers.items() if record.ended is None}
        if not alive and not self._cluster.devices():
            # Nothing can be said of what fits before there is something for it to fit on.
            for job in waiting:
                job.message = "no device yet: the cluster has no node with room for a worker"
            return
        taken = {record.worker.device.id for record in alive.values()}
        decision = decide(
            Snapshot(
                waiting=tuple(requests),
                workers=tuple(self._running_worker(record) for record in alive.values()),
                free_devices=tuple(device for device in self._cluster.devices() if device.id not in taken),
                num_started=self._num_started,
                token_budget=self._settings.token_budget,
                settings=PolicySettings(hand_over_at_once=True),
            )
        )
        for job_id, message in decision.impossible:
            self._lives.change(self.jobs[job_id], JobState.FAILED, "memory", message)
        answered = {job_id for job_id, _ in decision.impossible} | {one.job_id for one in decision.placements}
        for request in requests:
            if request.id not in answered:
                self.jobs[request.id].message = decision.why(request)
        assignments: dict[str, list[Assignment]] = {new.id: [] for new in decision.new_workers}
        for new in decision.new_workers:
            self.workers[new.id] = WorkerRecord(new)
        self._num_started += len(decision.new_workers)
        for placement in decision.placements:
            job = self.jobs[placement.job_id]
            job.progress = replace(job.progress, total_steps=self._estimates[job.id].total_steps)
            self._lives.start_attempt(job, placement.worker_id, placement.reason)
            assignments.setdefault(placement.worker_id, []).append(
                Assignment(job_id=job.id, spec=job.spec, attempt=job.attempt, checkpoints=job.checkpoints)
            )
        for new in decision.new_workers:
            settings = replace(
                self._settings,
                capacity_bytes=new.device.memory_bytes,
                staging_dir=self._settings.staging_dir / new.id,
            )
            self._cluster.start_worker(new, settings, assignments.pop(new.id))
        for worker_id, more in assignments.items():
            self._cluster.assign(worker_id, more)
        for retirement in decision.retired:
            self._stop(retirement.worker_id, retirement.reason)

    def _waiting_job(self, job: Job) -> WaitingJob:
        estimate = self._estimates[job.id]
        return WaitingJob(
            id=job.id,
            base=estimate.base,
            base_shape=estimate.base_shape,
            demand=estimate.demand,
            work_tokens=estimate.train_tokens,
            priority=job.spec.scheduling.priority,
            queue=job.spec.scheduling.queue,
            sequence=self._sequence[job.id],
        )

    def _running_worker(self, record: WorkerRecord) -> RunningWorker:
        return RunningWorker(
            id=record.worker.id,
            device=record.worker.device,
            base=record.worker.base,
            jobs=tuple(
                RunningJob(
                    id=job.id,
                    demand=self._estimates[job.id].demand,
                    tokens_left=self._estimates[job.id].train_tokens,
                    priority=job.spec.scheduling.priority,
                    queue=job.spec.scheduling.queue,
                )
                for job in self._active(record)
            ),
        )

    def _active(self, record: WorkerRecord) -> list[Job]:
        return [job for job in self.jobs.values() if job.worker_id == record.worker.id and job.state in _WITH_A_WORKER]

    def _no_more_for(self, base: BaseKey) -> bool:
        return not any(
            job.state in (JobState.PENDING, JobState.RECOVERING) and self._estimates[job.id].base == base
            for job in self.jobs.values()
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
            # What a stale attempt says of a job is not heard: another one, or nobody, has the job now.
            is_current = report.attempt == job.attempt and job.worker_id == observation.worker_id
            if is_current and job.state in _WITH_A_WORKER and _is_new(job, report):
                self._take_in(job, report)
            record.heard = max(record.heard, report.number)
        if observation.end is not None:
            record.ended = observation.end.message
            for job in self._active(record):
                self._after_end(job, record.worker.id, observation.end)
            # All of its jobs have other attempts now, or none; in the journal.
            self._cluster.acknowledge(observation.worker_id, record.heard)

    def _acknowledge(self) -> None:
        """Let workers forget what the journal has now: states and checkpoints at once, progress just before this."""
        for worker_id, record in self.workers.items():
            if record.ended is None and record.heard > record.acknowledged:
                self._cluster.acknowledge(worker_id, record.heard)
                record.acknowledged = record.heard

    def _after_end(self, job: Job, worker_id: str, end: WorkerEnd) -> None:
        """The job's worker is gone."""
        said = f"{worker_id}: {end.message}"
        match end.kind:
            case End.UNUSABLE:
                self._lives.change(job, JobState.FAILED, "worker_lost", said)
            case End.RAISED:
                self._after_error(job, "worker_lost", said)
            case End.PREEMPTED:
                self._lives.end_attempt(job, JobState.PENDING, "preempted", said)
            case End.LOST:
                fruitless = self._num_fruitless[job.id] = self._num_fruitless.get(job.id, 0) + 1
                decision = retries.after_loss(fruitless)
                if not decision.again:
                    self._lives.change(job, JobState.FAILED, "worker_lost", f"{said}; {decision.reason}")
                elif decision.delay_seconds:
                    self._not_before[job.id] = self._now() + decision.delay_seconds
                    self._lives.end_attempt(job, JobState.RECOVERING, "worker_lost", f"{said}; {decision.reason}")
                else:
                    self._lives.end_attempt(job, JobState.PENDING, "worker_lost", f"{said}; {decision.reason}")

    def _after_error(self, job: Job, reason: str, message: str) -> None:
        """The job's own fault: tried again as often as its spec allows, and then FAILED, its checkpoints kept."""
        most = job.spec.job_recovery.max_restarts_on_errors
        decision = retries.after_error(reason, num_charged=job.num_charged + 1, max_restarts=most)
        if not decision.again:
            kept = f"; checkpoint of step {job.checkpoints[0].step} is kept" if job.checkpoints else ""
            self._lives.change(job, JobState.FAILED, reason, f"{message}{kept}", charged=True)
            return
        self._not_before[job.id] = self._now() + decision.delay_seconds
        self._lives.end_attempt(job, JobState.RECOVERING, reason, f"{message}; {decision.reason}", charged=True)

    def _take_in(self, job: Job, report: Report) -> None:
        if report.number:
            # Written with what follows from the report, in one transaction; so it is never taken in twice.
            job.progress = replace(job.progress, attempt=report.attempt, report_number=report.number)
        match report:
            case StepReport():
                self._num_fruitless[job.id] = 0
                job.progress = replace(
                    job.progress,
                    step=report.step,
                    total_steps=report.total_steps,
                    epoch=report.epoch,
                    train_loss=report.loss if report.logged else job.progress.train_loss,
                    tokens=job.progress.tokens + report.tokens,
                    busy_seconds=job.progress.busy_seconds + report.seconds,
                )
                self._lives.step(job, report)
            case EvalReport():
                job.progress = replace(
                    job.progress,
                    eval_loss=report.loss,
                    eval_exact_match=report.exact_match,
                    busy_seconds=job.progress.busy_seconds + report.seconds,
                )
                self._lives.evaluation(job, report)
            case LogReport():
                self._lives.log(job, report.message)
            case CheckpointReport():
                self._lives.commit_checkpoint(job, report.record)
            case ResumeReport():
                last_logged = report.progress.train_loss
                job.progress = replace(
                    report.progress,
                    train_loss=job.progress.train_loss if last_logged is None else last_logged,
                    attempt=job.progress.attempt,
                    report_number=job.progress.report_number,
                )
                self._lives.resume(job, report)
            case StateReport():
                self._state_report(job, report)

    def _state_report(self, job: Job, report: StateReport) -> None:
        if report.state is JobState.FAILED:
            self._after_error(job, report.reason, report.message)
            return
        if report.staged_artifact is None:
            self._lives.change(job, report.state, report.reason, report.message)
            return
        try:
            artifact = self._publish(job, report.staged_artifact)
        except (OSError, ValueError, StoreError) as error:
            self._after_error(job, "publish", f"the artifact could not be published: {error}")
            return
        # Between the rename and this a crash leaves an artifact that nobody confirmed; the next run verifies it.
        self._lives.change(
            job, report.state, report.reason, f"{report.message}; artifact in {artifact}", artifact=artifact
        )


def _is_new(job: Job, report: Report) -> bool:
    """Whether a report was not taken in before: workers tell again what nobody has acknowledged."""
    heard = (job.progress.attempt, job.progress.report_number)
    return report.number == 0 or (report.attempt, report.number) > heard
