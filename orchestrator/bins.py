"""Workers while a decision is made: what they hold now, and what they will hold once all that was promised is true."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from jobs.records import BaseKey
from orchestrator.room import Room
from orchestrator.snapshot import Device, RunningWorker, WaitingJob
from workers.memory import BaseShape, Demand


@dataclass
class Bin:
    """A worker, living or about to start."""

    index: int
    """Order among the bins; of equals the first is taken."""
    id: str
    device: Device
    base: BaseKey
    worker: RunningWorker | None
    """`None` for one that this decision starts."""
    room: Room
    """Of all that is there now and is placed by this decision."""
    later: Room | None = None
    """Without the jobs that were told to stop and with those that a place is being made for; `None` while that is the
    same. What is placed must fit into both."""
    kept: list[Demand] = field(default_factory=list)
    """Of jobs that this decision has placed or promised a place here."""
    victims: set[str] = field(default_factory=set)
    """Jobs that this decision stops."""
    closed: bool = False
    """Takes no jobs: kept for one, stopping, or emptying for another base."""
    is_shared_room: bool = True
    """`room` belongs to the snapshot."""

    @classmethod
    def of(cls, index: int, worker: RunningWorker) -> Bin:
        """From a worker of the snapshot."""
        one = cls(index, worker.id, worker.device, worker.base, worker, worker.room, closed=worker.stopping)
        if any(job.stopping for job in worker.jobs):
            one.later = Room(job.demand for job in worker.jobs if not job.stopping)
        return one

    @property
    def is_empty(self) -> bool:
        """Without jobs, now and later."""
        return not self.room.num_jobs and not self.kept

    def fits(self, job: WaitingJob, most_tokens: float, token_budget: int) -> bool:
        """Whether the job has room here now, memory and packs permitting, and takes nobody's promised room."""
        return fits(self.room, self.device, job, most_tokens, token_budget) and (
            self.later is None or fits(self.later, self.device, job, most_tokens, token_budget)
        )

    def fits_later(self, job: WaitingJob, most_tokens: float, token_budget: int) -> bool:
        """Whether the job has room once those that were told to stop have left."""
        return self.later is not None and fits(self.later, self.device, job, most_tokens, token_budget)

    def place(self, demand: Demand) -> None:
        """Take a job in now."""
        if self.is_shared_room:
            self.room, self.is_shared_room = self.room.copy(), False
        self.room.add(demand)
        if self.later is not None:
            self.later.add(demand)
        self.kept.append(demand)

    def promise(self, demand: Demand) -> None:
        """Keep room for a job that will fit once others have left."""
        if self.later is None:
            self.later = self.room.copy()
        self.later.add(demand)
        self.kept.append(demand)

    def without(self, victims: set[str]) -> Room:
        """What it will hold if these jobs stop too."""
        gone = victims | self.victims
        jobs = self.worker.jobs if self.worker is not None else ()
        room = Room(job.demand for job in jobs if not job.stopping and job.id not in gone)
        for demand in self.kept:
            room.add(demand)
        return room


def fits(room: Room, device: Device, job: WaitingJob, most_tokens: float, token_budget: int) -> bool:
    """Whether a job may join these: the first one if memory allows, others also only while packs are not full."""
    if room.num_jobs and room.pack_tokens + job.demand.worst_tokens > most_tokens:
        return False
    # A job more never makes a pack smaller.
    if room.bytes_now(job.base_shape, token_budget) + job.demand.adapter_bytes > device.memory_bytes:
        return False
    return room.bytes_with(job.base_shape, job.demand, token_budget) <= device.memory_bytes


@dataclass
class BaseBins:
    """The bins of one base, the emptiest packs first."""

    shape: BaseShape
    bins: list[Bin] = field(default_factory=list)
    _heap: list[tuple[int, int, Bin]] = field(default_factory=list)
    _refused: dict[float, list[Demand]] = field(default_factory=dict)
    """By limit: demands that fitted nowhere. Room only shrinks while a decision is made, so they never will."""

    def add(self, one: Bin) -> None:
        """A bin with this base; what fitted nowhere may fit here."""
        self.bins.append(one)
        self._refused.clear()
        if not one.closed:
            heapq.heappush(self._heap, (one.room.pack_tokens, one.index, one))

    def find(self, job: WaitingJob, most_tokens: float, token_budget: int) -> Bin | None:
        """The bin with the emptiest pack in which the job fits now."""
        refused = self._refused.setdefault(most_tokens, [])
        for least in refused:
            if _asks_no_less(job.demand, least):
                return None
        passed: list[tuple[int, int, Bin]] = []
        found = None
        while self._heap:
            tokens, _, one = self._heap[0]
            if tokens and tokens + job.demand.worst_tokens > most_tokens:
                break
            entry = heapq.heappop(self._heap)
            # An entry from before a placement; there is a newer one.
            if one.closed or tokens != one.room.pack_tokens:
                continue
            passed.append(entry)
            if one.fits(job, most_tokens, token_budget):
                found = one
                break
        for entry in passed:
            heapq.heappush(self._heap, entry)
        if found is None:
            refused[:] = [other for other in refused if not _asks_no_less(other, job.demand)]
            refused.append(job.demand)
        return found

    def place(self, one: Bin, job: WaitingJob) -> None:
        """Put the job into a bin that `find` gave."""
        one.place(job.demand)
        heapq.heappush(self._heap, (one.room.pack_tokens, one.index, one))


def _asks_no_less(one: Demand, other: Demand) -> bool:
    """Whether a worker that cannot take `other` can surely not take `one`."""
    return (
        one.adapter_bytes >= other.adapter_bytes
        and one.worst_tokens >= other.worst_tokens
        and one.worst_labels * other.worst_tokens >= other.worst_labels * one.worst_tokens
        and one.checkpointing is other.checkpointing
    )
