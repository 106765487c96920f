"""The lives of jobs: every change goes into the journal first, then into memory, then to whoever listens."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Protocol, TypeVar

from jobs.checkpoints import DiskFullError
from jobs.records import (
    BadCheckpoint,
    CheckpointRecord,
    Desired,
    EvalReport,
    Event,
    Job,
    JobState,
    ResumeReport,
    StepReport,
)
from orchestrator.job_files import JobFiles
from orchestrator.journal import ArtifactRecord, Journal
from orchestrator.metrics_history import MetricsHistory
from orchestrator.roster import Unpublished
from orchestrator.transitions import require_transition
from workers.retention import superseded

UNPUBLISHED = "unpublished"
"""Setting of the journal: finished adapters that are still to be published, by job id."""

LOST = "worker_lost"
"""Reason of the end of an attempt whose worker is gone."""

_RETRY_SECONDS = 1.0
_PROGRESS_SECONDS = 5.0
Result = TypeVar("Result")


class Listener(Protocol):
    """Who wants to know: the files on disk and the table on the screen."""

    def on_event(self, job: Job, event: Event) -> None:
        """A job changed state, or something happened to it."""
        ...

    def on_step(self, job: Job, report: StepReport) -> None:
        """A job took an optimizer step."""
        ...

    def on_evaluation(self, job: Job, report: EvalReport) -> None:
        """A job was evaluated."""
        ...

    def on_resume(self, job: Job, report: ResumeReport) -> None:
        """A job is about to go on from a checkpoint; what came after it did not happen."""
        ...

    def on_log(self, job: Job, message: str) -> None:
        """Something that a job's owner should know."""
        ...


def artifact_record(job_id: str, attempt: int, artifact: str, files: JobFiles) -> ArtifactRecord:
    """What the journal keeps of a published adapter.

    Raises:
        ValueError: It is not there.
    """
    found = files.describe(artifact)
    return ArtifactRecord(
        job_id=job_id,
        attempt=attempt,
        uri=artifact,
        manifest_sha256=found.manifest_sha256,
        size_bytes=found.size_bytes,
        files=found.files,
    )


