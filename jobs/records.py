"""What flows between worker, scheduler and the people who watch: small records, all picklable and JSON-ready."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from jobs.file_rules import FileRules
from jobs.ledger import Ledger, Usage

if TYPE_CHECKING:
    # Takes longer to build than all of a command that never looks into a spec.
    from jobs.spec import JobSpec


class JobState(StrEnum):
    """Where a job is in its life."""

    PENDING = "PENDING"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    RECOVERING = "RECOVERING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_terminal(self) -> bool:
        """True where no further change can follow, unless its owner asks for another try."""
        return self in _TERMINAL


_TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})

_BACK = (JobState.PENDING, JobState.RECOVERING)
"""Where a job goes whose attempt has ended and that is to be tried again."""

ALLOWED_TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.PENDING: frozenset({JobState.STARTING, JobState.PAUSED, JobState.FAILED, JobState.CANCELLED}),
    JobState.STARTING: frozenset({JobState.RUNNING, JobState.PAUSED, *_BACK, JobState.FAILED, JobState.CANCELLED}),
    JobState.RUNNING: frozenset({JobState.SUCCEEDED, JobState.PAUSED, *_BACK, JobState.FAILED, JobState.CANCELLED}),
    JobState.PAUSED: frozenset({JobState.RUNNING, JobState.PAUSED, *_BACK, JobState.FAILED, JobState.CANCELLED}),
    JobState.RECOVERING: frozenset({JobState.PENDING, JobState.PAUSED, JobState.FAILED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset({JobState.PENDING}),
    JobState.CANCELLED: frozenset({JobState.PENDING}),
}
"""The life of a job. STARTING: handed to a worker (loading, tokenising, waiting for room there); RUNNING: admitted;
PAUSED: held still on its worker until the disk has room, or, by its owner's wish (reason `paused`), off all workers;
RECOVERING: waiting out the time before another try. What has FAILED or was CANCELLED is PENDING again when its owner
asks for another try (reason `retry`)."""


class Desired(StrEnum):
    """What a job's owner wants of it. Kept durably; the scheduler makes it so."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


@dataclass(frozen=True, kw_only=True)
class BaseKey:
    """Identity of a frozen base model: jobs with equal keys can share one copy in memory."""

    model_name_or_path: str
    revision: str | None
    dtype: str

    def __str__(self) -> str:
        revision = f"@{self.revision[:12]}" if self.revision else ""
        return f"{self.model_name_or_path}{revision} ({self.dtype})"

    @property
    def short(self) -> str:
        """For narrow places: a local folder by its last name."""
        name = self.model_name_or_path
        return f"{name.rsplit('/', 1)[-1] if name.startswith('/') else name} ({self.dtype})"


