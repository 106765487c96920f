"""Jobs of a simulation, drawn from seeded distributions."""

from __future__ import annotations

import random
from dataclasses import dataclass

from orchestrator.simulation.speed import BASES, SimBase
from orchestrator.snapshot import Queue

QUEUES = (Queue(name="product", weight=1.0), Queue(name="research", weight=2.0), Queue(name="students", weight=1.0))
_LONGEST = 10.0
"""Times the median; longer jobs are cut to it."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is drawn."""

    num_jobs: int
    micro_batch: int | None = 1
    """Rows of every job's micro-batch; `None`: 1, 2, 4, 8 or 16, small ones more often."""
    load: float | None = None
    """Work that arrives, as a share of what the devices do in full packs; `None`: all jobs are there at time 0."""
    median_rows: float = 5000.0
    """Rows that a job trains on: log-normal, sigma 1, at most ten times the median."""
    high_priority: float = 0.1
    """Share of jobs with priority 10, the rest has 0."""
    all_high_in: str | None = None
    """A queue all of whose jobs have priority 10, and no others."""
    failures: float = 0.02
    """Share of jobs that fail once, somewhere, and go on from where they were saved."""
    queues: tuple[Queue, ...] = QUEUES
    """Jobs come to all of them alike, whatever their weights."""
    bases: tuple[SimBase, ...] = BASES
    seed: int = 0


@dataclass(eq=False)
class SimJob:
    """A job and how far it is."""

    id: str
    sequence: int
    queue: str
    priority: int
    base: SimBase
    rank: int
    rows: int
    """Of its micro-batch."""
    arrival: float
    rows_left: float
    fails_at: float = -1.0
    """Rows left when it fails; negative for never."""
    first_placed: float | None = None
    placed: float = 0.0
    ended: float | None = None
    num_preemptions: int = 0
    stopping: bool = False

    @property
    def work_seconds(self) -> float:
        """Device-seconds left, in full packs."""
        return self.rows_left * self.base.row_seconds

    @property
    def alone_seconds(self) -> float:
        """Seconds left if it had a device for itself: it cannot take less."""
        return self.rows_left / self.rows * self.base.pack_seconds(self.rows)


def draw(workload: Workload, num_devices: int) -> list[SimJob]:
    """The jobs, by arrival."""
    random_ = random.Random(workload.seed)
    jobs = []
    for number in range(workload.num_jobs):
        queue = random_.choice(workload.queues).name
        is_high = random_.random() < workload.high_priority
        if workload.all_high_in is not None:
            is_high = queue == workload.all_high_in
        rows = min(workload.median_rows * random_.lognormvariate(0.0, 1.0), workload.median_rows * _LONGEST)
        fails = random_.random() < workload.failures
        jobs.append(
            SimJob(
                id=f"j{number}",
                sequence=number,
                queue=queue,
                priority=10 if is_high else 0,
                base=random_.choice(workload.bases),
                rank=random_.choice((8, 16, 16, 32, 64)),
                rows=workload.micro_batch or random_.choice((1, 1, 1, 2, 2, 4, 4, 8, 16)),
                arrival=0.0,
                rows_left=rows,
                fails_at=rows * random_.random() if fails else -1.0,
            )
        )
    if workload.load is not None:
        mean = sum(job.work_seconds for job in jobs) / len(jobs)
        now = 0.0
        for job in jobs:
            now += random_.expovariate(workload.load * num_devices / mean)
            job.arrival = now
    return jobs


def bound_seconds(jobs: list[SimJob], num_devices: int) -> float:
    """No schedule of jobs that are all there at time 0 ends sooner: the work in full packs over all devices, or the
    longest job alone on one; bases loaded already.
    """
    return max(sum(job.work_seconds for job in jobs) / num_devices, max(job.alone_seconds for job in jobs))
