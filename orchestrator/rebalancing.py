"""Which devices are given back, and which jobs move when devices have come or work has become uneven. Pure.

A move is a checkpoint and a requeue: the next decision puts the job where there is most room. It pays only where the
worker left behind shares its device among more jobs than fill a pack (on others a job more costs next to nothing),
where nobody waits who could take the place instead, and where the last of the jobs of both workers ends sooner by at
least `least_gain` times what the move costs. A job moves at most once in ten minutes, and none of a base while another
of it is on its way: what that one changes is seen first.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.bins import fits
from orchestrator.decision import (
    Decision,
    Retirement,
    duration,
)
from orchestrator.room import Room
from orchestrator.snapshot import (
    Device,
    RunningJob,
    RunningWorker,
    Snapshot,
    WaitingJob,
)
from orchestrator.waiting_line import WaitingLine
from workers.memory import BaseShape

_REST_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class Move:
    """A job to checkpoint and requeue, uncharged, because it and its neighbours end sooner elsewhere."""

    job_id: str
    worker_id: str
    """That it leaves."""
    target: str
    """Worker or free device that it is meant for."""
    reason: str


def give_back(snapshot: Snapshot, decision: Decision) -> tuple[Retirement, ...]:
    """Workers that have had no job for `give_back_seconds` and get none by this decision."""
    busy = {placement.worker_id for placement in decision.placements}
    busy |= {retirement.worker_id for retirement in decision.retired}
    after = snapshot.settings.give_back_seconds
    return tuple(
        Retirement(worker_id=worker.id, reason=f"no job for it in {duration(snapshot.now_seconds - since)}")
        for worker in snapshot.workers
        if not worker.jobs
        and not worker.stopping
        and worker.id not in busy
        and (since := worker.idle_since_seconds) is not None
        and snapshot.now_seconds - since >= after
    )


def rebalance(snapshot: Snapshot, line: WaitingLine, shapes: dict[str, BaseShape]) -> tuple[Move, ...]:
    """Moves that pay, at most one from and one to a worker.

    Args:
        snapshot: Of the cluster, after a decision was carried out.
        line: The jobs that still wait.
        shapes: Of the bases, by `str` of their keys; a base that is not there is left alone.
    """
    settings = snapshot.settings
    moves: list[Move] = []
    taken: set[str] = set()
    settling = {worker.base for worker in snapshot.workers if any(job.stopping for job in worker.jobs)}
    # A device that is free now may be what another base's job was moved for.
    free = [] if len(line) or settling else list(snapshot.free_devices)
    crowded = [one for one in snapshot.workers if one.pack_tokens > snapshot.token_budget and not one.stopping]
    for worker in sorted(crowded, key=lambda one: (-one.work_seconds, one.id)):
        shape = shapes.get(str(worker.base))
        if shape is None or worker.base in line.pack_tokens or worker.base in settling:
            continue
        best: tuple[float, float, RunningJob, str] | None = None
        for job in worker.jobs:
            if job.stopping or snapshot.now_seconds - job.placed_seconds < _REST_SECONDS:
                continue
            for target, room, device, left, cost in _targets(worker, snapshot, free, taken):
                if not fits(
                    room, device, _as_waiting(job, worker, shape), snapshot.token_budget, snapshot.token_budget
                ):
                    continue
                gain = worker.work_seconds - max(worker.work_seconds - job.seconds_left, left + job.seconds_left + cost)
                if gain >= settings.least_gain * cost and (best is None or gain > best[0]):
                    best = (gain, cost, job, target)
        if best is not None:
            gain, cost, job, target = best
            taken |= {worker.id, target}
            free = [device for device in free if device.id != target]
            moves.append(
                Move(
                    job_id=job.id,
                    worker_id=worker.id,
                    target=target,
                    reason=f"ends {duration(gain)} sooner on {target}; moving costs {duration(cost)}",
                )
            )
    return tuple(moves)


def _targets(
    worker: RunningWorker, snapshot: Snapshot, free: list[Device], taken: set[str]
) -> list[tuple[str, Room, Device, float, float]]:
    """(id, its jobs, device, device-seconds that it is busy for, what going there costs)."""
    settings = snapshot.settings
    found = [
        (other.id, other.room, other.device, other.work_seconds, settings.move_seconds)
        for other in snapshot.workers
        if other.id != worker.id and other.base == worker.base and not other.stopping and other.id not in taken
    ]
    if free:
        device = free[0]
        found.append((device.id, Room(), device, 0.0, settings.move_seconds + settings.start_seconds))
    return found


def _as_waiting(job: RunningJob, worker: RunningWorker, shape: BaseShape) -> WaitingJob:
    return WaitingJob(
        id=job.id,
        base=worker.base,
        base_shape=shape,
        demand=job.demand,
        work_tokens=job.tokens_left,
        priority=job.priority,
        sequence=0,
        queue=job.queue,
    )
