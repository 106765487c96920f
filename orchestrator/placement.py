"""Which job runs on which worker, and which base gets which device. Pure: a snapshot in, a frozen decision out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.records import BaseKey, Placement
from workers.memory import BaseShape, Demand, worker_bytes


@dataclass(frozen=True, kw_only=True)
class Device:
    """A place where one worker can live."""

    id: str
    kind: str
    """`cpu` or `cuda`."""
    memory_bytes: int
    num_cpus: int
    node: str | None = None
    """The machine that it is part of, where there are several."""


@dataclass(frozen=True, kw_only=True)
class WaitingJob:
    """A job that has no worker yet."""

    id: str
    base: BaseKey
    base_shape: BaseShape
    demand: Demand
    work_tokens: int
    """Tokens it will train on; what the load of workers is balanced by."""
    priority: int
    sequence: int
    """Order of submission."""


@dataclass(frozen=True, kw_only=True)
class RunningWorker:
    """A worker as the policy sees it."""

    id: str
    device: Device
    base: BaseKey
    demands: tuple[Demand, ...]
    """Of the jobs handed to it that have not ended."""
    work_tokens: int


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All that a decision is made from."""

    waiting: tuple[WaitingJob, ...]
    workers: tuple[RunningWorker, ...]
    free_devices: tuple[Device, ...]
    num_started: int
    """Workers ever started; the next one is `w<num_started>`."""
    token_budget: int


@dataclass(frozen=True, kw_only=True)
class NewWorker:
    """A base to load on a free device."""

    id: str
    device: Device
    base: BaseKey


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do now."""

    new_workers: tuple[NewWorker, ...]
    placements: tuple[Placement, ...]
    waiting: tuple[tuple[str, str], ...]
    """(job id, why it waits)."""
    impossible: tuple[tuple[str, str], ...]
    """(job id, why no device of this cluster can ever run it)."""
    retired: tuple[str, ...]
    """Workers without jobs whose device another base needs."""


@dataclass
class _Bin:
    """A worker while a decision is being made."""

    id: str
    device: Device
    base: BaseKey
    demands: list[Demand]
    work_tokens: int


def decide(snapshot: Snapshot) -> Decision:
    """Place every waiting job that can be placed.

    Devices first: every base that waits gets one if there is one, then those with the most work per worker get more,
    as long as there are more jobs than workers. Then jobs, by priority and age, each to the worker with its base that
    has the least work, one with room before one without. Where none has room the job queues at the worker, which takes
    it in at the step boundary at which it first fits: a decision of the worker's, so that no clock has a part in it.
    """
    waiting = sorted(snapshot.waiting, key=lambda job: (-job.priority, job.sequence))
    largest = max((device.memory_bytes for device in _all_devices(snapshot)), default=0)
    impossible, possible = [], []
    for job in waiting:
        needs = worker_bytes(job.base_shape, [job.demand], snapshot.token_budget)
        if needs > largest:
            impossible.append((job.id, f"needs about {_gib(needs)}, the largest device has {_gib(largest)}"))
        else:
            possible.append(job)
    bins = [
        _Bin(worker.id, worker.device, worker.base, list(worker.demands), worker.work_tokens)
        for worker in snapshot.workers
    ]
    new_workers = _new_workers(possible, bins, snapshot)
    bins += [_Bin(new.id, new.device, new.base, [], 0) for new in new_workers]
    placements, left = [], []
    for job in possible:
        hosts = [one for one in bins if one.base == job.base]
        if not hosts:
            left.append((job.id, f"no free device for {job.base}; every device holds another base"))
            continue
        placements.append(_place(job, hosts, snapshot.token_budget))
    busy = {placement.worker_id for placement in placements}
    retired = [one.id for one in bins if not one.demands and one.id not in busy] if left else []
    return Decision(
        new_workers=tuple(new_workers),
        placements=tuple(placements),
        waiting=tuple(left),
        impossible=tuple(impossible),
        retired=tuple(retired),
    )


def _all_devices(snapshot: Snapshot) -> list[Device]:
    return [*snapshot.free_devices, *(worker.device for worker in snapshot.workers)]


def _new_workers(jobs: Sequence[WaitingJob], bins: Sequence[_Bin], snapshot: Snapshot) -> list[NewWorker]:
    """Hand out free devices to bases, the neediest first."""
    work = {job.base: 0 for job in jobs}
    num_jobs = dict.fromkeys(work, 0)
    for job in jobs:
        work[job.base] += job.work_tokens
        num_jobs[job.base] += 1
    num_workers = {base: sum(one.base == base for one in bins) for base in work}
    for one in bins:
        if one.base in work:
            work[one.base] += one.work_tokens
            num_jobs[one.base] += len(one.demands)
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


def _place(job: WaitingJob, hosts: Sequence[_Bin], token_budget: int) -> Placement:
    def bytes_with(host: _Bin) -> int:
        return worker_bytes(job.base_shape, [*host.demands, job.demand], token_budget)

    roomy = [host for host in hosts if bytes_with(host) <= host.device.memory_bytes]
    host = min(roomy or hosts, key=lambda one: one.work_tokens)
    others = len(host.demands)
    beside = f"beside {others} other {'job' if others == 1 else 'jobs'}" if others else "first on its base"
    if roomy:
        reason = (
            f"{host.id} has the base and room ({_gib(bytes_with(host))} of {_gib(host.device.memory_bytes)}), {beside}"
        )
    else:
        reason = (
            f"{host.id} has the base but no room yet (would be {_gib(bytes_with(host))} of "
            f"{_gib(host.device.memory_bytes)}); taken in when a job leaves"
        )
    host.demands.append(job.demand)
    host.work_tokens += job.work_tokens
    return Placement(job_id=job.id, worker_id=host.id, reason=reason)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"
