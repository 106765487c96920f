"""What workers report, taken into the lives of their jobs; and what becomes of jobs that fail or whose worker goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from jobs.errors import UNAVAILABLE, StoreError
from jobs.records import (
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
)
from orchestrator import retries
from orchestrator.clusters import Cluster, End, Observation, WorkerEnd
from orchestrator.lives import LOST, Lives
from orchestrator.publications import Publications
from orchestrator.roster import WITH_A_WORKER, Roster
from orchestrator.survey import Survey
from orchestrator.transitions import TransitionError


class Intake:
    """Hears workers."""

    def __init__(
        self,
        roster: Roster,
        cluster: Cluster,
        lives: Lives,
        survey: Survey,
        *,
        publications: Publications,
        now: Callable[[], float],
    ) -> None:
        self._roster = roster
        self._cluster = cluster
        self._lives = lives
        self._survey = survey
        self._publications = publications
        self._now = now
        self._not_before: dict[str, float] = {}
        """When RECOVERING jobs may be placed again."""
        self._num_fruitless: dict[str, int] = {}
        """Workers that a job has lost in a row without taking a step."""
        self._num_unavailable: dict[str, int] = {}
        """Tries of a job in a row that ended because its base or data could not be had."""

    def recover(self) -> None:
        """Try again what has waited long enough: jobs after an error, and what the store did not take."""
        for job, error in self._publications.retry():
            self._after_unpublished(job, error)
        for job in self._roster.jobs.values():
            if job.state is JobState.RECOVERING and self._now() >= self._not_before.get(job.id, 0.0):
                self._lives.change(job, JobState.PENDING, "retry", "waiting to be placed again")

    def observe(self, observation: Observation) -> None:
        """Take in what one worker has reported, and how it ended if it has."""
        record = self._roster.workers[observation.worker_id]
        if observation.status is not None:
            record.status = observation.status
        for report in observation.reports:
            # `None` for one that has ended: told again by a worker that was taken over before it was acknowledged.
            job = self._roster.jobs.get(report.job_id)
            # What a stale attempt says of a job is not heard: another one, or nobody, has the job now.
            is_current = job is not None and (report.attempt, observation.worker_id) == (job.attempt, job.worker_id)
            if job is not None and is_current and job.state in WITH_A_WORKER and _is_new(job, report):
                try:
                    self._take_in(job, report)
                except TransitionError as error:
                    self._after_nonsense(job, error)
            record.heard = max(record.heard, report.number)
        if observation.end is not None:
            record.ended = observation.end.message
            record.is_lost = observation.end.kind is not End.PREEMPTED
            for job in self._roster.active(record.worker.id):
                self._after_end(job, record.worker.id, observation.end)
            # All of its jobs have other attempts now, or none; in the journal.
            self._cluster.acknowledge(observation.worker_id, record.heard)

    def acknowledge(self) -> None:
        """Let workers forget what the journal has now: states and checkpoints at once, progress just before this."""
        for worker_id, record in self._roster.workers.items():
            if record.ended is None and record.heard > record.acknowledged:
                self._cluster.acknowledge(worker_id, record.heard)
                record.acknowledged = record.heard

    def forget(self, job_id: str) -> None:
        """The job has ended."""
        self._num_fruitless.pop(job_id, None)
        self._roster.suspects.pop(job_id, None)
        self._num_unavailable.pop(job_id, None)
        self._not_before.pop(job_id, None)

    def _after_end(self, job: Job, worker_id: str, end: WorkerEnd) -> None:
        """The job's worker is gone."""
        self._roster.leaving.pop(job.id, None)
        said = f"{worker_id}: {end.message}"
        match end.kind:
            case End.UNUSABLE:
                self._lives.change(job, JobState.FAILED, LOST, said)
            case End.UNAVAILABLE:
                self._after_unavailable(job, said)
            case End.RAISED:
                self._after_error(job, LOST, said)
            case End.PREEMPTED:
                self._lives.end_attempt(job, JobState.PENDING, "preempted", said)
            case End.LOST if self._has_lost_devices(job, end):
                self._after_error(job, "device", said)
            case End.LOST:
                fruitless = self._num_fruitless[job.id] = self._num_fruitless.get(job.id, 0) + 1
                decision = retries.after_loss(fruitless)
                if not decision.again:
                    self._lives.change(job, JobState.FAILED, LOST, f"{said}; {decision.reason}")
                elif decision.delay_seconds:
                    self._not_before[job.id] = self._now() + decision.delay_seconds
                    self._lives.end_attempt(job, JobState.RECOVERING, LOST, f"{said}; {decision.reason}")
                else:
                    self._lives.end_attempt(job, JobState.PENDING, LOST, f"{said}; {decision.reason}")

    def _has_lost_devices(self, job: Job, end: WorkerEnd) -> bool:
        """Whether a device was lost once too often while the job ran there, and no other."""
        if job.id not in end.suspects:
            return False
        suspects = self._roster.suspects
        suspects[job.id] = suspects.get(job.id, 0) + (len(end.suspects) == 1)
        if suspects[job.id] < retries.MOST_LOST_ALONE:
            return False
        suspects[job.id] = 0
        return True

    def _after_nonsense(self, job: Job, error: TransitionError) -> None:
        """A worker says of a job what cannot be: the job ends there, and all others go on."""
        if job.worker_id is not None:
            self._cluster.release(job.worker_id, job.id)
        self._roster.leaving.pop(job.id, None)
        self._lives.change(job, JobState.FAILED, "internal", f"{job.worker_id} reported what cannot be: {error}")

    def _after_unavailable(self, job: Job, message: str) -> None:
        """What the job needs could not be had just now: it waits, is tried again, and is not charged."""
        tries = self._num_unavailable[job.id] = self._num_unavailable.get(job.id, 0) + 1
        decision = retries.after_unavailable(tries)
        self._not_before[job.id] = self._now() + decision.delay_seconds
        self._lives.end_attempt(job, JobState.RECOVERING, UNAVAILABLE, f"{message}; {decision.reason}")

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
        if not isinstance(report, LogReport | ResumeReport) and report.usage is not None:
            job.progress = replace(job.progress, ledger=job.progress.ledger.heard(report.attempt, report.usage))
        match report:
            case StepReport():
                self._num_fruitless[job.id] = self._num_unavailable[job.id] = 0
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
                self._lives.commit_checkpoint(job, report.record, seconds=report.seconds)
                self._survey.saved(job)
            case ResumeReport():
                last_logged = report.progress.train_loss
                job.progress = replace(
                    report.progress,
                    train_loss=job.progress.train_loss if last_logged is None else last_logged,
                    attempt=job.progress.attempt,
                    report_number=job.progress.report_number,
                    ledger=job.progress.ledger,
                )
                self._survey.saved(job)
                self._lives.resume(job, report)
            case StateReport():
                self._state_report(job, report)

    def _state_report(self, job: Job, report: StateReport) -> None:
        if report.state is JobState.PENDING:
            reason, message = self._roster.leaving.pop(job.id, ("preempted", "its worker has handed it back"))
            state = JobState.PAUSED if job.desired is Desired.PAUSE else JobState.PENDING
            reason = "paused" if state is JobState.PAUSED else reason
            self._lives.end_attempt(job, state, reason, f"{message}; {report.message}")
            return
        if report.state is JobState.FAILED and report.reason == UNAVAILABLE:
            self._after_unavailable(job, report.message)
            return
        if report.state is JobState.FAILED:
            self._after_error(job, report.reason, report.message)
            return
        if report.staged_artifact is None:
            self._lives.change(job, report.state, report.reason, report.message)
            return
        try:
            self._publications.publish(job, report, report.staged_artifact)
        except (OSError, ValueError, StoreError) as error:
            self._after_unpublished(job, error)

    def _after_unpublished(self, job: Job, error: Exception) -> None:
        self._after_error(job, "publish", f"the artifact could not be published: {error}")


def _is_new(job: Job, report: Report) -> bool:
    """Whether a report was not taken in before: workers tell again what nobody has acknowledged."""
    heard = (job.progress.attempt, job.progress.report_number)
    return report.number == 0 or (report.attempt, report.number) > heard