@dataclass(frozen=True, kw_only=True)
class CheckpointRecord:
    """A checkpoint that is published, whole and durable. Only its row in the journal makes it one to go on from."""

    job_id: str
    attempt: int
    """Number of the attempt that wrote it."""
    step: int
    """Optimizer steps done."""
    micro_batch: int
    """Micro-batches done of the next step's accumulation; 0 between two steps."""
    folder: str
    """Name, not path, below the job's folder of checkpoints: an output directory can be moved."""
    manifest_sha256: str
    """Hex; through the manifest it vouches for every byte of the checkpoint."""
    size_bytes: int
    """Of all files together."""

    def __post_init__(self) -> None:
        """Refuse a name that could lead out of the job's folder.

        Raises:
            ValueError: `folder` is not the name of a checkpoint.
        """
        if not re.fullmatch(r"step-[0-9A-Za-z.-]+", self.folder):
            raise ValueError(f"folder is {self.folder!r}, which is not a name that a checkpoint can have")


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A decision of the placement policy: this job runs on that worker, because."""

    job_id: str
    worker_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A job handed to a worker."""

    job_id: str
    spec: JobSpec
    attempt: int = 1
    """Licence to speak for the job; goes into all that the worker writes and reports of it."""
    checkpoints: tuple[CheckpointRecord, ...] = ()
    """Those to go on from, newest first."""
    ledger: Ledger = field(default_factory=Ledger)
    """What it has cost before; for the adapter's manifest."""
    priority: int | None = None
    """As it is now; the spec's where `None`."""
    submitted_unix_seconds: float | None = None
    """When the job was submitted: what its chat template takes for the current time, in UTC, on whatever day and
    worker its rows are rendered. `None`: the time at which they are."""
    file_rules: FileRules = field(default_factory=FileRules)
    """Under which its data is read."""
    is_isolated: bool = False
    """Run it in packs of its own: it is one of those that ran when a device was lost, and it is to be seen whether the
    same happens without the others."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One change in a job's life, with a reason code for machines and a sentence for people."""

    sequence: int
    """Position in the run's history; orders events without trusting a clock."""
    time_unix_seconds: float
    job_id: str
    state: JobState
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class JobProgress:
    """What a job's owner sees of it; updated from step and evaluation reports."""

    step: int = 0
    total_steps: int | None = None
    epoch: float = 0.0
    train_loss: float | None = None
    """Loss of the last logged optimizer step, mean over its label tokens."""
    eval_loss: float | None = None
    eval_exact_match: float | None = None
    tokens: int = 0
    """Tokens trained on so far, prompt and completion, without padding."""
    busy_seconds: float = 0.0
    """Worker time spent on this job: its share, by tokens, of each pack that it ran in."""
    attempt: int = 0
    """Of the last report that was taken in: with `report_number`, what all of this is a consequence of."""
    report_number: int = 0
    """Of that report among those of its worker. Reports of the same attempt up to here change nothing any more."""
    ledger: Ledger = field(default_factory=Ledger)
    """What it has cost so far. Unlike the rest it never goes back to an earlier checkpoint."""


@dataclass(kw_only=True)
class Job:
    """A submitted spec and its life. The only mutable record; the scheduler is its sole owner."""

    id: str
    spec: JobSpec
    state: JobState = JobState.PENDING
    desired: Desired = Desired.RUN
    """What its owner wants; the scheduler makes it so."""
    priority: int = field(init=False)
    """As it is now: the spec's, until somebody changes it."""
    queue: str = field(init=False)
    """Likewise."""
    reason: str = "submitted"
    message: str = "waiting to be placed"
    worker_id: str | None = None
    attempt: int = 0
    """Number of the latest attempt; 0 before the first."""
    num_charged: int = 0
    """Attempts that ended by an error of the job's own."""
    checkpoints: tuple[CheckpointRecord, ...] = ()
    """Those to go on from, newest first."""
    progress: JobProgress = field(default_factory=JobProgress)
    artifact: str | None = None
    """Directory of the published adapter, once there is one."""
    submitted_unix_seconds: float | None = None
    """As the journal has it; `None` where nothing was journaled."""

    def __post_init__(self) -> None:
        """Begin with what the spec asks for."""
        self.priority, self.queue = self.spec.scheduling.priority, self.spec.scheduling.queue


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One optimizer step of one job, as its worker saw it."""

    job_id: str
    step: int
    """1-based number of the optimizer step that was just taken."""
    total_steps: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    """L2 norm of the whole adapter's gradient before clipping."""
    label_tokens: int
    tokens: int
    seconds: float
    """Worker time attributed to the step: the job's share, by tokens, of each pack it ran in."""
    skipped: bool = False
    """True when the loss or gradient was not finite and the weights were left as they were."""
    logged: bool = True
    """Belongs into the metrics history: the first, the last, and every `logging_steps`-th step."""
    attempt: int = 1
    """Who says so; stamped by the worker, as on all reports."""
    number: int = 0
    """Position among all that its worker has told, from 1; 0 where it is handed over once and never again."""
    usage: Usage | None = None
    """What the attempt has taken of its worker up to here; stamped by the worker too."""


@dataclass(frozen=True, kw_only=True)
class EvalReport:
    """One pass over a job's evaluation rows."""

    job_id: str
    step: int
    epoch: float
    loss: float
    """Mean over label tokens."""
    exact_match: float
    """Share of rows whose every label token, end token included, is the most likely one."""
    rows: int
    label_tokens: int
    seconds: float
    attempt: int = 1
    number: int = 0
    usage: Usage | None = None


