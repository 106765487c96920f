"""What the scheduling policies see: frozen records without logic of their own. What they answer is in `decision`.

How the service uses them. Each turn it makes a `Snapshot` and calls `placement.decide(snapshot, line)`; `line` is a
`WaitingLine` that it keeps up to date as jobs come and go (without one it is made from `snapshot.waiting`). It then
executes the `Decision`: stops `retired` workers, starts `new_workers`, checkpoints and requeues the victims of
`preemptions` (PENDING, reason "preempted", never charged), hands out `placements`. A job that waits is told why by
`decision.why(job)`, computed when somebody asks. Records of workers on which nothing happened may be used again in the
next snapshot: what changes by itself is reckoned from `as_of_seconds`, and their sums are computed once. All seconds
are of one clock that never goes back. Fair shares need a memory: a `FairShares` that the service advances each turn and
asks for `Snapshot.queues`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from jobs.records import BaseKey
from orchestrator.room import Room
from workers.memory import BaseShape, Demand

DEFAULT_QUEUE = "default"


@dataclass(frozen=True, kw_only=True)
class Device:
    """A place where one worker can live."""

    id: str
    kind: str
    """`cpu` or `cuda`."""
    memory_bytes: int
    num_cpus: int
    node: str | None = None
    """The machine that it is part of, where there are several."""
    index: int | None = None
    """Its number among the machine's GPUs, for a process that sees all of them."""
    is_shared: bool = False
    """Whether it is a part of a GPU, the other parts of which other workers have."""


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """What an operator may turn. Seconds are of wall time unless a field says device-seconds."""

    hand_over_at_once: bool = False
    """`loraloom run`: all jobs of a base are handed to its workers at once and taken in there in order, at step
    boundaries, so that no clock has a part in what is packed together. Otherwise (the service) a job is placed only
    where it fits now."""
    most_packs: float = 2.0
    """A worker takes jobs until their micro-batches fill so many packs. One pack is what a device does at once; a
    second keeps the packs full as jobs end; more would share the device without making it faster. 0: one job a
    worker."""
    fair_window_seconds: float = 6 * 3600.0
    """Over a window as long as this, no queue falls below its fair share by more than `fair_tolerance` and what one job
    takes. Until then priority goes first."""
    fair_tolerance: float = 0.01
    """Share of a window's fair share that a queue may be behind before it comes before all priorities."""
    patience_seconds: float = 3600.0
    """A job that has waited longer is overdue: every `overdue_turn`-th placement is for the one that has waited
    longest, and room is kept free for it where others would take it for ever."""
    overdue_turn: int = 8
    most_considered: int = 64
    """Kinds of jobs of a base that may be found not to fit before a decision takes the base's workers to be full."""
    most_preemptions: int = 8
    """Jobs for which others are stopped, in one decision."""
    most_reserved: int = 8
    """Workers that may be kept for overdue jobs, and as many for queues that are owed; of either at most an eighth of
    all, but always one."""
    give_back_seconds: float = 300.0
    """A worker without jobs that nobody waits for gives its device back after so long."""
    move_seconds: float = 30.0
    """What moving a job to a worker that has the base costs it: checkpoint, load, and the micro-batch that is lost."""
    start_seconds: float = 120.0
    """What loading a base on a free device takes, beyond that."""
    least_gain: float = 2.0
    """A move must save this many times what it costs."""
    largest_device_bytes: int = 0
    """Memory of the largest device that can ever be there, by the operator's word. A job that needs more fails at once;
    any other waits, whatever is there now. 0 where nothing was said: then the largest that was ever there decides."""
    may_grow: bool = False
    """Others run the cluster, and may add devices larger than any before: without the operator's word no job is taken
    to be too large for ever."""


@dataclass(frozen=True, kw_only=True)
class WaitingJob:
    """A job that has no worker yet."""

    id: str
    base: BaseKey
    base_shape: BaseShape
    demand: Demand
    work_tokens: int
    """Tokens it has still to train on; what the load of workers is balanced by. With `hand_over_at_once` all its
    tokens, those of earlier attempts too: where it goes must not depend on when it was stopped."""
    priority: int
    sequence: int
    """Order of submission; unique."""
    queue: str = DEFAULT_QUEUE
    submitted_seconds: float = 0.0
    """Its age counts from here, also after a preemption. Jobs of one submission share it."""
    work_seconds: float = 0.0
    """Device-seconds that it will take in full packs, by the speed measured for its base; what fair shares count. 0
    where nothing is known."""

    @cached_property
    def order(self) -> tuple[int, float, float, int]:
        """Sorts the jobs of a queue: priority, age, and of those submitted at once the longest first, so that none of
        them is what all wait for in the end."""
        return (-self.priority, self.submitted_seconds, -self.work_seconds, self.sequence)


