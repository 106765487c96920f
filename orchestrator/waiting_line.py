"""The waiting jobs by kind, each kind by age: what makes a decision over thousands of jobs quick."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

from jobs.records import BaseKey
from orchestrator.snapshot import WaitingJob
from workers.memory import Demand

Order = tuple[int, float, float, int]
"""See `WaitingJob.order`."""


class Alike:
    """Waiting jobs of one queue, base, demand and priority, by age: they fit or do not fit together."""

    __slots__ = ("jobs",)

    def __init__(self) -> None:
        self.jobs: list[WaitingJob] = []


class WaitingLine:
    """The service keeps it between decisions; no decision changes it."""

    def __init__(self, jobs: Iterable[WaitingJob] = ()) -> None:
        self._jobs: dict[str, WaitingJob] = {}
        self._kinds: dict[tuple[str, BaseKey, Demand, int], Alike] = {}
        self.heads: dict[str, dict[BaseKey, list[tuple[Order, Alike]]]] = {}
        """Queue -> base -> its kinds in the order of their first jobs."""
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

    @property
    def num_kinds(self) -> int:
        """Of jobs that fit or do not fit together."""
        return len(self._kinds)

    def alike(self, job: WaitingJob) -> Alike:
        """The jobs in line that fit where this one fits."""
        return self._kinds[_kind(job)]

    def add(self, job: WaitingJob) -> None:
        """Put a job in line.

        Raises:
            ValueError: One of its id is there; a change of priority or queue is `remove` and `add`.
        """
        if job.id in self._jobs:
            raise ValueError(f"job {job.id} is in line already; remove it first")
        self._jobs[job.id] = job
        self.pack_tokens[job.base] = self.pack_tokens.get(job.base, 0) + job.demand.worst_tokens
        alike = self._kinds.setdefault(_kind(job), Alike())
        jobs = alike.jobs
        if jobs and jobs[-1].order < job.order:
            jobs.append(job)
            return
        heads = self.heads.setdefault(job.queue, {}).setdefault(job.base, [])
        place = bisect_left(jobs, job.order, key=_order)
        if place == 0:
            if jobs:
                del heads[bisect_left(heads, (jobs[0].order,))]
            insort(heads, (job.order, alike))
        jobs.insert(place, job)

    def remove(self, job_id: str) -> WaitingJob:
        """Take a job out: it was placed, or paused, or ended.

        Raises:
            KeyError: It is not in line.
        """
        job = self._jobs.pop(job_id)
        self.pack_tokens[job.base] -= job.demand.worst_tokens
        if not self.pack_tokens[job.base]:
            del self.pack_tokens[job.base]
        alike = self._kinds[_kind(job)]
        jobs = alike.jobs
        place = bisect_left(jobs, job.order, key=_order)
        del jobs[place]
        if place:
            return job
        of_queue = self.heads[job.queue]
        heads = of_queue[job.base]
        del heads[bisect_left(heads, (job.order,))]
        if jobs:
            insort(heads, (jobs[0].order, alike))
            return job
        del self._kinds[_kind(job)]
        if not heads:
            del of_queue[job.base]
            if not of_queue:
                del self.heads[job.queue]
        return job


def _kind(job: WaitingJob) -> tuple[str, BaseKey, Demand, int]:
    return (job.queue, job.base, job.demand, job.priority)


def _order(job: WaitingJob) -> Order:
    return job.order
