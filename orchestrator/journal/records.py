"""What is read from the journal, and what is put into it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from jobs.ledger import Ledger
from jobs.records import CheckpointRecord, Desired, EvalReport, JobProgress, JobState, StepReport
from jobs.spec import JobSpec
from workers.publishing import FileEntry

Item = TypeVar("Item")
MetricKind = Literal["train", "eval"]
Sort = Literal["submitted", "ended", "name", "state", "priority"]


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A job to be taken in."""

    job_id: str | None = None
    """`None`: the journal gives it one that was never used, the spec's name or the name with a number."""
    spec: JobSpec
    owner: str | None = None
    """Name of the token it was submitted with."""
    sweep_id: str | None = None
    """Shared by the jobs of one sweep."""


@dataclass(frozen=True, kw_only=True)
class SubmissionKey:
    """What makes submitting twice the same as submitting once."""

    key: str
    """As the client chose it."""
    body_sha256: str
    """Hex, of what was sent with it."""
    owner: str | None = None
    """Name of the token: two owners may choose the same key."""

    @classmethod
    def of(cls, key: str, body: bytes, *, owner: str | None = None) -> SubmissionKey:
        """For a body as it was sent."""
        return cls(key=key, body_sha256=hashlib.sha256(body).hexdigest(), owner=owner)


@dataclass(frozen=True, kw_only=True)
class JobSummary:
    """A job in a list."""

    id: str
    name: str
    model: str
    """Name or folder of its base."""
    state: JobState
    reason: str
    message: str
    desired: Desired
    """What its owner wants; the state follows."""
    priority: int
    """As it is now: it may have been changed after the submission."""
    queue: str
    """Likewise."""
    labels: Mapping[str, str]
    owner: str | None
    """Name of the token that submitted it; `None` where none was asked for."""
    sweep_id: str | None
    submitted: int
    """Position in the order of submission, from 1."""
    submitted_unix_seconds: float
    ended_unix_seconds: float | None
    """`None` until it has ended."""
    attempt: int
    """Number of the latest attempt; 0 before the first."""
    worker_id: str | None
    """Of the latest attempt."""
    progress: JobProgress
    artifact: str | None
    """Where the adapter was published."""

    @property
    def ledger(self) -> Ledger:
        """What it has cost. Nothing was written down of one that was never placed: it waits since it was submitted."""
        ledger = self.progress.ledger
        is_new = self.state is JobState.PENDING and self.attempt == 0
        return ledger.waits(self.submitted_unix_seconds) if is_new else ledger


@dataclass(frozen=True, kw_only=True)
class JournaledJob(JobSummary):
    """A job as the journal has it: what a restart begins from."""

    spec: Mapping[str, Any]
    """As it was submitted, not parsed: also one that this version would refuse can be listed."""
    spec_sha256: str
    attempt_is_open: bool
    """Whether the latest attempt may still commit. True after a crash: whoever restarts ends it."""
    num_charged: int
    """Attempts that ended by an error of the job's own, since it was last retried."""
    checkpoints: tuple[CheckpointRecord, ...]
    """Those to go on from, newest first."""
    estimate: Mapping[str, Any] | None
    """What the check before the first placement has found out; `None` until it was made."""


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """Which jobs to list, and in what order. What is `None` or empty does not narrow."""

    states: frozenset[JobState] = frozenset()
    """One of these."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """All of these."""
    text: str | None = None
    """Somewhere in the name or the id, in either case."""
    queue: str | None = None
    owner: str | None = None
    sweep_id: str | None = None
    queues: frozenset[str] | None = None
    """Of these queues alone, beside all else; of every one where `None`."""
    sort: Sort = "submitted"
    """Jobs that are equal in it are in the order of submission. Those that have not ended come before all that have
    where it is by the time of the end; states are in the order of the alphabet."""
    descending: bool = True


@dataclass(frozen=True, kw_only=True)
class Page(Generic[Item]):
    """A part of a list."""

    items: tuple[Item, ...]
    after: str | None
    """Cursor to get the next part with; `None` at the end."""


@dataclass(frozen=True, kw_only=True)
class UndeletedFiles:
    """Files that the journal has let go of."""

    job_id: str
    is_removed: bool
    """The job as a whole, with its log and metrics; else its checkpoints only."""
    folders: tuple[str, ...] = ()
    """Names of its checkpoints, where only those go."""
    artifact: str | None = None
    """Adapter that goes too."""


@dataclass(frozen=True, kw_only=True)
class EndedJob:
    """A job that has ended, and what it takes up."""

    id: str
    name: str
    state: JobState
    ended_unix_seconds: float | None
    artifact: str | None
    artifact_bytes: int
    """0 where it is not known."""
    checkpoints: Mapping[str, int]
    """Folder to size in bytes, oldest first, the bad ones too."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Jobs as they were just after an event."""

    sequence: int
    """Of the event; what follows it is told by `changed_since`."""
    jobs: tuple[JournaledJob, ...]
    """In order of submission."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try at a job, from placement to whatever ended it."""

    job_id: str
    number: int
    worker_id: str | None
    started_unix_seconds: float
    ended_unix_seconds: float | None
    is_open: bool
    why: str | None
    """Reason code of its end."""
    charged: bool
    """Whether it counts against `job_recovery.max_restarts_on_errors`."""
    node: str | None = None
    """Machine of the worker."""


@dataclass(frozen=True, kw_only=True)
class QuarantinedCheckpoint:
    """A checkpoint that was found bad."""

    record: CheckpointRecord
    problem: str


@dataclass(frozen=True, kw_only=True)
class ArtifactRecord:
    """A published adapter. Only its row in the journal makes it the job's."""

    job_id: str
    attempt: int
    """Number of the attempt that made it."""
    uri: str
    """Where it is."""
    manifest_sha256: str
    """Hex; through the manifest it vouches for every byte."""
    size_bytes: int
    """Of all files together."""
    files: Mapping[str, FileEntry]
    """By name below `uri`."""


@dataclass(frozen=True, kw_only=True)
class MetricPoint:
    """What was measured at a step of a job."""

    job_id: str
    step: int
    kind: MetricKind
    values: Mapping[str, float | int | None]
    """By name; `None` for a number that was not finite."""

    @classmethod
    def of_step(cls, report: StepReport) -> MetricPoint:
        """Of a training step."""
        return cls(
            job_id=report.job_id,
            step=report.step,
            kind="train",
            values={
                "epoch": report.epoch,
                "loss": report.loss,
                "learning_rate": report.learning_rate,
                "grad_norm": report.grad_norm,
                "label_tokens": report.label_tokens,
                "tokens": report.tokens,
                "seconds": report.seconds,
                "attempt": report.attempt,
            },
        )

    @classmethod
    def of_evaluation(cls, report: EvalReport) -> MetricPoint:
        """Of an evaluation."""
        return cls(
            job_id=report.job_id,
            step=report.step,
            kind="eval",
            values={
                "epoch": report.epoch,
                "eval_loss": report.loss,
                "eval_exact_match": report.exact_match,
                "eval_rows": report.rows,
                "label_tokens": report.label_tokens,
                "seconds": report.seconds,
            },
        )
