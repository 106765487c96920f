"""Who goes where: handed over at once as `loraloom run` does, and placed only where it fits as the service does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from orchestrator.decision import (
    Decision,
)
from orchestrator.placement import (
    decide,
)
from orchestrator.room import Room
from orchestrator.snapshot import (
    PolicySettings,
    Queue,
    RunningWorker,
    Snapshot,
    WaitingJob,
)
from orchestrator.waiting_line import WaitingLine
from tests.orchestrator.parts import (
    BUDGET,
    DEMAND,
    DEMANDS,
    GIB,
    SHAPE,
    base,
    demand,
    running,
    snapshot,
    snapshots,
    waiting,
    worker,
)
from workers.memory import worker_bytes

AT_ONCE = PolicySettings(hand_over_at_once=True)
MODES = pytest.mark.parametrize("mode", [AT_ONCE, PolicySettings()], ids=["at once", "where it fits"])


def job(name: str, of: str = "a", *, work: int = 100, priority: int = 0) -> WaitingJob:
    return waiting(name, of, work_tokens=work, priority=priority)


def choose(
    jobs: list[WaitingJob],
    mode: PolicySettings = AT_ONCE,
    *,
    devices: int = 1,
    workers: tuple[RunningWorker, ...] = (),
    memory_bytes: int = 16 * GIB,
) -> Decision:
    jobs = [replace(one, sequence=number) for number, one in enumerate(jobs)]
    return decide(
        snapshot(
            jobs,
            workers=workers,
            devices=devices,
            memory_bytes=memory_bytes,
            num_started=len(workers),
            settings=mode,
        )
    )


def where(decision: Decision) -> dict[str, str]:
    return {placement.job_id: placement.worker_id for placement in decision.placements}


def retired(decision: Decision) -> list[str]:
    return [one.worker_id for one in decision.retired]


@MODES
def test_jobs_on_one_base_share_one_worker(mode: PolicySettings) -> None:
    decision = choose([job(f"j{n}") for n in range(5)], mode)
    assert [new.base for new in decision.new_workers] == [base()]
    assert set(where(decision).values()) == {"w0"}


@MODES
def test_unlike_bases_get_unlike_workers(mode: PolicySettings) -> None:
    decision = choose([job("x", "a"), job("y", "b"), job("z", "a")], mode, devices=2)
    assert [(new.id, new.base) for new in decision.new_workers] == [("w0", base("a")), ("w1", base("b"))]
    assert where(decision) == {"x": "w0", "y": "w1", "z": "w0"}


@MODES
def test_a_dtype_makes_another_base(mode: PolicySettings) -> None:
    half = replace(job("y"), base=replace(base(), dtype="bfloat16"))
    assert len(choose([job("x"), half], mode, devices=2).new_workers) == 2


def test_several_devices_give_several_workers_of_one_base_balanced_by_work() -> None:
    decision = choose([job("big", work=300), job("m1", work=100), job("m2", work=100), job("m3", work=100)], devices=2)
    assert len(decision.new_workers) == 2
    placed = where(decision)
    assert {placed[name] for name in ("m1", "m2", "m3")} == {"w1"}
    assert placed["big"] == "w0"


@MODES
def test_never_more_workers_than_jobs(mode: PolicySettings) -> None:
    assert len(choose([job("x"), job("y")], mode, devices=8).new_workers) <= 2


def test_the_base_with_the_most_work_per_worker_gets_the_next_device() -> None:
    jobs = [job("x", "a", work=10), job("x2", "a", work=10), job("y", "b", work=500), job("y2", "b", work=500)]
    assert [new.base.model_name_or_path for new in choose(jobs, devices=3).new_workers] == ["a", "b", "b"]


@MODES
def test_without_a_free_device_a_base_waits_and_the_reason_names_it(mode: PolicySettings) -> None:
    waits = job("y", "b")
    decision = choose([job("x", "a"), waits], mode)
    assert where(decision) == {"x": "w0"}
    assert decision.why(waits) == "waiting: no free device for b (float32); every device holds another base"


@MODES
def test_an_idle_worker_is_retired_when_another_base_waits_for_its_device(mode: PolicySettings) -> None:
    waits = job("y", "b")
    decision = choose([waits], mode, devices=0, workers=(worker(0),))
    assert retired(decision) == ["w0"]
    assert not decision.placements


@MODES
def test_a_busy_worker_is_never_retired(mode: PolicySettings) -> None:
    assert not choose([job("y", "b")], mode, devices=0, workers=(worker(0, running("r")),)).retired


@MODES
def test_higher_priority_is_placed_first(mode: PolicySettings) -> None:
    decision = choose([job("low"), job("high", priority=5)], mode)
    assert [placement.job_id for placement in decision.placements] == ["high", "low"]


@MODES
def test_a_worker_with_room_is_preferred_to_one_with_less_work(mode: PolicySettings) -> None:
    full = [running(f"r{n}", demand=replace(DEMAND, adapter_bytes=2 * GIB), tokens_left=1) for n in range(4)]
    workers = (
        worker(0, *full, memory_bytes=8 * GIB),
        worker(1, running("r", tokens_left=1000), memory_bytes=8 * GIB),
    )
    assert where(choose([job("x")], mode, devices=0, workers=workers)) == {"x": "w1"}


def test_without_room_anywhere_the_job_queues_at_a_worker_and_the_reason_says_so() -> None:
    needs = worker_bytes(SHAPE, [DEMAND], BUDGET)
    decision = choose([job("x"), job("y")], memory_bytes=needs + DEMAND.adapter_bytes // 2)
    assert where(decision) == {"x": "w0", "y": "w0"}
    assert "room (" in decision.placements[0].reason
    assert "no room yet" in decision.placements[1].reason


@MODES
def test_a_job_that_no_device_can_hold_is_refused_with_both_figures(mode: PolicySettings) -> None:
    decision = choose([job("x")], mode, memory_bytes=GIB // 4)
    [(job_id, reason)] = decision.impossible
    assert job_id == "x"
    assert "0.25 GiB" in reason
    assert not decision.new_workers


@pytest.mark.parametrize("devices", [1, 2, 5])
def test_every_job_is_answered_exactly_once(devices: int) -> None:
    jobs = [job(f"j{n}", "abc"[n % 3], work=n + 1, priority=n % 2) for n in range(12)]
    decision = choose(jobs, devices=devices)
    left = list(decision.comes_first)
    assert all("no free device" in decision.why(one) for one in jobs if one.id in left)
    answered = [placement.job_id for placement in decision.placements] + left
    assert sorted(answered) == sorted(one.id for one in jobs)
    hosts = {new.id: new.base for new in decision.new_workers}
    assert all(
        hosts[placement.worker_id] == base("abc"[int(placement.job_id[1:]) % 3]) for placement in decision.placements
    )


# The service's mode.


def test_a_pack_is_filled_before_a_device_is_taken_and_a_device_before_a_pack_is_shared() -> None:
    jobs = [replace(job(f"j{n}"), demand=demand(GIB // 64, tokens=1000)) for n in range(18)]
    decision = choose(jobs, PolicySettings(), devices=2)
    placed = list(where(decision).values())
    assert placed[:8] == ["w0"] * 4 + ["w1"] * 4
    # 4,096 tokens are a pack; two packs' worth of jobs is the most.
    assert placed.count("w0") == placed.count("w1") == 8
    assert "the packs of all 2 workers with this base are full" in decision.why(jobs[-1])


def test_one_job_a_worker_where_packs_are_not_wanted() -> None:
    decision = choose([job("x"), job("y"), job("z")], PolicySettings(most_packs=0.0), devices=2)
    assert where(decision) == {"x": "w0", "y": "w1"}


def test_a_job_waits_where_it_does_not_fit_and_is_told_what_it_needs_and_when_to_expect_it() -> None:
    needs = worker_bytes(SHAPE, [DEMAND], BUDGET)
    full = worker(0, running("r", seconds_left=240.0), memory_bytes=needs + GIB // 8)
    waits = job("x")
    decision = choose([waits], PolicySettings(), devices=0, workers=(full,))
    assert not decision.placements
    assert decision.why(waits) == "waiting: no worker with this base has 0.26 GiB free; next expected in 4 min"


def test_a_queue_at_its_quota_waits_and_the_reason_names_both() -> None:
    jobs = [replace(job(f"j{n}"), sequence=n, queue="research") for n in range(6)]
    busy = worker(0, running("r", queue="research"))
    decision = decide(snapshot(jobs, workers=(busy,), queues=(Queue(name="research", max_jobs=4),)))
    assert list(where(decision)) == ["j0", "j1", "j2"]
    assert decision.why(jobs[3]) == "waiting: queue research is at its quota of 4 jobs"


def test_room_that_a_stopping_job_leaves_goes_to_whom_it_was_made_for() -> None:
    large, small = demand(4 * GIB), demand(GIB // 64)
    stops = running("victim", demand=large, stopping=True)
    full = worker(0, stops, running("stays"), memory_bytes=7 * GIB)
    first = replace(waiting("first", demand=large, priority=9), sequence=0)
    second = replace(waiting("second", demand=large), sequence=1)
    third = replace(waiting("third", demand=small), sequence=2)
    decision = decide(snapshot([first, second, third], workers=(full,)))
    assert where(decision) == {"third": "w0"}
    assert decision.why(first) == "waiting: w0 is making room"
    assert not decision.preemptions


def test_an_overdue_job_of_another_base_gets_a_worker_that_takes_no_others() -> None:
    busy = tuple(worker(n, running(f"r{n}", seconds_left=100.0 * (2 - n))) for n in range(2))
    old = replace(waiting("old", "b"), submitted_seconds=0.0)
    young = [replace(waiting(f"y{n}"), submitted_seconds=9000.0, sequence=n + 1) for n in range(3)]
    decision = decide(snapshot([old, *young], workers=busy, now_seconds=9000.0))
    assert decision.reserved == ("w1",)
    assert set(where(decision).values()) == {"w0"}
    assert "takes no more jobs" in decision.why(old)
    early = decide(snapshot([old, *young], workers=busy, now_seconds=100.0))
    assert early.reserved == ()


def test_nothing_is_impossible_while_there_are_no_devices_or_larger_ones_are_away() -> None:
    assert choose([job("x")], PolicySettings(), devices=0).impossible == ()
    small = snapshot([job("x")], devices=1, memory_bytes=GIB // 4, largest_device_bytes=16 * GIB)
    decision = decide(small)
    assert decision.impossible == ()
    said = "waiting: needs about 0.76 GiB, the largest device that is here has 0.25 GiB; one of 16.00 GiB may come"
    assert decision.why(job("x")) == said


@pytest.mark.parametrize("devices", [0, 1])
def test_a_job_is_impossible_only_by_the_operators_word_where_larger_devices_may_come(devices: int) -> None:
    def decided(largest_gib: float, seen_gib: int = 0) -> Decision:
        settings = PolicySettings(may_grow=True, largest_device_bytes=round(largest_gib * GIB))
        return decide(
            snapshot(
                [job("x")], devices=devices, memory_bytes=GIB // 4, settings=settings,
                largest_device_bytes=seen_gib * GIB,
            )
        )  # fmt: skip

    silent, stated, too_small = decided(0), decided(2), decided(0.5, seen_gib=16)
    assert silent.impossible == stated.impossible == ()
    assert silent.why(job("x")).endswith("a larger one may come" if devices else "no node with room for a worker")
    assert stated.why(job("x")).endswith("one of 2.00 GiB may come" if devices else "no node with room for a worker")
    [(name, reason)] = too_small.impossible
    assert name == "x"
    assert reason.startswith("needs about 0.76 GiB, the largest device that can ever be here, by --largest-device,")
    # What nothing can hold yet is still asked for.
    assert silent.wanted_devices == stated.wanted_devices == 1


def test_the_autoscaler_is_asked_for_full_packs_of_what_still_waits() -> None:
    jobs = [replace(job(f"j{n}"), demand=demand(GIB // 64, tokens=1000)) for n in range(16)]
    assert choose(jobs, PolicySettings(), devices=1).wanted_devices == 2


@given(snapshots())
@settings(max_examples=300)
def test_no_placement_goes_beyond_memory_quota_or_the_base(given: Snapshot) -> None:
    decision = decide(given)
    jobs = {one.id: one for one in given.waiting}
    hosts = {one.id: (one.base, one.device, [job.demand for job in one.jobs], one.stopping) for one in given.workers}
    hosts |= {one.id: (one.base, one.device, [], False) for one in decision.new_workers}
    assert len({one.device.id for one in decision.new_workers}) == len(decision.new_workers)
    placed = [placement.job_id for placement in decision.placements]
    assert len(set(placed)) == len(placed)
    gained: dict[str, int] = {}
    for placement in decision.placements:
        of_base, _, demands, stopping = hosts[placement.worker_id]
        one = jobs[placement.job_id]
        assert one.base == of_base
        assert not stopping
        demands.append(one.demand)
        gained[one.queue] = gained.get(one.queue, 0) + 1
    touched = {placement.worker_id for placement in decision.placements}
    assert not touched & {one.worker_id for one in decision.retired}
    for worker_id in touched:
        _, on, demands, _ = hosts[worker_id]
        assert worker_bytes(SHAPE, demands, BUDGET) <= on.memory_bytes
    for queue in given.queues:
        if queue.max_jobs is not None and gained.get(queue.name):
            already = sum(job.queue == queue.name for one in given.workers for job in one.jobs)
            assert already + gained[queue.name] <= queue.max_jobs
    for one in given.waiting:
        if one.id not in placed:
            assert decision.why(one).startswith("waiting: ")


@given(snapshots())
@settings(max_examples=100)
def test_a_line_that_is_kept_gives_what_a_new_one_gives(given: Snapshot) -> None:
    line = WaitingLine(reversed(given.waiting))
    for one in given.waiting[::2]:
        line.remove(one.id)
    for one in given.waiting[::2]:
        line.add(one)
    assert decide(replace(given, waiting=()), line) == decide(given) == decide(given)
    assert sorted(one.id for one in line) == sorted(one.id for one in given.waiting)


@given(snapshots(), DEMANDS)
@settings(max_examples=200)
def test_running_sums_are_the_memory_models_bytes(given: Snapshot, more: object) -> None:
    for one in given.workers:
        demands = [job.demand for job in one.jobs]
        assert one.room.bytes_with(SHAPE, None, BUDGET) == worker_bytes(SHAPE, demands, BUDGET)
        assert one.room.bytes_with(SHAPE, more, BUDGET) == worker_bytes(SHAPE, [*demands, more], BUDGET)  # type: ignore[arg-type, list-item]
        assert Room(demands).pack_tokens == one.pack_tokens
