"""What the API answers with, for the server that writes it and the client that reads it.

Nothing heavy is imported here: the command line needs it for every verb.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from jobs.field_types import NAME_PATTERN
from jobs.records import Desired, JobState


class Model(BaseModel):
    """Frozen, documented field by field. A client passes over fields that a newer server adds."""

    # Built when first used: a command uses two or three of them.
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, defer_build=True)


class ProblemItem(Model):
    """One thing wrong with a spec or with a parameter."""

    message: str
    """What is wrong and what would be right."""
    field: str = ""
    """Dotted path; empty for the document as a whole."""
    value: str | None = None
    """As it was given, shortened."""
    file: str | None = None
    """For a value given by `set`, or a file that the client named."""
    line: int | None = None
    """1-based line of the body."""


class ProblemDocument(Model):
    """RFC 9457."""

    type: str
    """What kind of problem, `urn:loraloom:problem:…`."""
    title: str
    status: int
    detail: str
    """What is wrong here and what would be right."""
    errors: list[ProblemItem] | None = None
    """Each problem of a spec or of the parameters."""


class Progress(Model):
    """How far a job is."""

    step: int
    total_steps: int | None
    epoch: float
    train_loss: float | None
    eval_loss: float | None
    eval_exact_match: float | None
    tokens: int
    busy_seconds: float
    """Worker time spent on the job: its share, by tokens, of each pack that it ran in."""


class LedgerItem(Model):
    """What a job has cost and had so far, over all of its attempts; work that was lost and done again counts twice."""

    device_seconds: float
    """Of its workers' busy time: its share, by tokens, of each pack, and what was done for it alone."""
    tokens: int
    """Trained on, without padding."""
    label_tokens: int
    """Those among them that have a loss."""
    padding_tokens: int
    """Positions computed for nothing."""
    waiting_seconds: float
    """In which it was to run and did not."""
    checkpoint_seconds: float
    """Spent on its checkpoints, beside the training."""
    recoveries: int
    """Attempts lost by an error or with their worker."""
    slowdown: float | None
    """How many times longer its rounds took than alone, estimated from measured packs; null before there are any."""


class JobItem(Model):
    """A job in a list."""

    id: str
    """Given by the server; never given twice."""
    name: str
    model: str
    """Name or folder of the base."""
    state: JobState
    reason: str
    """Code of why it is in this state."""
    message: str
    """The same for people."""
    desired: Desired
    """What its owner wants of it; the state follows."""
    queue: str
    priority: int
    labels: dict[str, str]
    owner: str | None
    """Name of the token that submitted it."""
    sweep_id: str | None
    submitted_unix_seconds: float
    ended_unix_seconds: float | None
    attempt: int
    """Number of the latest attempt; 0 before the first."""
    worker_id: str | None
    progress: Progress
    ledger: LedgerItem
    """What it has cost so far."""
    artifact: str | None
    """Where the adapter was published."""


class JobPage(Model):
    """A part of a list of jobs."""

    jobs: list[JobItem]
    after: str | None
    """Cursor for the next part; null at the end."""


class AttemptItem(Model):
    """One try at a job."""

    number: int
    worker_id: str | None
    node: str | None
    started_unix_seconds: float
    ended_unix_seconds: float | None
    is_open: bool
    why: str | None
    """Reason code of its end."""
    charged: bool
    """Whether it counts against `job_recovery.max_restarts_on_errors`."""


class JobDetail(JobItem):
    """A job with all that is known of it."""

    spec: dict[str, Any]
    """As it was submitted, defaults filled in. Queue and priority may have been changed since."""
    spec_sha256: str
    estimate: dict[str, Any] | None
    """What it will take, from the check before the first placement; null until it was made."""
    attempts: list[AttemptItem]


class SubmittedJob(Model):
    """A job that was taken in."""

    id: str
    name: str
    queue: str
    priority: int
    sweep_id: str | None


class Submitted(Model):
    """All jobs of a submission, in order."""

    jobs: list[SubmittedJob]


class Validated(Model):
    """Specs that would be taken in, defaults filled in and sweeps expanded."""

    specs: list[dict[str, Any]]


class JobChange(Model):
    """What to change of a job; what is left out stays."""

    model_config = ConfigDict(extra="forbid", defer_build=False, json_schema_extra={"minProperties": 1})

    priority: Annotated[int, Field(strict=True, ge=-(2**31), le=2**31 - 1)] | None = None
    """Jobs of higher priority are placed first."""
    queue: Annotated[str, Field(strict=True, max_length=63, pattern=f"^{NAME_PATTERN}$")] | None = None
    """Queue that the job waits in."""


class EventItem(Model):
    """Something that happened to a job."""

    sequence: int
    """Position in the history of the service; orders events without trusting a clock."""
    time_unix_seconds: float
    job_id: str
    state: JobState
    reason: str
    message: str


class EventPage(Model):
    """A part of the events, oldest first."""

    events: list[EventItem]
    after: int
    """Sequence of the last one: `after` for the next part."""


class MetricItem(Model):
    """What was measured at a step."""

    step: int
    kind: Literal["train", "eval"]
    values: dict[str, float | int | None]


class MetricPage(Model):
    """A part of a job's metrics, in order of steps; thinned out for long runs."""

    metrics: list[MetricItem]
    after_step: int
    """Step of the last one: `after_step` for the next part."""


class CheckpointItem(Model):
    """A checkpoint that the job can go on from, or that was found bad."""

    folder: str
    step: int
    micro_batch: int
    attempt: int
    size_bytes: int
    manifest_sha256: str
    problem: str | None
    """What was wrong with it; null for a good one."""


class CheckpointListing(Model):
    """Checkpoints of a job: the good ones, newest first, then those that were found bad."""

    checkpoints: list[CheckpointItem]


class ArtifactFile(Model):
    """A file of a published adapter."""

    name: str
    size_bytes: int
    sha256: str


class ArtifactListing(Model):
    """A published adapter."""

    job_id: str
    uri: str
    manifest_sha256: str
    """Through the manifest it vouches for every byte."""
    size_bytes: int
    files: list[ArtifactFile]


class SweepJob(JobItem):
    """A job of a sweep."""

    values: dict[str, Any]
    """What it has in the fields that vary; null where it has none."""


class SweepDetail(Model):
    """The jobs of one sweep."""

    id: str
    states: dict[JobState, int]
    """How many are in each state."""
    metric: Literal["eval_loss", "eval_exact_match", "train_loss"]
    """What the jobs are compared by, a field of their progress."""
    goal: Literal["minimize", "maximize"]
    best: str | None
    """Id of the job that is best now; `None` while none has the metric."""
    varies: list[str]
    """Fields in which the jobs differ."""
    jobs: list[SweepJob]
