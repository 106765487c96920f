"""How long one scheduling decision takes: thousands of waiting jobs, hundreds of workers, some places freed each turn.

`python -m tests.benchmarks.decisions [--jobs N] [--workers N] [--turns N] [--json]`. Two lines of jobs: sweeps, whose
jobs ask for few different amounts of memory, and jobs that are all unlike. Timed is the decision over a kept
`WaitingLine` with all workers' records made anew, as after a turn in which every worker reported. Milliseconds are of
the processor: what else runs on the machine has no part in them; the median by the clock stands beside them.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from dataclasses import replace

from jobs.records import BaseKey
from orchestrator.fair_shares import FairShares
from orchestrator.placement import decide
from orchestrator.snapshot import Device, Queue, RunningJob, RunningWorker, Snapshot, WaitingJob
from orchestrator.waiting_line import WaitingLine
from workers.memory import BaseShape, Demand

_BUDGET = 4096
_GIB = 2**30
_BASES = [
    (
        BaseKey(model_name_or_path=f"base-{number}", revision=None, dtype="bfloat16"),
        BaseShape(num_parameters=size * 10**9, itemsize=2, vocab_size=150_000, linear_features=1_000_000 * size),
    )
    for number, size in enumerate((1, 3, 7, 8, 14))
]
_QUEUES = [Queue(name=f"queue-{number}", weight=float(1 + number % 3)) for number in range(5)]


def measure(num_jobs: int, num_workers: int, turns: int, *, unlike: bool, seed: int = 0) -> dict[str, float]:
    """Milliseconds of decisions: the first one, and median and largest of those after it."""
    random_ = random.Random(seed)
    jobs = [_job(number, random_, unlike=unlike) for number in range(num_jobs)]
    line = WaitingLine(jobs)
    by_id = {job.id: job for job in jobs}
    fair = FairShares()
    running: dict[str, tuple[BaseKey, Device, list[RunningJob]]] = {}
    free = [Device(id=f"d{n}", kind="cuda", memory_bytes=80 * _GIB, num_cpus=8) for n in range(num_workers)]
    taken, by_clock, placed, num_placed, next_number = [], [], [], 0, num_jobs
    for turn in range(turns + 1):
        now = turn * 10.0
        workers = tuple(
            RunningWorker(
                id=name, device=device, base=base, jobs=tuple(replace(job) for job in members), as_of_seconds=now
            )
            for name, (base, device, members) in running.items()
        )
        snapshot = Snapshot(
            workers=workers, free_devices=tuple(free), num_started=len(running), token_budget=_BUDGET,
            queues=fair.queues(_QUEUES), now_seconds=now, num_placed=num_placed,
        )  # fmt: skip
        started, clock = time.thread_time(), time.perf_counter()
        decision = decide(snapshot, line)
        taken.append(1000 * (time.thread_time() - started))
        by_clock.append(1000 * (time.perf_counter() - clock))
        for new in decision.new_workers:
            running[new.id] = (new.base, new.device, [])
        gone = {new.device.id for new in decision.new_workers}
        free = [device for device in free if device.id not in gone]
        for one in decision.placements:
            line.remove(one.job_id)
            job = by_id[one.job_id]
            running[one.worker_id][2].append(
                RunningJob(
                    id=job.id, demand=job.demand, tokens_left=job.work_tokens, seconds_left=job.work_seconds,
                    queue=job.queue, priority=job.priority, placed_seconds=now,
                )
            )  # fmt: skip
        placed.append(len(decision.placements))
        num_placed += len(decision.placements)
        # Each turn about one worker in ten ends a job, and as many jobs come as were placed.
        for *_, members in random_.sample(list(running.values()), max(1, len(running) // 10)):
            if members:
                members.pop(random_.randrange(len(members)))
        use = {queue.name: 0.0 for queue in _QUEUES}
        for *_, members in running.values():
            for job in members:
                use[job.queue] += 1 / len(members)
        fair.advance(10.0, use, line.heads, _QUEUES)
        while len(line) < num_jobs:
            job = replace(_job(next_number, random_, unlike=unlike), submitted_seconds=now)
            by_id[job.id] = job
            line.add(job)
            next_number += 1
    return {
        "jobs": num_jobs,
        "workers": num_workers,
        "turns": turns,
        "kinds": line.num_kinds,
        "first_ms": round(taken[0], 2),
        "first_placed": placed[0],
        "median_ms": round(statistics.median(taken[1:]), 2),
        "median_by_clock_ms": round(statistics.median(by_clock[1:]), 2),
        "p95_ms": round(sorted(taken[1:])[int(0.95 * turns)], 2),
        "largest_ms": round(max(taken[1:]), 2),
        "placed_per_turn": round(statistics.mean(placed[1:]), 1),
    }


def _job(number: int, random_: random.Random, *, unlike: bool) -> WaitingJob:
    base, shape = random_.choice(_BASES)
    rank = random_.choice((8, 16, 32, 64))
    adapter = rank * 40 * 2**20 + (random_.randrange(2**20) if unlike else 0)
    tokens = random_.choice((256, 512, 1024, 2048)) + (random_.randrange(100) if unlike else 0)
    work = random_.lognormvariate(6.0, 1.0)
    return WaitingJob(
        id=f"j{number}", base=base, base_shape=shape,
        demand=Demand(adapter_bytes=adapter, worst_tokens=tokens, worst_labels=tokens // 4),
        work_tokens=int(work * 10_000), work_seconds=work, priority=random_.choice((0, 0, 0, 0, 1)), sequence=number,
        queue=random_.choice(_QUEUES).name,
    )  # fmt: skip


def main() -> None:
    """Print both lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--turns", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    for name, unlike in (("sweeps", False), ("all unlike", True)):
        result = measure(asked.jobs, asked.workers, asked.turns, unlike=unlike)
        if asked.json:
            print(json.dumps({"line": name, **result}))
        else:
            print(
                f"{name}: {result['jobs']:,} waiting jobs of {result['kinds']:,} kinds, {result['workers']} workers: "
                f"median {result['median_ms']:.1f} ms "
                f"({result['median_by_clock_ms']:.1f} by the clock), p95 {result['p95_ms']:.1f}, "
                f"largest {result['largest_ms']:.1f} "
                f"({result['placed_per_turn']:.1f} placed a turn); first decision {result['first_ms']:.0f} ms "
                f"({result['first_placed']:,} placed)"
            )


if __name__ == "__main__":
    main()
