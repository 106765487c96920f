from __future__ import annotations

from dataclasses import replace

import pytest

from jobs.records import BaseKey
from orchestrator.placement import Decision, Device, RunningWorker, Snapshot, WaitingJob, decide
from workers.memory import BaseShape, Demand, worker_bytes

GIB = 2**30
SHAPE = BaseShape(num_parameters=GIB // 8, itemsize=4, vocab_size=1000, linear_features=10_000)
DEMAND = Demand(adapter_bytes=GIB // 4, worst_tokens=100, worst_labels=10)


def base(name: str = "a") -> BaseKey:
    return BaseKey(model_name_or_path=name, revision=None, dtype="float32")


def device(number: int, memory_bytes: int = 16 * GIB) -> Device:
    return Device(id=f"cpu-{number}", kind="cpu", memory_bytes=memory_bytes, num_cpus=1)


def job(name: str, of: str = "a", *, work: int = 100, priority: int = 0, sequence: int = 0) -> WaitingJob:
    return WaitingJob(
        id=name,
        base=base(of),
        base_shape=SHAPE,
        demand=DEMAND,
        work_tokens=work,
        priority=priority,
        sequence=sequence,
    )


def choose(
    jobs: list[WaitingJob], *, devices: int = 1, workers: tuple[RunningWorker, ...] = (), memory_bytes: int = 16 * GIB
) -> Decision:
    jobs = [replace(one, sequence=number) for number, one in enumerate(jobs)]
    return decide(
        Snapshot(
            waiting=tuple(jobs),
            workers=workers,
            free_devices=tuple(device(number, memory_bytes) for number in range(devices)),
            num_started=len(workers),
            token_budget=4096,
        )
    )


def where(decision: Decision) -> dict[str, str]:
    return {placement.job_id: placement.worker_id for placement in decision.placements}


def test_jobs_on_one_base_share_one_worker() -> None:
    decision = choose([job(f"j{n}") for n in range(5)])
    assert [new.base for new in decision.new_workers] == [base()]
    assert set(where(decision).values()) == {"w0"}


def test_unlike_bases_get_unlike_workers() -> None:
    decision = choose([job("x", "a"), job("y", "b"), job("z", "a")], devices=2)
    assert [(new.id, new.base) for new in decision.new_workers] == [("w0", base("a")), ("w1", base("b"))]
    assert where(decision) == {"x": "w0", "y": "w1", "z": "w0"}


def test_a_dtype_makes_another_base() -> None:
    half = replace(job("y"), base=replace(base(), dtype="bfloat16"))
    assert len(choose([job("x"), half], devices=2).new_workers) == 2


def test_several_devices_give_several_workers_of_one_base_balanced_by_work() -> None:
    decision = choose([job("big", work=300), job("m1", work=100), job("m2", work=100), job("m3", work=100)], devices=2)
    assert len(decision.new_workers) == 2
    placed = where(decision)
    assert {placed[name] for name in ("m1", "m2", "m3")} == {"w1"}
    assert placed["big"] == "w0"


def test_never_more_workers_than_jobs() -> None:
    assert len(choose([job("x"), job("y")], devices=8).new_workers) == 2


def test_the_base_with_the_most_work_per_worker_gets_the_next_device() -> None:
    jobs = [job("x", "a", work=10), job("x2", "a", work=10), job("y", "b", work=500), job("y2", "b", work=500)]
    assert [new.base.model_name_or_path for new in choose(jobs, devices=3).new_workers] == ["a", "b", "b"]


def test_without_a_free_device_a_base_waits_and_the_reason_names_it() -> None:
    decision = choose([job("x", "a"), job("y", "b")], devices=1)
    assert where(decision) == {"x": "w0"}
    [(job_id, reason)] = decision.waiting
    assert job_id == "y"
    assert "b (float32)" in reason


def test_an_idle_worker_is_retired_when_another_base_waits_for_its_device() -> None:
    idle = RunningWorker(id="w0", device=device(0), base=base("a"), demands=(), work_tokens=0)
    decision = choose([job("y", "b")], devices=0, workers=(idle,))
    assert decision.retired == ("w0",)
    assert [job_id for job_id, _ in decision.waiting] == ["y"]


def test_a_busy_worker_is_never_retired() -> None:
    busy = RunningWorker(id="w0", device=device(0), base=base("a"), demands=(DEMAND,), work_tokens=5)
    assert choose([job("y", "b")], devices=0, workers=(busy,)).retired == ()


def test_higher_priority_is_placed_first() -> None:
    decision = choose([job("low"), job("high", priority=5)])
    assert [placement.job_id for placement in decision.placements] == ["high", "low"]


def test_a_worker_with_room_is_preferred_to_one_with_less_work() -> None:
    full = tuple(replace(DEMAND, adapter_bytes=2 * GIB) for _ in range(4))
    workers = (
        RunningWorker(id="w0", device=device(0, 8 * GIB), base=base(), demands=full, work_tokens=1),
        RunningWorker(id="w1", device=device(1, 8 * GIB), base=base(), demands=(DEMAND,), work_tokens=1000),
    )
    assert where(choose([job("x")], devices=0, workers=workers)) == {"x": "w1"}


def test_without_room_anywhere_the_job_queues_at_a_worker_and_the_reason_says_so() -> None:
    needs = worker_bytes(SHAPE, [DEMAND], 4096)
    decision = choose([job("x"), job("y")], memory_bytes=needs + DEMAND.adapter_bytes // 2)
    assert where(decision) == {"x": "w0", "y": "w0"}
    assert "room (" in decision.placements[0].reason
    assert "no room yet" in decision.placements[1].reason


def test_a_job_that_no_device_can_hold_is_refused_with_both_figures() -> None:
    decision = choose([job("x")], memory_bytes=GIB // 4)
    [(job_id, reason)] = decision.impossible
    assert job_id == "x"
    assert "0.25 GiB" in reason
    assert not decision.new_workers


@pytest.mark.parametrize("devices", [1, 2, 5])
def test_every_job_is_answered_exactly_once(devices: int) -> None:
    jobs = [job(f"j{n}", "abc"[n % 3], work=n + 1, priority=n % 2) for n in range(12)]
    decision = choose(jobs, devices=devices)
    answered = [placement.job_id for placement in decision.placements] + [job_id for job_id, _ in decision.waiting]
    assert sorted(answered) == sorted(one.id for one in jobs)
    hosts = {new.id: new.base for new in decision.new_workers}
    assert all(
        hosts[placement.worker_id] == base("abc"[int(placement.job_id[1:]) % 3]) for placement in decision.placements
    )
