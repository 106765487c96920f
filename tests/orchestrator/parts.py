"""Small parts of snapshots, and strategies that put them together."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from jobs.records import BaseKey
from orchestrator.snapshot import Device, PolicySettings, Queue, RunningJob, RunningWorker, Snapshot, WaitingJob
from workers.memory import BaseShape, Demand

GIB = 2**30
MIB = 2**20
SHAPE = BaseShape(num_parameters=GIB // 8, itemsize=4, vocab_size=1000, linear_features=10_000)
DEMAND = Demand(adapter_bytes=GIB // 4, worst_tokens=100, worst_labels=10)
BUDGET = 4096


def base(name: str = "a") -> BaseKey:
    return BaseKey(model_name_or_path=name, revision=None, dtype="float32")


def device(number: int, memory_bytes: int = 16 * GIB) -> Device:
    return Device(id=f"cpu-{number}", kind="cpu", memory_bytes=memory_bytes, num_cpus=1)


def demand(adapter_bytes: int = GIB // 4, tokens: int = 100, **more: Any) -> Demand:
    return Demand(adapter_bytes=adapter_bytes, worst_tokens=tokens, worst_labels=max(1, tokens // 10), **more)


def waiting(name: str, of: str = "a", **more: Any) -> WaitingJob:
    fields: dict[str, Any] = {"demand": DEMAND, "work_tokens": 100, "priority": 0, "sequence": 0} | more
    return WaitingJob(id=name, base=base(of), base_shape=SHAPE, **fields)


def running(name: str, **more: Any) -> RunningJob:
    fields: dict[str, Any] = {"demand": DEMAND, "tokens_left": 100, "seconds_left": 60.0} | more
    return RunningJob(id=name, **fields)


def worker(number: int, *jobs: RunningJob, of: str = "a", memory_bytes: int = 16 * GIB, **more: Any) -> RunningWorker:
    return RunningWorker(id=f"w{number}", device=device(number, memory_bytes), base=base(of), jobs=jobs, **more)


def snapshot(
    jobs: list[WaitingJob] | tuple[WaitingJob, ...] = (),
    *,
    workers: tuple[RunningWorker, ...] = (),
    devices: int = 0,
    memory_bytes: int = 16 * GIB,
    queues: tuple[Queue, ...] = (),
    settings: PolicySettings | None = None,
    **more: Any,
) -> Snapshot:
    fields: dict[str, Any] = {"token_budget": BUDGET, "num_started": 100} | more
    return Snapshot(
        waiting=tuple(jobs),
        workers=workers,
        free_devices=tuple(device(1000 + number, memory_bytes) for number in range(devices)),
        queues=queues,
        settings=settings or PolicySettings(),
        **fields,
    )


DEMANDS = st.builds(
    lambda adapter, tokens, labels, again: Demand(
        adapter_bytes=adapter * 64 * MIB, worst_tokens=tokens, worst_labels=min(labels, tokens), checkpointing=again
    ),
    st.integers(1, 40),
    st.sampled_from([10, 100, 1000, 5000]),
    st.integers(1, 200),
    st.booleans(),
)
_QUEUES = st.sampled_from(["blue", "green", "red"])
_BASES = st.sampled_from(["a", "b", "c"])
_PRIORITIES = st.sampled_from([-1, 0, 0, 0, 5])
_SECONDS = st.sampled_from([0.0, 10.0, 700.0, 5000.0])


@st.composite
def snapshots(draw: st.DrawFn, *, most_jobs: int = 25) -> Snapshot:
    """Clusters in any condition: jobs of all kinds, full and idle workers, some of them stopping."""
    jobs = [
        waiting(
            f"j{number}", draw(_BASES), demand=draw(DEMANDS), priority=draw(_PRIORITIES), queue=draw(_QUEUES),
            submitted_seconds=draw(_SECONDS), work_seconds=draw(_SECONDS), sequence=number,
        )
        for number in range(draw(st.integers(0, most_jobs)))
    ]  # fmt: skip
    workers = []
    for number in range(draw(st.integers(0, 4))):
        members = [
            running(
                f"r{number}-{place}", demand=draw(DEMANDS), priority=draw(_PRIORITIES), queue=draw(_QUEUES),
                seconds_left=draw(_SECONDS), unsaved_seconds=draw(_SECONDS), placed_seconds=draw(_SECONDS),
                num_preemptions=draw(st.integers(0, 3)), stopping=draw(st.sampled_from([False, False, True])),
            )
            for place in range(draw(st.integers(0, 4)))
        ]  # fmt: skip
        stopping = draw(st.sampled_from([False, False, False, True]))
        workers.append(worker(number, *members, of=draw(_BASES), stopping=stopping))
    queues = tuple(
        Queue(
            name=name, weight=draw(st.sampled_from([0.5, 1.0, 3.0])), max_jobs=draw(st.sampled_from([None, 1, 4])),
            served_seconds=draw(st.sampled_from([0.0, 100.0, 50_000.0])),
            fair_seconds=draw(st.sampled_from([0.0, 100.0, 50_000.0])),
        )
        for name in draw(st.sets(_QUEUES))
    )  # fmt: skip
    return snapshot(
        jobs, workers=tuple(workers), devices=draw(st.integers(0, 3)), queues=queues, now_seconds=5000.0,
        num_placed=draw(st.integers(0, 16)),
    )  # fmt: skip