@dataclass(frozen=True, kw_only=True)
class StateReport:
    """A job changed state on its worker: admitted (RUNNING), held (PAUSED), finished (SUCCEEDED), gave up (FAILED)."""

    job_id: str
    state: JobState
    reason: str
    message: str
    staged_artifact: str | None = None
    """With SUCCEEDED: the complete artifact directory, waiting to be published by the scheduler."""
    attempt: int = 1
    number: int = 0
    usage: Usage | None = None


@dataclass(frozen=True, kw_only=True)
class LogReport:
    """A line for the job's log: what its owner should know, such as how many rows were truncated."""

    job_id: str
    message: str
    attempt: int = 1
    number: int = 0


@dataclass(frozen=True, kw_only=True)
class CheckpointReport:
    """A checkpoint was published. It counts once the scheduler has entered it into the journal."""

    record: CheckpointRecord
    seconds: float = 0.0
    """From the snapshot until it was durable."""
    number: int = 0
    usage: Usage | None = None

    @property
    def job_id(self) -> str:
        """Whose."""
        return self.record.job_id

    @property
    def attempt(self) -> int:
        """Of the attempt that wrote it."""
        return self.record.attempt


@dataclass(frozen=True, kw_only=True)
class BadCheckpoint:
    """A checkpoint that could not be used, and what was wrong with it."""

    record: CheckpointRecord
    problem: str


@dataclass(frozen=True, kw_only=True)
class ResumeReport:
    """What an attempt that was not a job's first goes on from; comes before its RUNNING."""

    job_id: str
    record: CheckpointRecord | None
    """`None` where no checkpoint was good: the job starts over."""
    progress: JobProgress
    """As it was there."""
    evaluated_at: int
    """Step of the last evaluation that was finished there; -1 for none."""
    quarantined: tuple[BadCheckpoint, ...] = ()
    """Newer ones that were tried first."""
    differences: tuple[str, ...] = ()
    """What is not as it was then, for which bits may differ from an uninterrupted run's."""
    attempt: int = 1
    number: int = 0


@dataclass(frozen=True, kw_only=True)
class WorkerCounters:
    """What a worker has done since its base was loaded; all but the last five only grow."""

    label_tokens: int = 0
    """Trained on, those among the tokens that have a loss."""
    padding_tokens: int = 0
    """Positions computed for nothing while training."""
    steps: int = 0
    """Optimizer steps of all its jobs."""
    pack_tokens: int = 0
    """Of shared packs, evaluations too."""
    pack_room: int = 0
    """Tokens that those packs could have held."""
    pack_seconds: float = 0.0
    """That packs took together, forward, backward and their jobs' own steps."""
    pack_counts: tuple[int, ...] = ()
    """Of packs by the time they took: see `pack_bounds`; the last is of those beyond all."""
    flops: float = 0.0
    """Floating-point operations that its packs needed, from shapes: see `workers.flops`."""
    checkpoint_failures: int = 0
    pack_bounds: tuple[float, ...] = ()
    """Upper bounds in seconds, ascending."""
    matrix_flops_per_second: float = 0.0
    """What a product of two large matrices reached on this device; 0 where it was not measured."""
    memory_bytes: int | None = None
    """Held on a GPU by this worker; `None` on a CPU."""
    device_utilization: float | None = None
    """Of the GPU by its driver's account, 0 to 1; `None` where that is not known."""


@dataclass(frozen=True, kw_only=True)
class WorkerStatus:
    """What a worker says of itself; counters grow from the moment its base was loaded."""

    worker_id: str
    base: BaseKey
    base_loaded: bool
    adapters: int
    """Jobs whose adapters are in the worker's memory now."""
    waiting: int
    """Jobs handed to the worker that do not fit yet."""
    evaluating: tuple[str, ...] = ()
    """Ids of the jobs that are being evaluated, not trained, at the moment."""
    busy_seconds: float = 0.0
    wall_seconds: float = 0.0
    tokens: int = 0
    counters: WorkerCounters = field(default_factory=WorkerCounters)
    error: str | None = None
    """Last line of the traceback that ended the worker, if one did."""


Report = StepReport | EvalReport | StateReport | LogReport | CheckpointReport | ResumeReport
"""Everything that a worker tells the scheduler about a job."""
