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
that train on it by their tokens (`fair_shares`).
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field

from jobs.records import BaseKey
from orchestrator.snapshot import PolicySettings, Queue, Snapshot, WaitingJob
from orchestrator.waiting_line import Alike, Order, WaitingLine

_LONGEST_CHARGE = 0.25
"""Share of the fair window that a single job is counted with in advance at most: a job of days must not keep its queue
from its share of the hours."""


class _Walk:
    """Through the jobs of one queue and base in order, without those of kinds that fit nowhere."""

    __slots__ = ("_heads", "_later", "_place")

    def __init__(self, heads: list[tuple[Order, Alike]]) -> None:
        self._heads = heads
        self._place = 0
        self._later: list[tuple[Order, int, Alike]] = []
        """A heap: jobs behind the first of their kind, once that was taken."""

    def first(self, taken: set[str], blocked: set[Alike]) -> WaitingJob | None:
        """The next job that is neither taken nor of a blocked kind."""
        heads, later = self._heads, self._later
        while True:
            if self._place < len(heads) and (not later or heads[self._place][0] < later[0][0]):
                number, alike = 0, heads[self._place][1]
                if alike not in blocked and alike.jobs[0].id not in taken:
                    return alike.jobs[0]
                self._place += 1
            elif later:
                _, number, alike = later[0]
                if alike not in blocked and alike.jobs[number].id not in taken:
                    return alike.jobs[number]
                heapq.heappop(later)
            else:
                return None
            if alike not in blocked and number + 1 < len(alike.jobs):
                heapq.heappush(later, (alike.jobs[number + 1].order, number + 1, alike))


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
    walks: dict[BaseKey, _Walk]
    first: WaitingJob | None = None
    """The next of it, while that is known."""
    owed: bool = field(init=False)

    def __post_init__(self) -> None:
        self.owed = self.is_owed

    @property
    def is_owed(self) -> bool:
        """Whether it is further behind than is tolerated, and its running jobs will not make up for it."""
        return self.lag_seconds > self.tolerated_seconds and self.ahead_seconds < 0


class Turns:
    """Who is next, while a decision is made: `next()`, and what came of it."""

    def __init__(self, line: WaitingLine, snapshot: Snapshot) -> None:
        self._line = line
        self._settings = snapshot.settings
        self._now = snapshot.now_seconds
        self._num_placed = snapshot.num_placed
        self._num_blocked: dict[BaseKey, int] = {}
        self._taken: set[str] = set()
        self._blocked: set[Alike] = set()
        self._passed_over: set[BaseKey] = set()
        self._oldest: list[tuple[tuple[float, float, int], int, Alike]] | None = None
        self._standings, self.ahead = _standings(line, snapshot)
        self._quotas = {queue.name: queue.max_jobs for queue in snapshot.queues if queue.max_jobs is not None}
        self.at_quota = {
            name: most for name, most in self._quotas.items() if name in line.heads and name not in self._standings
        }
        """Queues that are passed over, and their quotas."""
        # `ahead`: of all queues, the device-seconds that they have had and will have beyond what was their share, by
        # their weight.
        self.owed = frozenset(name for name, one in self._standings.items() if one.owed)
        """Queues that have had less than their fair share by more than is tolerated, and have jobs that wait."""

    def is_overdue(self, job: WaitingJob) -> bool:
        """Whether it has waited longer than anybody should."""
        return job.submitted_seconds < self._now - self._settings.patience_seconds

    def next(self) -> WaitingJob | None:
        """The job to consider now; the same one until it is said what came of it."""
        if self._num_placed % self._settings.overdue_turn == self._settings.overdue_turn - 1:
            job = self._longest_waiting()
            if job is not None:
                return job
        best: tuple[tuple[bool, int, float, Order, str], WaitingJob] | None = None
        for name, standing in list(self._standings.items()):
            job = standing.first or self._first(standing)
            if job is None:
                del self._standings[name]
                continue
            rank = standing.ahead_seconds / standing.weight
            key = (not standing.owed, 0 if standing.owed else -job.priority, rank, job.order, name)
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
        standing.first = None
        standing.ahead_seconds += charge(job.work_seconds, self._settings)
        self.ahead[job.queue] += charge(job.work_seconds, self._settings) / standing.weight
        standing.owed = standing.is_owed
        standing.jobs_left -= 1
        if standing.jobs_left <= 0:
            self.at_quota[job.queue] = self._quotas[job.queue] or 0
            del self._standings[job.queue]

    def blocked(self, job: WaitingJob) -> None:
        """There is no place for it, nor for others of its kind."""
        self._blocked.add(self._line.alike(job))
        number = self._num_blocked[job.base] = self._num_blocked.get(job.base, 0) + 1
        if number >= self._settings.most_considered:
            # So many of a base's kinds fit nowhere that it is taken to be full.
            self._passed_over.add(job.base)
            for standing in self._standings.values():
                standing.walks.pop(job.base, None)
                standing.first = None
        elif job.queue in self._standings:
            self._standings[job.queue].first = None

    def _first(self, standing: _Standing) -> WaitingJob | None:
        firsts = [
            job for walk in standing.walks.values() if (job := walk.first(self._taken, self._blocked)) is not None
        ]
        standing.first = min(firsts, key=lambda job: job.order, default=None)
        return standing.first

    def _longest_waiting(self) -> WaitingJob | None:
        if self._oldest is None:
            # A kind's jobs have one priority, so its first is its oldest.
            latest = self._now - self._settings.patience_seconds
            self._oldest = [
                (order[1:], 0, alike)
                for by_base in self._line.heads.values()
                for heads in by_base.values()
                for order, alike in heads
                if order[1] < latest
            ]
            heapq.heapify(self._oldest)
        oldest = self._oldest
        while oldest:
            _, number, alike = oldest[0]
            job = alike.jobs[number]
            if alike in self._blocked or job.base in self._passed_over or job.queue not in self._standings:
                heapq.heappop(oldest)
            elif job.id not in self._taken:
                return job
            elif number + 1 < len(alike.jobs) and self.is_overdue(alike.jobs[number + 1]):
                heapq.heapreplace(oldest, (alike.jobs[number + 1].order[1:], number + 1, alike))
            else:
                heapq.heappop(oldest)
        return None


def charge(work_seconds: float, settings: PolicySettings) -> float:
    """Device-seconds that a job counts with in advance; one second for unknown lengths, so that turns are taken."""
    return min(work_seconds or 1.0, _LONGEST_CHARGE * settings.fair_window_seconds)


def _standings(line: WaitingLine, snapshot: Snapshot) -> tuple[dict[str, _Standing], dict[str, float]]:
    """Of the queues that may have another job placed; and of all: device-seconds that they have had and will have
    beyond their fair share so far, by their weight.
    """
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
    for name in sorted(line.heads):
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
        lag = queue.fair_seconds - queue.served_seconds
        standings[name] = _Standing(
            name=name,
            weight=queue.weight,
            jobs_left=math.inf if queue.max_jobs is None else queue.max_jobs - running.get(name, 0),
            ahead_seconds=committed.get(name, 0.0) - lag - share * committed_to_all,
            lag_seconds=lag,
            tolerated_seconds=settings.fair_tolerance * settings.fair_window_seconds * num_devices * share,
            walks={base: _Walk(heads) for base, heads in line.heads[name].items()},
        )
    ahead = {}
    for name in sorted({*committed, *wanting}):
        queue = rules.get(name) or Queue(name=name)
        ahead[name] = (committed.get(name, 0.0) + queue.served_seconds - queue.fair_seconds) / queue.weight
    return standings, ahead
