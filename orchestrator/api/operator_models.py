"""What the API answers those with who look after the service."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from jobs.records import JobState
from jobs.view import WorkerView
from orchestrator.api.models import Model


class WorkerListing(Model):
    """All workers."""

    workers: list[WorkerView]


class QueueItem(Model):
    """A queue: what the operator set, what it has of the cluster, and what is in it."""

    name: str
    weight: float | None
    """Fair shares of queues relate as their weights; null for one that nothing was set for."""
    quota: int | None
    """Most jobs that train at once."""
    share: float | None
    """Of the devices' time over the last while."""
    states: dict[JobState, int]
    """How many jobs are in each state."""


class QueueListing(Model):
    """All queues."""

    queues: list[QueueItem]


class CallerItem(Model):
    """Who asks, and what they may do."""

    name: str | None
    """Of the token; null where the service asks for none."""
    queues: list[str] | None
    """Where the caller may submit and steer; null for everywhere."""
    read: Literal["own", "all"]
    """Whose jobs the caller sees: those of their queues, or of all."""


class TimelineSpan(Model):
    """A job's time on a worker."""

    job_id: str
    name: str
    state: JobState
    """Of the job, now."""
    attempt: int
    worker_id: str | None
    node: str | None
    started_unix_seconds: float
    ended_unix_seconds: float | None
    """Null while it is there."""
    why: str | None
    """Reason code of its end."""


class Timeline(Model):
    """Who shared which worker with whom, and when."""

    since_unix_seconds: float
    until_unix_seconds: float
    spans: list[TimelineSpan]
    """The newest first. Those of one worker that overlap shared its device."""
    is_whole: bool
    """Whether these are all there were; else the older ones are left out."""


class SweepItem(Model):
    """A sweep in a list."""

    id: str
    name: str
    """Its jobs are named after it, with a number each."""
    submitted_unix_seconds: float
    states: dict[JobState, int]
    """How many of its jobs are in each state."""


class SweepListing(Model):
    """The sweeps that were submitted last, the newest first."""

    sweeps: list[SweepItem]


class PruneOrder(Model):
    """What may go. Jobs that have not ended are never touched."""

    model_config = ConfigDict(extra="forbid", defer_build=False)

    jobs_older_than_seconds: Annotated[float, Field(strict=True, ge=0, le=1e10)] | None = None
    """Jobs that ended longer ago go, with their checkpoints and logs."""
    checkpoints_older_than_seconds: Annotated[float, Field(strict=True, ge=0, le=1e10)] | None = None
    """Checkpoints of jobs that ended longer ago go; the jobs stay, and cannot go on from there any more."""
    checkpoints_above_bytes: Annotated[int, Field(strict=True, ge=0, le=2**62)] | None = None
    """Checkpoints of ended jobs go, those of the jobs that ended first before others, until all are below this."""
    artifacts: bool = False
    """Delete the published adapters of the jobs that go. Else they stay on disk."""
    dry_run: bool = True
    """Only say what would go."""


class PrunedJob(Model):
    """A job of which something goes."""

    id: str
    name: str
    state: JobState
    ended_unix_seconds: float | None
    is_removed: bool
    """Whether the job itself goes, not only its checkpoints."""
    checkpoints: int
    """How many go."""
    freed_bytes: int


class PrunePlan(Model):
    """What goes, or would go."""

    dry_run: bool
    jobs: list[PrunedJob]
    freed_bytes: int
    undeleted: int = 0
    """Of how many jobs, of this call or of one before, files could not be deleted; the next prune tries again."""
    problem: str | None = None
    """What kept the first of them."""


class Health(Model):
    """Whether the service lives, or is ready."""

    status: Literal["ok", "not_ready"]
    detail: str | None = None
    """Why it is not."""
    version: str
