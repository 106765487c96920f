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
    Desired,
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
from orchestrator.placement import decide
from orchestrator.queueing import FairShares, WaitingLine
from orchestrator.rebalancing import give_back
from orchestrator.snapshot import Decision, NewWorker, PolicySettings, Queue, Snapshot, WaitingJob
from orchestrator.survey import Survey
from workers.estimate import Estimate
from workers.settings import WorkerSettings

_WITH_A_WORKER = frozenset({JobState.STARTING, JobState.RUNNING, JobState.PAUSED})
"""States in which an attempt is open, and its worker is heard."""

HAND_OVER = PolicySettings(hand_over_at_once=True)
"""How `loraloom run` places jobs."""


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
        policy: PolicySettings = HAND_OVER,
        queues: Sequence[Queue] = (),
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
            policy: How jobs are placed.
            queues: Weights and quotas; other queues have a weight of 1 and no quota.
        """
        self.jobs = {job.id: job for job in jobs}
        self.workers: dict[str, WorkerRecord] = {worker.id: WorkerRecord(worker) for worker in adopted}
        self._num_started = num_started
        self._estimates = dict(estimates)
        self._cluster = cluster
        self._settings = settings
        self._lives = lives
        self._publish = publish
        self._now = now
        self._not_before: dict[str, float] = {}
        """When RECOVERING jobs may be placed again."""
        self._num_fruitless: dict[str, int] = {}
        """Workers that a job has lost in a row without taking a step."""
        self._policy = policy
        self._queues = tuple(queues)
        self._shares = FairShares(policy)
        self._turned_at = now()
        self._line = WaitingLine()
        self._decision = Decision()
        """The last one, for those who ask why a job waits."""
        self._num_placed = 0
        self._leaving: dict[str, tuple[str, str]] = {}
        """Jobs that their workers were told to hand back, with reason and message."""
        self._survey = Survey(self._estimates, now, whole_jobs=policy.hand_over_at_once)
        for job in jobs:
            self._survey.enrol(job)
            if job.worker_id is not None:
                self._survey.placed(job)

    @property
    def is_done(self) -> bool:
        """Whether every job has ended."""
        return all(job.state.is_terminal for job in self.jobs.values())

    def tick(self, timeout_seconds: float = 0.0) -> None:
        """One turn. Waits for news at most `timeout_seconds`."""
        self._recover()
        self._follow_intent()
        self._place()
        for observation in self._cluster.poll(timeout_seconds):
            self._observe(observation)
        self._give_back()
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
            if job.worker_id is not None and job.state in _WITH_A_WORKER:
                self._lives.end_attempt(job, JobState.PENDING, "preempted", message)

    def add(self, job: Job) -> None:
        """Take over a job that was submitted, or that is tried again after it has ended."""
        self.jobs[job.id] = job
        self._survey.enrol(job)

    def estimate(self, job_id: str) -> Estimate | None:
        """What the job will take, where that is known."""
        return self._estimates.get(job_id)

    def fix_token_budget(self, token_budget: int) -> None:
        """Tokens that packs of workers started from now on may hold."""
        self._settings = replace(self._settings, token_budget=token_budget)

    def has_estimate(self, job_id: str) -> bool:
        """Whether the job can be placed."""
        return job_id in self._estimates

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
        if (job.priority, job.queue) != (priority, queue) and job_id in self._line:
            self._line.remove(job_id)
        job.desired, job.priority, job.queue = desired, priority, queue

    def cancel(self, job_id: str, message: str) -> None:
        """End a job on a person's word. Without effect on one that has ended."""
        job = self.jobs[job_id]
        if job.state.is_terminal:
            return
        if job.worker_id is not None and self.workers[job.worker_id].ended is None:
            self._cluster.release(job.worker_id, job_id)
        self._leaving.pop(job_id, None)
        self._lives.change(job, JobState.CANCELLED, "cancelled", message)

    def forget_ended(self) -> list[Job]:
        """Let go of jobs that have ended; the journal has them."""
        ended = [job for job in self.jobs.values() if job.state.is_terminal]
        for job in ended:
            del self.jobs[job.id]
            self._estimates.pop(job.id, None)
            self._num_fruitless.pop(job.id, None)
            self._leaving.pop(job.id, None)
            self._survey.forget(job.id)
        return ended

    def why(self, job_id: str) -> str | None:
        """Why a job waits; `None` for one that does not, or of which nothing was decided yet."""
        job = self.jobs[job_id]
        if job.state is not JobState.PENDING or job_id not in self._line:
            return None
        return self._decision.why(self._survey.waiting(job))

    @property
    def waiting_ids(self) -> list[str]:
        """Jobs that could be placed if there was room, in no order."""
        return [job.id for job in self._line]

    @property
    def wanted_devices(self) -> int:
        """Devices that the jobs which wait could fill, beside those in use."""
        return self._decision.wanted_devices

    @property
    def queue_shares(self) -> tuple[Queue, ...]:
        """All queues that have had anything, with what they had and what was due to them."""
        return self._shares.queues(self._queues)

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

    def _follow_intent(self) -> None:
        """Make of each job what its owner wants."""
        for job in list(self.jobs.values()):
            if job.desired is Desired.RUN:
                if job.state is JobState.PAUSED and job.worker_id is None:
                    self._lives.change(job, JobState.PENDING, "resumed", "waiting to be placed again")
            elif job.state.is_terminal:
                continue
            elif job.desired is Desired.CANCEL:
                self.cancel(job.id, "cancelled by its owner")
            elif job.worker_id is not None and job.state in _WITH_A_WORKER:
                self._call_back(job, "paused", "paused by its owner")
            elif job.state is not JobState.PAUSED:
                self._lives.change(job, JobState.PAUSED, "paused", "paused by its owner before it was placed")

    def _call_back(self, job: Job, reason: str, message: str) -> None:
        """Let a job's worker save it and drop it. Asked again, it is still one request."""
        if job.id not in self._leaving and job.worker_id is not None:
            self._leaving[job.id] = (reason, message)
            self._cluster.hand_back(job.worker_id, job.id)

    def _line_up(self) -> None:
        """Bring the waiting line up to date."""
        waiting = {job.id for job in self.jobs.values() if job.state is JobState.PENDING and job.id in self._estimates}
        for job_id in [one.id for one in self._line if one.id not in waiting]:
            self._line.remove(job_id)
        for job_id in sorted(waiting):
            if job_id not in self._line:
                self._line.add(self._survey.waiting(self.jobs[job_id]))

    def _snapshot(self, alive: Mapping[str, WorkerRecord], waiting: tuple[WaitingJob, ...] = ()) -> Snapshot:
        taken = {record.worker.device.id for record in alive.values()}
        by_worker: dict[str, list[Job]] = {worker_id: [] for worker_id in alive}
        for job in self.jobs.values():
            if job.state in _WITH_A_WORKER and job.worker_id in by_worker:
                by_worker[job.worker_id].append(job)
        return Snapshot(
            waiting=waiting,
            workers=tuple(
                self._survey.worker(
                    record.worker, by_worker[worker_id], leaving=self._leaving, idle_since=record.idle_since
                )
                for worker_id, record in alive.items()
            ),
            free_devices=tuple(device for device in self._cluster.devices() if device.id not in taken),
            num_started=self._num_started,
            token_budget=self._settings.token_budget,
            queues=self._shares.queues(self._queues),
            now_seconds=self._now(),
            num_placed=self._num_placed,
            settings=self._policy,
        )

    def _share_time(self, snapshot: Snapshot) -> None:
        """Let queues be charged for what their jobs had since the last turn."""
        had: dict[str, float] = {}
        for worker in snapshot.workers:
            for queue, (_, _, share) in worker.by_queue.items():
                had[queue] = had.get(queue, 0.0) + share
        now = snapshot.now_seconds
        wanting = [name for name in self._line.heads if name not in self._decision.at_quota]
        self._shares.advance(now - self._turned_at, had, wanting, self._queues)
        self._turned_at = now

    def _place(self) -> None:
        self._line_up()
        alive = {worker_id: record for worker_id, record in self.workers.items() if record.ended is None}
        waiting = [job for job in self.jobs.values() if job.id in self._line]
        if not self._policy.hand_over_at_once:
            self._share_time(self._snapshot(alive))
        if not waiting:
            self._decision = Decision()
            return
        requests: tuple[WaitingJob, ...] = ()
        if self._policy.hand_over_at_once:
            requests = tuple(self._survey.waiting(job) for job in waiting)
        if not alive and not self._cluster.devices():
            # Nothing can be said of what fits before there is something for it to fit on.
            for job in waiting:
                job.message = "no device yet: the cluster has no node with room for a worker"
            return
        decision = self._decision = decide(self._snapshot(alive, requests), None if requests else self._line)
        for job_id, message in decision.impossible:
            self._lives.change(self.jobs[job_id], JobState.FAILED, "memory", message)
        answered = {job_id for job_id, _ in decision.impossible} | {one.job_id for one in decision.placements}
        for request in requests:
            if request.id not in answered:
                self.jobs[request.id].message = decision.why(request)
        self._carry_out(decision)

    def _carry_out(self, decision: Decision) -> None:
        assignments: dict[str, list[Assignment]] = {new.id: [] for new in decision.new_workers}
        for new in decision.new_workers:
            self.workers[new.id] = WorkerRecord(new)
        self._num_started += len(decision.new_workers)
        for placement in decision.placements:
            job = self.jobs[placement.job_id]
            job.progress = replace(job.progress, total_steps=self._estimates[job.id].total_steps)
            self._lives.start_attempt(job, placement.worker_id, placement.reason)
            self._line.remove(job.id)
            self._survey.placed(job)
            self._num_placed += 1
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
        for preemption in decision.preemptions:
            for victim in preemption.victims:
                self._call_back(self.jobs[victim], "preempted", preemption.reason)
                self._survey.preempted(victim)

    def _active(self, record: WorkerRecord) -> list[Job]:
        return [job for job in self.jobs.values() if job.worker_id == record.worker.id and job.state in _WITH_A_WORKER]

    def _give_back(self) -> None:
        """Stop workers that nobody needs: at once where no job of their base is left, else after a while."""
        alive = {worker_id: record for worker_id, record in self.workers.items() if record.ended is None}
        busy = {job.worker_id for job in self.jobs.values() if job.state in _WITH_A_WORKER}
        for worker_id, record in alive.items():
            if worker_id in busy:
                record.idle_since = None
            elif record.idle_since is None:
                record.idle_since = self._now()
        idle = {worker_id: record for worker_id, record in alive.items() if record.idle_since is not None}
        if self._policy.hand_over_at_once:
            for worker_id, record in idle.items():
                if self._no_more_for(record.worker.base):
                    self._stop(worker_id, "no job left for its base")
        elif idle:
            for retirement in give_back(self._snapshot(idle), Decision()):
                self._stop(retirement.worker_id, retirement.reason)

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
        self._leaving.pop(job.id, None)
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
                self._survey.stepped(job.id, report.seconds, report.tokens)
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
                self._survey.saved(job)
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
        if report.state is JobState.PENDING:
            reason, message = self._leaving.pop(job.id, ("preempted", "its worker has handed it back"))
            state = JobState.PAUSED if job.desired is Desired.PAUSE else JobState.PENDING
            reason = "paused" if state is JobState.PAUSED else reason
            self._lives.end_attempt(job, state, reason, f"{message}; {report.message}")
            return
        if report.state is JobState.FAILED:
            self._after_error(job, report.reason, report.message)
            return
        if report.staged_artifact is None:
            self._lives.change(job, report.state, report.reason, report.message)
            return
        try:
            artifact = self._publish(job, report.staged_artifact)
            # Between the rename and this a crash leaves an artifact that nobody confirmed; the next run verifies it.
            self._lives.succeed(job, report.reason, f"{report.message}; artifact in {artifact}", artifact)
        except (OSError, ValueError, StoreError) as error:
            self._after_error(job, "publish", f"the artifact could not be published: {error}")


def _is_new(job: Job, report: Report) -> bool:
    """Whether a report was not taken in before: workers tell again what nobody has acknowledged."""
    heard = (job.progress.attempt, job.progress.report_number)
    return report.number == 0 or (report.attempt, report.number) > heard
