"""Which job runs on which worker, and which base gets which device. Pure: a snapshot in, a frozen decision out.

In the service's mode each job, in the order of `queueing.Turns`, gets the first of these that there is:

1. a worker with its base, room by the memory model, and a pack that is not full: the one with the emptiest pack;
2. a new worker on a free device;
3. a worker with its base and room whose pack is full, up to `most_packs`;
4. room that jobs which were told to stop will leave, or the device of a worker that is stopping or has no jobs;
5. the place of jobs of strictly lower priority (`preemption`);
6. if it is overdue, or its queue is owed: a worker that takes no others until it is empty enough.

Otherwise it waits, and `Decision.why` says why. Jobs that 4 to 6 promise a place get it in a later decision, as by 1 to
3. `loraloom run` has a mode of its own: `handover`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from jobs.records import BaseKey, Placement
from orchestrator import preemption
from orchestrator.bins import BaseBins, Bin, fits
from orchestrator.decision import (
    BaseOutlook,
    Decision,
    NewWorker,
    Preemption,
    Retirement,
    gib,
)
from orchestrator.handover import hand_over, placed_because
from orchestrator.queueing import Turns
from orchestrator.room import Room
from orchestrator.snapshot import (
    Device,
    Snapshot,
    WaitingJob,
)
from orchestrator.waiting_line import WaitingLine
from workers.memory import Demand


def decide(snapshot: Snapshot, line: WaitingLine | None = None) -> Decision:
    """Place every waiting job that can be placed now.

    Args:
        snapshot: Of the cluster.
        line: The waiting jobs, where the caller keeps them; made from `snapshot.waiting` otherwise.
    """
    if snapshot.settings.hand_over_at_once:
        return hand_over(snapshot)
    return _Deciding(snapshot, WaitingLine(snapshot.waiting) if line is None else line).decide()


@dataclass
class _Coming:
    """A device that will be free for a base."""

    device: Device
    room: Room
    where: str


@dataclass
class _Deciding:
    """A decision in the making."""

    snapshot: Snapshot
    line: WaitingLine
    bins: list[Bin] = field(default_factory=list)
    bases: dict[BaseKey, BaseBins] = field(default_factory=dict)
    coming: dict[BaseKey, list[_Coming]] = field(default_factory=dict)
    making_room: dict[BaseKey, list[Bin]] = field(default_factory=dict)
    alone: dict[tuple[BaseKey, Demand], int] = field(default_factory=dict)
    new_workers: list[NewWorker] = field(default_factory=list)
    placements: list[Placement] = field(default_factory=list)
    preemptions: list[Preemption] = field(default_factory=list)
    retired: list[Retirement] = field(default_factory=list)
    reserved: list[str] = field(default_factory=list)
    num_reserved: list[int] = field(default_factory=lambda: [0, 0])
    """For overdue jobs, and for queues that are owed."""
    impossible: list[tuple[str, str]] = field(default_factory=list)
    comes_first: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settings, budget = self.snapshot.settings, self.snapshot.token_budget
        self.one_pack = min(1.0, settings.most_packs) * budget
        self.most_tokens = settings.most_packs * budget
        self.bins = [Bin.of(index, worker) for index, worker in enumerate(self.snapshot.workers)]
        self.free = list(self.snapshot.free_devices)
        self.idle = [one for one in self.bins if one.is_empty and not one.closed]
        self.leaving = [
            one
            for one in self.bins
            if one.closed or (one.later is not None and not one.later.num_jobs and one.room.num_jobs)
        ]
        self.largest_here = max(
            (device.memory_bytes for device in [*self.free, *(one.device for one in self.bins)]),
            default=0,
        )
        self.largest = max(self.largest_here, settings.largest_device_bytes or self.snapshot.largest_device_bytes)
        self.is_largest_known = settings.largest_device_bytes > 0 or not settings.may_grow
        num_workers = len(self.bins)
        self.most_reserved = min(settings.most_reserved, max(1, num_workers // 8))
        self.lowest_priority = min(
            (one.worker.lowest_priority for one in self.bins if one.worker and one.worker.lowest_priority is not None),
            default=math.inf,
        )
        self.preemptions_left = settings.most_preemptions
        for one in self.bins:
            if one.later is not None:
                self.making_room.setdefault(one.base, []).append(one)

    def decide(self) -> Decision:
        """Consider jobs in order until none is left that may fit."""
        turns = self.turns = Turns(self.line, self.snapshot)
        self.terms = preemption.Terms(
            now_seconds=self.snapshot.now_seconds,
            token_budget=self.snapshot.token_budget,
            most_tokens=self.most_tokens,
            ahead=turns.ahead,
        )
        considered = 0
        while (job := turns.next()) is not None:
            considered += 1
            if self._place(job):
                turns.placed(job)
                continue
            promise = self._promise(job)
            if promise is None:
                turns.blocked(job)
            else:
                turns.placed(job)
                self.comes_first[job.id] = promise
        return Decision(
            new_workers=tuple(self.new_workers),
            placements=tuple(self.placements),
            preemptions=tuple(self.preemptions),
            retired=tuple(self.retired),
            impossible=tuple(self.impossible),
            reserved=tuple(self.reserved),
            considered=considered,
            at_quota=dict(turns.at_quota),
            comes_first=self.comes_first,
            outlook=self._outlook,
            wanted_devices=self._wanted_devices(),
        )

    def _bins_of(self, job: WaitingJob) -> BaseBins:
        found = self.bases.get(job.base)
        if found is None:
            found = self.bases[job.base] = BaseBins(job.base_shape)
            for one in self.bins:
                if one.base == job.base:
                    found.add(one)
        return found

    def _place(self, job: WaitingJob) -> bool:
        """Steps 1 to 3."""
        with_base, budget = self._bins_of(job), self.snapshot.token_budget
        one = with_base.find(job, self.one_pack, budget)
        if one is None and self.free:
            one = self._start(job, with_base)
        if one is None and self.most_tokens > self.one_pack and not self._idle_for(job):
            one = with_base.find(job, self.most_tokens, budget)
        if one is None:
            return False
        others = one.room.num_jobs
        with_base.place(one, job)
        takes = one.room.bytes_now(job.base_shape, budget)
        reason = placed_because(one.id, takes, one.device.memory_bytes, others)
        self.placements.append(Placement(job_id=job.id, worker_id=one.id, reason=reason))
        return True

    def _start(self, job: WaitingJob, with_base: BaseBins) -> Bin | None:
        needs = self._alone(job)
        for place, device in enumerate(self.free):
            if needs <= device.memory_bytes:
                del self.free[place]
                name = f"w{self.snapshot.num_started + len(self.new_workers)}"
                self.new_workers.append(NewWorker(id=name, device=device, base=job.base))
                one = Bin(len(self.bins), name, device, job.base, None, Room())
                self.bins.append(one)
                with_base.add(one)
                return one
        return None

    def _alone(self, job: WaitingJob) -> int:
        """Bytes of a worker with this job only."""
        key = (job.base, job.demand)
        if key not in self.alone:
            self.alone[key] = Room().bytes_with(job.base_shape, job.demand, self.snapshot.token_budget)
        return self.alone[key]

    def _idle_for(self, job: WaitingJob) -> bool:
        """Whether a worker without jobs holds a device that the job's base could have."""
        return any(
            one.is_empty and not one.closed and one.base != job.base and self._alone(job) <= one.device.memory_bytes
            for one in self.idle
        )

    def _promise(self, job: WaitingJob) -> str | None:
        """Steps 4 to 6: say what is being done for the job, or `None` where nothing is."""
        needs = self._alone(job)
        if needs > self.largest and self.largest and self.is_largest_known:
            said = f"needs about {gib(needs)}, the largest device {self._whose} has {gib(self.largest)}"
            self.impossible += [(one.id, said) for one in self.line.alike(job).jobs]
            return None
        return self._of_leaving(job, needs) or self._preempt(job) or self._reserve(job, needs)

    @property
    def _whose(self) -> str:
        if self.largest == self.largest_here:
            return "here"
        stated = self.snapshot.settings.largest_device_bytes
        return "that can ever be here, by --largest-device," if stated else "that was ever here"

    def _of_leaving(self, job: WaitingJob, needs: int) -> str | None:
        budget = self.snapshot.token_budget
        for one in self.making_room.get(job.base, ()):
            if not one.closed and one.fits_later(job, self.most_tokens, budget):
                one.promise(job.demand)
                return f"{one.id} is making room"
        for device in self.coming.get(job.base, ()):
            if fits(device.room, device.device, job, self.one_pack, budget):
                device.room.add(job.demand)
                return device.where
        for one in self.leaving:
            if not one.kept and needs <= one.device.memory_bytes:
                self.leaving.remove(one)
                one.closed = True
                return self._comes(job, one, f"the device of {one.id} is being freed")
        for one in self.idle:
            if one.is_empty and not one.closed and one.base != job.base and needs <= one.device.memory_bytes:
                self.idle.remove(one)
                one.closed = True
                self.retired.append(Retirement(worker_id=one.id, reason=f"its device is needed for {job.base}"))
                return self._comes(job, one, f"the device of {one.id} is being freed")
        return None

    def _comes(self, job: WaitingJob, one: Bin, where: str) -> str:
        self.coming.setdefault(job.base, []).append(_Coming(one.device, Room([job.demand]), where))
        return where

    def _preempt(self, job: WaitingJob) -> str | None:
        if job.priority <= self.lowest_priority or self.preemptions_left <= 0:
            return None
        self.preemptions_left -= 1
        found = preemption.choose(job, self.bins, self.terms)
        if found is None:
            return None
        one, chosen = found
        self.preemptions.append(chosen)
        one.victims.update(chosen.victims)
        said = f"{one.id} is making room: {_names(chosen.victims)} for it"
        if one.base != job.base:
            one.closed = True
            return self._comes(job, one, said)
        if one.later is None:
            self.making_room.setdefault(job.base, []).append(one)
        one.later = one.without(set())
        one.promise(job.demand)
        return said

    def _reserve(self, job: WaitingJob, needs: int) -> str | None:
        is_owed = job.queue in self.turns.owed
        # Counted apart: a line so long that all are overdue must not keep a queue from its share.
        if self.num_reserved[is_owed] >= self.most_reserved or not (is_owed or self.turns.is_overdue(job)):
            return None
        with_base, others = [], []
        for one in self.bins:
            if one.worker is None or one.closed or needs > one.device.memory_bytes:
                continue
            if one.base == job.base:
                with_base.append(one)
            elif not one.kept and (not is_owed or self.turns.owed.isdisjoint(one.worker.by_queue)):
                others.append(one)
        # A queue that is owed more than its base's workers give takes one from queues that are not.
        choice = (others or with_base) if is_owed else (with_base or others)
        if not choice:
            return None
        one = min(choice, key=self._until_empty)
        one.closed = True
        self.reserved.append(one.id)
        self.num_reserved[is_owed] += 1
        if one.base != job.base:
            return self._comes(job, one, f"{one.id} takes no more jobs; its device gets {job.base} once it has none")
        one.promise(job.demand)
        return f"{one.id} takes no other jobs until this one fits"

    def _until_empty(self, one: Bin) -> tuple[bool, float, int]:
        worker = one.worker
        assert worker is not None
        return (
            not worker.reserved,
            worker.work_seconds - (self.snapshot.now_seconds - worker.as_of_seconds),
            one.index,
        )

    def _outlook(self, job: WaitingJob) -> BaseOutlook:
        bins = [one for one in self.bins if one.base == job.base]
        free = [
            one.device.memory_bytes - one.room.bytes_now(job.base_shape, self.snapshot.token_budget) for one in bins
        ]
        now = self.snapshot.now_seconds
        ends = [
            max(0.0, one.worker.as_of_seconds + one.worker.next_end_seconds - now)
            for one in bins
            if one.worker is not None and one.worker.next_end_seconds
        ]
        return BaseOutlook(
            needs_bytes=self._alone(job),
            largest_here_bytes=self.largest_here,
            largest_bytes=self.largest,
            num_workers=len(bins),
            most_free_bytes=max(free, default=0),
            next_end_seconds=min(ends, default=None),
        )

    def _wanted_devices(self) -> int:
        """Full packs of what is still in line: a device more for each, by base."""
        left = dict(self.line.pack_tokens)
        for one in self.bins:
            for demand in one.kept:
                left[one.base] -= demand.worst_tokens
        return sum(math.ceil(tokens / self.snapshot.token_budget) for tokens in left.values() if tokens > 0)


def _names(victims: tuple[str, ...]) -> str:
    if len(victims) == 1:
        return f"{victims[0]} stops"
    return f"{', '.join(victims[:3])} stop" if len(victims) <= 3 else f"{len(victims)} jobs stop"
