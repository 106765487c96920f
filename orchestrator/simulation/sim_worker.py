"""A simulated worker: its jobs share the device row by row.

In each round every job trains on one micro-batch. Progress is counted in rounds, which pass the faster the fuller the
packs and the fewer the jobs; a job is done after `rows_left / rows` of them, whatever joins or leaves.
"""

from __future__ import annotations

import heapq

from orchestrator.simulation.speed import PACK_ROWS, SimBase
from orchestrator.simulation.workload import SimJob
from orchestrator.snapshot import Device, RunningJob, RunningWorker


class SimWorker:
    """Jobs on a device, and how far they are."""

    def __init__(self, worker_id: str, device: Device, base: SimBase, now: float, ready: float) -> None:
        self.id = worker_id
        self.device = device
        self.base = base
        self.jobs: dict[str, SimJob] = {}
        self.idle_since: float | None = now
        self.reserved = False
        self.version = 0
        """Grows with every change: what was foretold before does not count."""
        self._rounds = 0.0
        self._at = now
        self._ready = ready
        self._rows = 0
        self._largest = 0
        self._ends: list[tuple[float, int, str]] = []
        self._end: dict[str, float] = {}
        self._record: RunningWorker | None = None

    def use(self) -> dict[str, float]:
        """Share of the device by queue."""
        found: dict[str, float] = {}
        for job in self.jobs.values():
            found[job.queue] = found.get(job.queue, 0.0) + job.rows / self._rows
        return found

    def advance(self, now: float) -> None:
        """Let time pass."""
        since = max(self._at, self._ready)
        if now > since and self._rows:
            self._rounds += (now - since) / self._round_seconds()
        self._at = now

    def add(self, job: SimJob, now: float) -> None:
        """A job begins, or goes on."""
        self.advance(now)
        self.jobs[job.id] = job
        until = job.rows_left - max(job.fails_at, 0.0)
        end = self._end[job.id] = self._rounds + until / job.rows
        heapq.heappush(self._ends, (end, job.sequence, job.id))
        self._changed()

    def remove(self, job_id: str, now: float) -> SimJob:
        """A job leaves; how far it came is in its `rows_left`."""
        self.advance(now)
        job = self.jobs.pop(job_id)
        job.rows_left = self._rows_left(job)
        del self._end[job_id]
        self._changed()
        if not self.jobs:
            self.idle_since = now
        return job

    def next_end(self) -> tuple[float, str] | None:
        """When the next job ends or fails, and which."""
        while self._ends and self._end.get(self._ends[0][2]) != self._ends[0][0]:
            heapq.heappop(self._ends)
        if not self._ends:
            return None
        end, _, job_id = self._ends[0]
        return max(self._at, self._ready) + max(0.0, end - self._rounds) * self._round_seconds(), job_id

    def row_rate(self, job: SimJob) -> float:
        """Rows a second that the job trains on now."""
        return job.rows / self._round_seconds()

    def record(self, save_seconds: float) -> RunningWorker:
        """For a snapshot; the same one until something changes."""
        if self._record is None or self._record.reserved != self.reserved:
            self._record = RunningWorker(
                id=self.id,
                device=self.device,
                base=self.base.key,
                jobs=tuple(
                    RunningJob(
                        id=job.id,
                        demand=self.base.demand(job.rank, job.rows),
                        tokens_left=0,
                        priority=job.priority,
                        queue=job.queue,
                        seconds_left=self._rows_left(job) * self.base.row_seconds,
                        unsaved_seconds=(self._at - job.placed) % save_seconds,
                        placed_seconds=job.placed,
                        num_preemptions=job.num_preemptions,
                        stopping=job.stopping,
                    )
                    for job in self.jobs.values()
                ),
                as_of_seconds=self._at,
                reserved=self.reserved,
                idle_since_seconds=None if self.jobs else self.idle_since,
            )
        return self._record

    def mark_stopping(self, job_id: str, now: float) -> None:
        """The job was told to make room."""
        self.advance(now)
        self.jobs[job_id].stopping = True
        self._record = None

    def _rows_left(self, job: SimJob) -> float:
        return max(0.0, (self._end[job.id] - self._rounds) * job.rows) + max(job.fails_at, 0.0)

    def _round_seconds(self) -> float:
        """Seconds in which each job has one micro-batch trained."""
        pack = min(self._rows, max(PACK_ROWS, self._largest))
        return self.base.pack_seconds(pack) * self._rows / pack

    def _changed(self) -> None:
        self._rows = sum(job.rows for job in self.jobs.values())
        self._largest = max((job.rows for job in self.jobs.values()), default=0)
        self._record = None
        self.version += 1