@dataclass(frozen=True, kw_only=True)
class RunningJob:
    """A job that was handed to a worker and has not ended."""

    id: str
    demand: Demand
    tokens_left: int
    """With `hand_over_at_once` all its tokens, as in `WaitingJob`."""
    priority: int = 0
    queue: str = DEFAULT_QUEUE
    seconds_left: float = 0.0
    """Device-seconds of its own that it still needs, as of the worker's `as_of_seconds`."""
    unsaved_seconds: float = 0.0
    """Work since its last checkpoint: what stopping it could lose at most."""
    placed_seconds: float = 0.0
    """When this attempt began."""
    num_preemptions: int = 0
    """Times that it has made room for a higher priority."""
    stopping: bool = False
    """It was told to make room and has not left yet."""


@dataclass(frozen=True, kw_only=True)
class RunningWorker:
    """A worker as the policies see it."""

    id: str
    device: Device
    base: BaseKey
    jobs: tuple[RunningJob, ...] = ()
    as_of_seconds: float = 0.0
    """When what is said of its jobs was true."""
    idle_since_seconds: float | None = None
    """Since when it has had no job."""
    stopping: bool = False
    """It was told to stop, and its device is not free yet."""
    reserved: bool = False
    """It was among `Decision.reserved` the last time: one that has begun to empty is kept rather than another."""

    @cached_property
    def room(self) -> Room:
        """Of its jobs; not to be changed."""
        return Room(job.demand for job in self.jobs)

    @cached_property
    def work_tokens(self) -> int:
        """Tokens that its jobs have still to train on."""
        return sum(job.tokens_left for job in self.jobs)

    @cached_property
    def work_seconds(self) -> float:
        """Device-seconds until it would have no jobs, if it got no more, as of `as_of_seconds`."""
        return sum(job.seconds_left for job in self.jobs)

    @cached_property
    def pack_tokens(self) -> int:
        """Tokens of a micro-batch of each job."""
        return sum(job.demand.worst_tokens for job in self.jobs)

    @cached_property
    def by_queue(self) -> Mapping[str, tuple[int, float, float]]:
        """Of each queue: its jobs here, the device-seconds that they still need, its share of the device now."""
        found: dict[str, tuple[int, float, float]] = {}
        for job in self.jobs:
            number, left, share = found.get(job.queue, (0, 0.0, 0.0))
            part = job.demand.worst_tokens / self.pack_tokens
            found[job.queue] = (number + 1, left + job.seconds_left, share + part)
        return found

    @cached_property
    def lowest_priority(self) -> int | None:
        """Of the jobs that have not been told to stop; `None` without any."""
        return min((job.priority for job in self.jobs if not job.stopping), default=None)

    @cached_property
    def next_end_seconds(self) -> float | None:
        """Wall seconds after `as_of_seconds` until the first of its jobs should end; `None` without jobs."""
        return min((job.seconds_left * self.pack_tokens / job.demand.worst_tokens for job in self.jobs), default=None)


@dataclass(frozen=True, kw_only=True)
class Queue:
    """A named queue, as the operator set it up and as it has fared."""

    name: str
    weight: float = 1.0
    """Its share of the devices is its weight by the sum of the weights of the queues that want some."""
    max_jobs: int | None = None
    """Quota: jobs of it that may have a place at the same time. In jobs, since jobs share devices."""
    served_seconds: float = 0.0
    """Device-seconds that its jobs have had, lately (see `fair_shares.FairShares`)."""
    fair_seconds: float = 0.0
    """Device-seconds that would have been its fair share of what all queues had, over the same time."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All that a decision is made from."""

    waiting: tuple[WaitingJob, ...] = ()
    """Left empty by a caller that keeps a `waiting_line.WaitingLine`."""
    workers: tuple[RunningWorker, ...]
    free_devices: tuple[Device, ...]
    num_started: int
    """Workers ever started; the next one is `w<num_started>`."""
    token_budget: int
    """Tokens that a pack may hold."""
    queues: tuple[Queue, ...] = ()
    """Those with a weight, a quota or a past; others count as `Queue(name=…)`."""
    now_seconds: float = 0.0
    num_placed: int = 0
    """Placements ever made; says whose turn it is (see `PolicySettings.overdue_turn`)."""
    largest_device_bytes: int = 0
    """Of the devices that the cluster ever had, also those that are gone for now."""
    settings: PolicySettings = field(default_factory=PolicySettings)
