"""What the scheduler knows of its cluster, made for people to see."""

from __future__ import annotations

import time
from collections.abc import Sequence

from jobs.records import Job
from jobs.view import ClusterView, MemoryView, QueueView, SharerView, WorkerView
from orchestrator.room import Room
from orchestrator.roster import WorkerRecord
from orchestrator.scheduler import Scheduler
from orchestrator.snapshot import Device
from workers.estimate import Estimate


class Viewer:
    """Makes a view of the cluster now and then; rates are those since the view before."""

    def __init__(self, executor: str) -> None:
        """Say what carries the workers, for people: which Ray, or that there is none."""
        self._executor = executor
        self._before: dict[str, tuple[float, float, int]] = {}
        """Worker id → (wall seconds, busy seconds, tokens) at the last view."""
        self._since: dict[str, tuple[str, float]] = {}
        """Worker id → (state, since when)."""

    def view(self, scheduler: Scheduler, devices: Sequence[Device], token_budget: int) -> ClusterView:
        """The cluster at this moment."""
        alive = {worker_id: record for worker_id, record in scheduler.workers.items() if record.ended is None}
        workers = tuple(self._worker(scheduler, record, token_budget) for record in alive.values())
        for known in (self._before, self._since):
            for worker_id in known.keys() - alive.keys():
                del known[worker_id]
        statuses = [record.status for record in alive.values() if record.status is not None]
        wall = sum(status.wall_seconds for status in statuses)
        rates = [worker.tokens_per_second for worker in workers if worker.tokens_per_second is not None]
        return ClusterView(
            published_unix_seconds=time.time(),
            executor=self._executor,
            nodes=len({device.node for device in devices}),
            devices=len({device.id for device in devices} | {record.worker.device.id for record in alive.values()}),
            devices_in_use=len(alive),
            workers=workers,
            queues=tuple(
                QueueView(
                    name=queue.name,
                    weight=queue.weight,
                    quota=queue.max_jobs,
                    share=queue.served_seconds / served if served else None,
                )
                for queues in [scheduler.queue_shares]
                for served in [sum(one.served_seconds for one in queues)]
                for queue in queues
            ),
            utilization=sum(status.busy_seconds for status in statuses) / wall if wall else None,
            tokens_per_second=sum(rates) if rates else None,
        )

    def _worker(self, scheduler: Scheduler, record: WorkerRecord, token_budget: int) -> WorkerView:
        worker, status = record.worker, record.status
        jobs = [scheduler.jobs[job_id] for job_id in scheduler.active_jobs(worker.id)]
        loaded = status is not None and status.base_loaded
        state = "up" if loaded else "loading"
        if self._since.get(worker.id, ("", 0.0))[0] != state:
            self._since[worker.id] = (state, time.time())
        busy = sum(job.progress.busy_seconds for job in jobs)
        estimates = [(job, estimate) for job in jobs if (estimate := scheduler.estimate(job.id)) is not None]
        return WorkerView(
            id=worker.id,
            node=worker.device.node,
            device=worker.device.id,
            base=str(worker.base),
            state=state,
            memory=_memory(worker.device, estimates, token_budget) if loaded and estimates else None,
            sharers=tuple(
                SharerView(
                    job_id=job.id,
                    name=job.spec.name,
                    adapter_bytes=estimate.demand.adapter_bytes,
                    share=job.progress.busy_seconds / busy if busy and job.progress.busy_seconds else None,
                )
                for job, estimate in estimates
            ),
            waiting=status.waiting if status is not None else len(jobs),
            utilization=status.busy_seconds / status.wall_seconds if status and status.wall_seconds else None,
            tokens_per_second=self._rate(record),
            since_unix_seconds=self._since[worker.id][1],
        )

    def _rate(self, record: WorkerRecord) -> float | None:
        status = record.status
        if status is None:
            return None
        now = (status.wall_seconds, status.busy_seconds, status.tokens)
        before = self._before.get(record.worker.id)
        if before is None or now[0] - before[0] > 1.0:
            self._before[record.worker.id] = now
        if before is None or now[0] <= before[0]:
            return None
        return (now[2] - before[2]) / (now[0] - before[0])


def _memory(device: Device, estimates: Sequence[tuple[Job, Estimate]], token_budget: int) -> MemoryView:
    shape = estimates[0][1].base_shape
    adapters = sum(estimate.demand.adapter_bytes for _, estimate in estimates)
    taken = Room(estimate.demand for _, estimate in estimates).bytes_now(shape, token_budget)
    activations = max(0, taken - shape.base_bytes - adapters)
    return MemoryView(
        total_bytes=device.memory_bytes,
        base_bytes=shape.base_bytes,
        adapters_bytes=adapters,
        activations_bytes=activations,
        free_bytes=max(0, device.memory_bytes - taken),
    )
