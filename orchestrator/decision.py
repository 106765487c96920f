"""What the scheduling policies answer: frozen records, each with the reason that a person is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from jobs.records import BaseKey, Placement
from orchestrator.snapshot import Device, WaitingJob


@dataclass(frozen=True, kw_only=True)
class NewWorker:
    """A base to load on a free device."""

    id: str
    device: Device
    base: BaseKey


@dataclass(frozen=True, kw_only=True)
class Retirement:
    """A worker without jobs that is to stop, and why."""

    worker_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Preemption:
    """Jobs to checkpoint and requeue, uncharged, so that another can run."""

    job_id: str
    """For whom."""
    worker_id: str
    victims: tuple[str, ...]
    unsaved_seconds: float
    """Work since the victims' last checkpoints, together."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class BaseOutlook:
    """How it stands with the devices, and with the workers of a base, for the sentence that says why a job waits."""

    needs_bytes: int
    """Of the job, with its base."""
    largest_here_bytes: int
    """Of all devices; 0 where there is none."""
    largest_bytes: int
    """Of those that were here or are expected."""
    num_workers: int
    most_free_bytes: int
    """On the worker with most room left, after this decision."""
    next_end_seconds: float | None
    """Wall seconds until one of their jobs should end; `None` where nothing is known."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do now."""

    new_workers: tuple[NewWorker, ...] = ()
    placements: tuple[Placement, ...] = ()
    preemptions: tuple[Preemption, ...] = ()
    retired: tuple[Retirement, ...] = ()
    """Workers without jobs whose device another base needs."""
    impossible: tuple[tuple[str, str], ...] = ()
    """(job id, why no device of this cluster can ever run it)."""
    reserved: tuple[str, ...] = ()
    """Workers that take no other jobs for now, so that one that would never find room finds some; to be said in the
    next snapshot."""
    considered: int = 0
    """Jobs looked at."""
    at_quota: Mapping[str, int] = field(default_factory=dict)
    """Queue -> its quota of jobs, where that is used up."""
    comes_first: Mapping[str, str] = field(default_factory=dict)
    """Job id -> what is being done for it."""
    outlook: Callable[[WaitingJob], BaseOutlook | None] = field(default=lambda _: None, compare=False, repr=False)
    """Of the workers of a job's base; reckoned when asked."""
    wanted_devices: int = 0
    """Devices that the jobs still waiting could fill, for an autoscaler."""

    def why(self, job: WaitingJob) -> str:
        """Say why a job that was not placed waits."""
        said = self.comes_first.get(job.id)
        if said is not None:
            return f"waiting: {said}"
        if job.queue in self.at_quota:
            most = self.at_quota[job.queue]
            return f"waiting: queue {job.queue} is at its quota of {most} {'job' if most == 1 else 'jobs'}"
        base = self.outlook(job)
        if base is not None and not base.largest_here_bytes:
            return "waiting: no device yet; the cluster has no node with room for a worker"
        if base is not None and base.needs_bytes > base.largest_here_bytes:
            coming = f"one of {gib(base.largest_bytes)}" if base.largest_bytes >= base.needs_bytes else "a larger one"
            return (
                f"waiting: needs about {gib(base.needs_bytes)}, the largest device that is here has "
                f"{gib(base.largest_here_bytes)}; {coming} may come"
            )
        if base is None or not base.num_workers:
            return f"waiting: no free device for {job.base}; every device holds another base"
        needs = job.demand.adapter_bytes + job.base_shape.token_bytes * job.demand.worst_tokens
        when = f"; next expected in {duration(base.next_end_seconds)}" if base.next_end_seconds is not None else ""
        if base.most_free_bytes >= needs:
            return f"waiting: the packs of all {base.num_workers} workers with this base are full{when}"
        return f"waiting: no worker with this base has {gib(needs)} free{when}"


def gib(num_bytes: int) -> str:
    """Bytes for people."""
    return f"{num_bytes / 2**30:.2f} GiB"


def duration(seconds: float) -> str:
    """Seconds for people, in their largest fitting unit."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