class Lives:
    """The only writer of the journal while a run goes on."""

    def __init__(
        self,
        journal: Journal,
        files: JobFiles,
        listeners: Sequence[Listener],
        *,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        warn: Callable[[str], None] = lambda _: None,
        history: MetricsHistory | None = None,
        on_checkpoint: Callable[[CheckpointRecord, float], None] = lambda _record, _seconds: None,
    ) -> None:
        """Write to an open journal.

        Args:
            journal: Has all the jobs that will be spoken of.
            files: Where the checkpoints are that are let go of.
            listeners: Told of every change, once it is durable.
            now: Seconds since the epoch, for events.
            sleep: Waits for room on a full disk.
            warn: Tells a person, at once, why nothing goes on.
            history: Takes what jobs measure into the journal too.
            on_checkpoint: Told of every checkpoint that counts now, and how long it took.
        """
        self._journal = journal
        self._files = files
        self._listeners = list(listeners)
        self._now = now
        self._sleep = sleep
        self._warn = warn
        self._recorded_at = 0.0
        self._history = history
        self._on_checkpoint = on_checkpoint
        if history is not None:
            self._listeners.append(history)

    def start_attempt(self, job: Job, worker_id: str, message: str, *, node: str | None = None) -> None:
        """Hand a job to a worker, on a machine if the cluster has several; the attempt's number is in the job then."""
        require_transition(job, JobState.STARTING)
        at = self._now()
        self._keep_time(job, JobState.STARTING, at)
        number, event = self._durably(
            lambda: self._journal.start_attempt(
                job.id, worker_id=worker_id, reason="placed", message=message, at=at, node=node
            )
        )
        job.attempt, job.worker_id = number, worker_id
        self._tell(job, event)

    def end_attempt(self, job: Job, state: JobState, reason: str, message: str, *, charged: bool = False) -> None:
        """Take a job back from its worker, to be tried again."""
        require_transition(job, state)
        at = self._now()
        if charged or reason == LOST:
            job.progress = replace(job.progress, ledger=job.progress.ledger.lost())
        self._keep_time(job, state, at)
        event = self._durably(
            lambda: self._journal.end_attempt(
                job.id,
                attempt=job.attempt,
                state=state,
                reason=reason,
                message=message,
                at=at,
                charged=charged,
                progress=job.progress,
            )
        )
        job.num_charged += charged
        job.worker_id = None
        self._tell(job, event)

    def change(
        self,
        job: Job,
        state: JobState,
        reason: str,
        message: str,
        *,
        charged: bool = False,
    ) -> None:
        """Change a job's state. One that ends the job ends its attempt too."""
        require_transition(job, state)
        at = self._now()
        self._keep_time(job, state, at)
        event = self._durably(
            lambda: self._journal.change(
                job.id,
                attempt=None,
                state=state,
                reason=reason,
                message=message,
                at=at,
                charged=charged,
                progress=job.progress,
            )
        )
        job.num_charged += charged
        self._tell(job, event)

    def succeed(self, job: Job, reason: str, message: str, artifact: str) -> None:
        """The job has ended well, and its adapter is published: both are true at the same moment.

        Raises:
            ValueError: The adapter is not there.
        """
        require_transition(job, JobState.SUCCEEDED)
        record = artifact_record(job.id, job.attempt, artifact, self._files)
        at = self._now()
        self._keep_time(job, JobState.SUCCEEDED, at)
        event = self._durably(
            lambda: self._journal.commit_artifact(record, message=message, at=at, reason=reason, progress=job.progress)
        )
        job.artifact = artifact
        self._tell(job, event)

    def commit_checkpoint(self, job: Job, record: CheckpointRecord, *, seconds: float = 0.0) -> None:
        """Make it the one to go on from, and let go of those beyond `save_total_limit`. Twice is once."""
        if record in job.checkpoints:
            return
        keep = job.spec.training.save_total_limit
        self._durably(lambda: self._journal.commit_checkpoint(record, progress=job.progress))
        job.checkpoints = (record, *job.checkpoints)
        self._on_checkpoint(record, seconds)
        old = superseded(job.checkpoints, keep)
        if old:
            self._durably(lambda: self._journal.forget_checkpoints(job.id, [one.folder for one in old]))
            self._files.prune(job.id, old)
            job.checkpoints = tuple(one for one in job.checkpoints if one not in old)

    def keep_unpublished(self, unpublished: Mapping[str, Unpublished]) -> None:
        """Remember which finished adapters are still to be published, by job id."""
        kept = {job_id: asdict(one) for job_id, one in unpublished.items()}
        self._durably(lambda: self._journal.put_setting(UNPUBLISHED, kept))

    def resume(self, job: Job, report: ResumeReport) -> None:
        """A new attempt has found what it goes on from; bad checkpoints that it met are never used again."""
        for bad in report.quarantined:
            self._quarantine(job, bad)
        for listener in self._listeners:
            listener.on_resume(job, report)

    def step(self, job: Job, report: StepReport) -> None:
        """Pass on."""
        for listener in self._listeners:
            listener.on_step(job, report)

    def evaluation(self, job: Job, report: EvalReport) -> None:
        """Pass on."""
        for listener in self._listeners:
            listener.on_evaluation(job, report)

    def log(self, job: Job, message: str) -> None:
        """Pass on."""
        for listener in self._listeners:
            listener.on_log(job, message)

    def record_progress(self, jobs: Sequence[Job]) -> bool:
        """Keep how far jobs are, every few seconds; a full disk may keep it from happening.

        Returns:
            Whether all that was taken in of these jobs is durable now, so that their workers may forget it.
        """
        # A clock that was set back must not stop this for as long.
        if 0 <= self._now() - self._recorded_at < _PROGRESS_SECONDS:
            return False
        self._recorded_at = self._now()
        try:
            if self._history is not None:
                self._history.write()
            self._journal.record_progress({job.id: job.progress for job in jobs})
        except DiskFullError:
            return False
        return True

    def _quarantine(self, job: Job, bad: BadCheckpoint) -> None:
        job.checkpoints = tuple(one for one in job.checkpoints if one.folder != bad.record.folder)
        event = self._durably(
            lambda: self._journal.quarantine_checkpoint(bad.record, problem=bad.problem, at=self._now())
        )
        if event is not None:
            for listener in self._listeners:
                listener.on_event(job, event)

    def _keep_time(self, job: Job, state: JobState, at: float) -> None:
        """Begin or end the waiting that a job's ledger tells of."""
        ledger = job.progress.ledger
        if state is JobState.RUNNING:
            ledger = ledger.runs(at)
        elif state.is_terminal or (state is JobState.PAUSED and job.desired is Desired.PAUSE):
            ledger = ledger.goes_on(at)
        else:
            ledger = ledger.waits(at)
        job.progress = replace(job.progress, ledger=ledger)

    def _tell(self, job: Job, event: Event) -> None:
        job.state, job.reason, job.message = event.state, event.reason, event.message
        for listener in self._listeners:
            listener.on_event(job, event)

    def _durably(self, write: Callable[[], Result]) -> Result:
        """Write to the journal; on a full disk wait for room, since nothing may happen that is not in it."""
        told = False
        while True:
            try:
                return write()
            except DiskFullError as error:
                if not told:
                    self._warn(f"{error}; waiting for it")
                told = True
                self._sleep(_RETRY_SECONDS)
