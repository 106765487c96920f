"""Placement for `loraloom run`: all jobs of a base go to its workers at once and are taken in there in order.

Devices first: every base that waits gets one if there is one, then those with the most work per worker get more, as
long as there are more jobs than workers. Then jobs, by priority and age, each to the worker with its base that has the
least work, one with room before one without. Where none has room the job queues at the worker, which takes it in at the
step boundary at which it first fits: a decision of the worker's, so that no clock has a part in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.records import BaseKey, Placement
from orchestrator.decision import (
    Decision,
    NewWorker,
    Retirement,
    gib,
)
from orchestrator.room import Room
from orchestrator.snapshot import (
    Device,
    Snapshot,
    WaitingJob,
)


@dataclass
class _Host:
    """A worker while a decision is being made."""

    id: str
    device: Device
    base: BaseKey
    room: Room
    work_tokens: int


def hand_over(snapshot: Snapshot) -> Decision:
    """Place every waiting job whose base has, or gets, a worker."""
    waiting = sorted(snapshot.waiting, key=lambda job: (-job.priority, job.sequence))
    devices = [*snapshot.free_devices, *(worker.device for worker in snapshot.workers)]
    largest = max((device.memory_bytes for device in devices), default=0)
    impossible, possible = [], []
    for job in waiting:
        needs = Room().bytes_with(job.base_shape, job.demand, snapshot.token_budget)
        if needs > largest:
            impossible.append((job.id, f"needs about {gib(needs)}, the largest device has {gib(largest)}"))
        else:
            possible.append(job)
    hosts = [
        _Host(worker.id, worker.device, worker.base, worker.room.copy(), worker.work_tokens)
        for worker in snapshot.workers
    ]
    new_workers = _new_workers(possible, hosts, snapshot)
    hosts += [_Host(new.id, new.device, new.base, Room(), 0) for new in new_workers]
    placements, left = [], {}
    for job in possible:
        with_base = [one for one in hosts if one.base == job.base]
        if with_base:
            placements.append(_place(job, with_base, snapshot.token_budget))
        else:
            left[job.id] = f"no free device for {job.base}; every device holds another base"
    retired = [
        Retirement(worker_id=one.id, reason="its device is needed for another base")
        for one in hosts
        if left and not one.room.num_jobs
    ]
    return Decision(
        new_workers=tuple(new_workers),
        placements=tuple(placements),
        retired=tuple(retired),
        impossible=tuple(impossible),
        comes_first=left,
        considered=len(waiting),
    )


def _new_workers(jobs: Sequence[WaitingJob], hosts: Sequence[_Host], snapshot: Snapshot) -> list[NewWorker]:
    """Hand out free devices to bases, the neediest first."""
    work = {job.base: 0 for job in jobs}
    num_jobs = dict.fromkeys(work, 0)
    for job in jobs:
        work[job.base] += job.work_tokens
        num_jobs[job.base] += 1
    num_workers = {base: sum(one.base == base for one in hosts) for base in work}
    for one in hosts:
        if one.base in work:
            work[one.base] += one.work_tokens
            num_jobs[one.base] += one.room.num_jobs
    new: list[NewWorker] = []
    for device in snapshot.free_devices:
        # `max` keeps the first of equals, so bases are served in the order of their first job.
        wanting = [base for base in work if num_workers[base] < num_jobs[base]]
        if not wanting:
            break
        base = max(wanting, key=lambda one: work[one] / num_workers[one] if num_workers[one] else float("inf"))
        num_workers[base] += 1
        new.append(NewWorker(id=f"w{snapshot.num_started + len(new)}", device=device, base=base))
    return new


def _place(job: WaitingJob, hosts: Sequence[_Host], token_budget: int) -> Placement:
    def bytes_with(host: _Host) -> int:
        return host.room.bytes_with(job.base_shape, job.demand, token_budget)

    roomy = [host for host in hosts if bytes_with(host) <= host.device.memory_bytes]
    host = min(roomy or hosts, key=lambda one: one.work_tokens)
    if roomy:
        reason = placed_because(host.id, bytes_with(host), host.device.memory_bytes, host.room.num_jobs)
    else:
        reason = (
            f"{host.id} has the base but no room yet (would be {gib(bytes_with(host))} of "
            f"{gib(host.device.memory_bytes)}); taken in when a job leaves"
        )
    host.room.add(job.demand)
    host.work_tokens += job.work_tokens
    return Placement(job_id=job.id, worker_id=host.id, reason=reason)


def placed_because(worker_id: str, num_bytes: int, memory_bytes: int, others: int) -> str:
    """Why a job goes where it goes."""
    beside = f"beside {others} other {'job' if others == 1 else 'jobs'}" if others else "first on its base"
    return f"{worker_id} has the base and room ({gib(num_bytes)} of {gib(memory_bytes)}), {beside}"
