"""The cluster as its scheduler sees it at one moment, for people and dashboards: no policy reads it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MemoryView:
    """How the memory of one device is split, by the memory model; the parts add up to the total."""

    total_bytes: int
    base_bytes: int
    adapters_bytes: int
    """Adapters with gradients and moments."""
    activations_bytes: int
    """What the largest pack needs while it runs."""
    free_bytes: int


@dataclass(frozen=True, kw_only=True)
class SharerView:
    """A job whose adapter is on a worker."""

    job_id: str
    name: str
    adapter_bytes: int
    """Its weights, gradient and moments."""
    share: float | None
    """Of the worker's busy time over the last while, 0 to 1; `None` where it has not trained yet."""


@dataclass(frozen=True, kw_only=True)
class WorkerView:
    """A worker: one base on one device, and who shares it."""

    id: str
    node: str | None
    device: str
    base: str
    """Model, revision and dtype, for people."""
    state: str
    """`loading`, `up`, `draining` or `lost`."""
    memory: MemoryView | None
    """`None` until the base is loaded."""
    sharers: tuple[SharerView, ...]
    waiting: int
    """Jobs handed to the worker that do not fit yet."""
    utilization: float | None
    """Busy share of wall time since the base was loaded, 0 to 1."""
    tokens_per_second: float | None
    since_unix_seconds: float
    """Since when it is in this state."""


@dataclass(frozen=True, kw_only=True)
class QueueView:
    """What the operator has set for a queue, and how much of the cluster it has."""

    name: str
    weight: float
    """Fair shares of queues relate as their weights."""
    quota: int | None
    """Most jobs of it that train at once; `None` for no bound."""
    share: float | None
    """Of the devices' time over the last while, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class ClusterView:
    """All of it."""

    published_unix_seconds: float
    executor: str
    """For people: which Ray, or that there is none."""
    nodes: int
    devices: int
    devices_in_use: int
    workers: tuple[WorkerView, ...]
    queues: tuple[QueueView, ...]
    utilization: float | None
    """Busy share of all workers' wall time, 0 to 1."""
    tokens_per_second: float | None
