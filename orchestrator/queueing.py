"""The order in which waiting jobs are considered: priority, then fair share between queues, then age.

The rules, in the order in which they count:

1. Every `overdue_turn`-th placement is for the job that has waited longest, once that is more than `patience_seconds`.
   So no job is overtaken for ever, whatever the priorities: at most as many turns pass as there are older jobs.
2. A queue that has had less than its fair share, by more than `fair_tolerance` of a long window's, comes before all
   others until what its running jobs will still take makes up for it. So priority cannot take a queue's share away.
3. The highest priority.
4. Of equal priorities the queue that is furthest behind its fair share for its weight: what it has had, and what its
   running jobs will still take, less what was its share.
5. Within a queue the oldest; of those submitted at once the longest.

A queue at its quota is passed over. Fair shares are counted in device-seconds: time of a device, divided among the jobs
that train on it by their tokens. A queue's share is its weight's share of what all queues had; what a queue could not
use goes to the others (max-min fairness: Bertsekas & Gallager, Data Networks, 6.5.2). While a queue wants nothing it
collects no claim.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from jobs.records import BaseKey
from orchestrator.snapshot import PolicySettings, Queue, Snapshot, WaitingJob
from workers.memory import Demand

_LONGEST_CHARGE = 0.25
"""Share of the fair window that a single job is counted with in advance at most: a job of days must not keep its queue
from its share of the hours."""

Kind = tuple[str, BaseKey, Demand, int]
"""Queue, base, demand, priority: jobs of one kind fit or do not fit together."""


def water_fill(capacity: float, wanted: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """Divide a capacity by weight, giving nobody more than it wants and what is left over to the others.

    Args:
        capacity: To divide.
        wanted: By name; infinity for as much as there is.
        weights: By name, positive.
    """
    shares = dict.fromkeys(wanted, 0.0)
    left = capacity
    # In the order in which they are satisfied as the level rises.
    rising = sorted(wanted, key=lambda name: (wanted[name] / weights[name], name))
    total = sum(weights[name] for name in rising)
    for name in rising:
        share = min(wanted[name], left * weights[name] / total if total > 0 else 0.0)
        shares[name] = share
        left -= share
        total -= weights[name]
    return shares


class FairShares:
    """Remembers what queues had and what was their share, forgetting it over the fair window."""

    def __init__(self, settings: PolicySettings | None = None) -> None:
        self._window = (settings or PolicySettings()).fair_window_seconds
        self._served: dict[str, float] = {}
        self._fair: dict[str, float] = {}

    def advance(
        self, seconds: float, devices: Mapping[str, float], wanting: Iterable[str], queues: Iterable[Queue] = ()
    ) -> None:
        """Let time pass.

        Args:
            seconds: Since the last call.
            devices: Device-seconds that each queue had in this time, divided by `seconds`.
            wanting: Queues with jobs that waited, quota permitting.
            queues: Their weights; 1 where there is none.
        """
        if seconds <= 0:
            return
        hungry = set(wanting)
        weights = {queue.name: queue.weight for queue in queues}
        wanted = {name: math.inf if name in hungry else devices.get(name, 0.0) for name in sorted({*devices, *hungry})}
        for name in wanted:
            weights.setdefault(name, 1.0)
        fair = water_fill(sum(devices.values()), wanted, weights)
        kept = math.exp(-seconds / self._window)
        for name in sorted({*wanted, *self._served}):
            self._served[name] = self._served.get(name, 0.0) * kept + devices.get(name, 0.0) * seconds
            self._fair[name] = self._fair.get(name, 0.0) * kept + fair.get(name, 0.0) * seconds

    def queues(self, known: Iterable[Queue] = ()) -> tuple[Queue, ...]:
        """For a snapshot: the queues as set up, with what they had and what was their share."""
        rules = {queue.name: queue for queue in known}
        return tuple(
            Queue(
                name=name,
                weight=rules[name].weight if name in rules else 1.0,
                max_jobs=rules[name].max_jobs if name in rules else None,
                served_seconds=self._served.get(name, 0.0),
                fair_seconds=self._fair.get(name, 0.0),
            )
            for name in sorted({*rules, *self._served})
        )

    def to_json(self) -> dict[str, list[float]]:
        """For the journal: queue -> device-seconds had and due."""
        return {name: [self._served[name], self._fair[name]] for name in sorted(self._served)}

    def restore(self, saved: Mapping[str, Sequence[float]]) -> None:
        """Take up what `to_json` gave."""
        self._served = {name: had for name, (had, _) in saved.items()}
        self._fair = {name: due for name, (_, due) in saved.items()}


class WaitingLine:
    """The waiting jobs by kind, each kind by age. The service keeps it between decisions; no decision changes it."""

    def __init__(self, jobs: Iterable[WaitingJob] = ()) -> None:
        self._jobs: dict[str, WaitingJob] = {}
        self.kinds: dict[str, dict[Kind, list[WaitingJob]]] = {}
        """By queue."""
        self.pack_tokens: dict[BaseKey, int] = {}
        """Tokens of a micro-batch of each job that waits, by base."""
        for job in jobs:
            self.add(job)

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[WaitingJob]:
        return iter(self._jobs.values())

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._jobs

    def add(self, job: WaitingJob) -> None:
        """Put a job in line.

        Raises:
            ValueError: One of its id is there; a change of priority or queue is `remove` and `add`.
        """
        if job.id in self._jobs:
            raise ValueError(f"job {job.id} is in line already; remove it first")
        self._jobs[job.id] = job
        alike = self.kinds.setdefault(job.queue, {}).setdefault(kind_of(job), [])
        if not alike or alike[-1].order < job.order:
            alike.append(job)
        else:
            insort(alike, job, key=_order)
        self.pack_tokens[job.base] = self.pack_tokens.get(job.base, 0) + job.demand.worst_tokens

    def remove(self, job_id: str) -> WaitingJob:
        """Take a job out: it was placed, or paused, or ended.

        Raises:
            KeyError: It is not in line.
        """
        job = self._jobs.pop(job_id)
        kind = kind_of(job)
        of_queue = self.kinds[job.queue]
        alike = of_queue[kind]
        del alike[bisect_left(alike, job.order, key=_order)]
        if not alike:
            del of_queue[kind]
            if not of_queue:
                del self.kinds[job.queue]
        self.pack_tokens[job.base] -= job.demand.worst_tokens
        if not self.pack_tokens[job.base]:
            del self.pack_tokens[job.base]
        return job


def kind_of(job: WaitingJob) -> Kind:
    """What decides where a job fits, and for whom it may be made to fit."""
    return (job.queue, job.base, job.demand, job.priority)


def _order(job: WaitingJob) -> tuple[int, float, float, int]:
    return job.order


@dataclass
class _Standing:
    """How a queue stands while a decision is made."""

    name: str
    weight: float
    jobs_left: float
    """That its quota allows."""
    ahead_seconds: float
    """Device-seconds that it has had and will have, beyond its fair share."""
    lag_seconds: float
    """Device-seconds that it has had less than its fair share so far."""
    tolerated_seconds: float
    heads: list[tuple[tuple[int, float, float, int], Kind, int]]
    """A heap: the first job of each kind that is not known to fit nowhere, and its place among those of its kind."""

    @property
    def is_owed(self) -> bool:
        return self.lag_seconds > self.tolerated_seconds and self.ahead_seconds < -self.tolerated_seconds


class Turns:
    """Who is next, while a decision is made: `next()`, and what came of it."""

    def __init__(self, line: WaitingLine, snapshot: Snapshot) -> None:
        self._line = line
        self._settings = snapshot.settings
        self._now = snapshot.now_seconds
        self._num_placed = snapshot.num_placed
        self._num_blocked = 0
        self._taken: set[str] = set()
        self._blocked: set[Kind] = set()
        self._oldest: list[tuple[float, float, int, Kind, int]] | None = None
        self._standings = _standings(line, snapshot)
        self.at_quota = {
            queue.name: queue.max_jobs
            for queue in snapshot.queues
            if queue.max_jobs is not None and (queue.name in line.kinds and queue.name not in self._standings)
        }
        """Queues that are passed over, and their quotas."""
        self._quotas = {queue.name: queue.max_jobs for queue in snapshot.queues if queue.max_jobs is not None}

    @property
    def owed(self) -> frozenset[str]:
        """Queues that have had less than their fair share by more than is tolerated, and have jobs that wait."""
        return frozenset(name for name, one in self._standings.items() if one.is_owed)

    def is_overdue(self, job: WaitingJob) -> bool:
        """Whether it has waited longer than anybody should."""
        return self._now - job.submitted_seconds > self._settings.patience_seconds

    def next(self) -> WaitingJob | None:
        """The job to consider now; the same one until it is said what came of it."""
        if self._num_blocked >= self._settings.most_considered:
            return None
        if self._num_placed % self._settings.overdue_turn == self._settings.overdue_turn - 1:
            job = self._longest_waiting()
            if job is not None:
                return job
        best: tuple[tuple[bool, float, float, tuple[int, float, float, int], str], WaitingJob] | None = None
        for name in list(self._standings):
            standing = self._standings[name]
            job = self._head(standing)
            if job is None:
                del self._standings[name]
                continue
            rank = standing.ahead_seconds / standing.weight
            owed = standing.is_owed
            key = (not owed, 0.0 if owed else -job.priority, rank, job.order, name)
            if best is None or key < best[0]:
                best = (key, job)
        return best[1] if best else None

    def placed(self, job: WaitingJob) -> None:
        """It has a place, or one is being made for it."""
        self._num_placed += 1
        self._taken.add(job.id)
        standing = self._standings.get(job.queue)
        if standing is None:
            return
        standing.ahead_seconds += charge(job.work_seconds, self._settings)
        standing.jobs_left -= 1
        if standing.jobs_left <= 0:
            self.at_quota[job.queue] = self._quotas[job.queue] or 0
            del self._standings[job.queue]

    def blocked(self, job: WaitingJob) -> None:
        """There is no place for it, nor for others of its kind."""
        self._num_blocked += 1
        self._blocked.add(kind_of(job))

    def _head(self, standing: _Standing) -> WaitingJob | None:
        heads = standing.heads
        while heads:
            _, kind, place = heads[0]
            if kind in self._blocked:
                heapq.heappop(heads)
                continue
            alike = self._line.kinds[standing.name][kind]
            job = alike[place]
            if job.id not in self._taken:
                return job
            if place + 1 < len(alike):
                heapq.heapreplace(heads, (alike[place + 1].order, kind, place + 1))
            else:
                heapq.heappop(heads)
        return None

    def _longest_waiting(self) -> WaitingJob | None:
        if self._oldest is None:
            self._oldest = [
                (*alike[0].order[1:], kind, 0)
                for of_queue in self._line.kinds.values()
                for kind, alike in of_queue.items()
                if self.is_overdue(alike[0])
            ]
            heapq.heapify(self._oldest)
        oldest = self._oldest
        while oldest:
            *_, kind, place = oldest[0]
            alike = self._line.kinds[kind[0]][kind]
            job = alike[place]
            if kind in self._blocked or kind[0] not in self._standings:
                heapq.heappop(oldest)
            elif job.id not in self._taken:
                return job
            elif place + 1 < len(alike) and self.is_overdue(alike[place + 1]):
                heapq.heapreplace(oldest, (*alike[place + 1].order[1:], kind, place + 1))
            else:
                heapq.heappop(oldest)
        return None


def charge(work_seconds: float, settings: PolicySettings) -> float:
    """Device-seconds that a job counts with in advance; one second for unknown lengths, so that turns are taken."""
    return min(work_seconds or 1.0, _LONGEST_CHARGE * settings.fair_window_seconds)


def _standings(line: WaitingLine, snapshot: Snapshot) -> dict[str, _Standing]:
    """Of the queues that may have another job placed."""
    rules = {queue.name: queue for queue in snapshot.queues}
    running: dict[str, int] = {}
    committed: dict[str, float] = {}
    for worker in snapshot.workers:
        since = snapshot.now_seconds - worker.as_of_seconds
        for name, (number, left, share) in worker.by_queue.items():
            running[name] = running.get(name, 0) + number
            most = number * _LONGEST_CHARGE * snapshot.settings.fair_window_seconds
            committed[name] = committed.get(name, 0.0) + min(max(0.0, left - share * since), most)
    wanting: dict[str, Queue] = {}
    for name in sorted(line.kinds):
        queue = rules.get(name) or Queue(name=name)
        if queue.max_jobs is None or running.get(name, 0) < queue.max_jobs:
            wanting[name] = queue
    weights = sum(queue.weight for queue in wanting.values())
    committed_to_all = sum(committed.get(name, 0.0) for name in wanting)
    num_devices = len(snapshot.workers) + len(snapshot.free_devices)
    settings = snapshot.settings
    standings = {}
    for name, queue in wanting.items():
        share = queue.weight / weights
        heads = [(alike[0].order, kind, 0) for kind, alike in line.kinds[name].items()]
        heapq.heapify(heads)
        lag = queue.fair_seconds - queue.served_seconds
        standings[name] = _Standing(
            name=name,
            weight=queue.weight,
            jobs_left=math.inf if queue.max_jobs is None else queue.max_jobs - running.get(name, 0),
            ahead_seconds=committed.get(name, 0.0) - lag - share * committed_to_all,
            lag_seconds=lag,
            tolerated_seconds=settings.fair_tolerance * settings.fair_window_seconds * num_devices * share,
            heads=heads,
        )
    return standings
