"""Who stops for whom: strictly lower priority, the fewest, those that lose least, and never again and again."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.bins import Bin, fits
from orchestrator.decision import (
    Decision,
)
from orchestrator.placement import (
    decide,
)
from orchestrator.preemption import Terms, choose, may_stop, respite_seconds
from orchestrator.room import Room
from orchestrator.snapshot import Queue, RunningJob, RunningWorker, Snapshot
from tests.orchestrator.parts import BUDGET, GIB, SHAPE, demand, running, snapshot, snapshots, waiting, worker

LARGE = demand(2 * GIB)
TERMS = Terms(now_seconds=5000.0, token_budget=BUDGET, most_tokens=2.0 * BUDGET)


def full_worker(*jobs: RunningJob, number: int = 0, of: str = "a") -> RunningWorker:
    """One with no room for another large job."""
    needs = Room([*(job.demand for job in jobs), LARGE]).bytes_with(SHAPE, None, BUDGET)
    return worker(number, *jobs, of=of, memory_bytes=needs - 1)


def victims(decision: Decision) -> set[str]:
    return {name for one in decision.preemptions for name in one.victims}


def test_the_victim_that_loses_least_work_makes_room_and_is_told_to_whom() -> None:
    jobs = [running(f"r{n}", demand=LARGE, unsaved_seconds=seconds) for n, seconds in enumerate((50.0, 3.0, 70.0))]
    urgent = waiting("urgent", demand=LARGE, priority=5)
    decision = decide(snapshot([urgent], workers=(full_worker(*jobs),)))
    [one] = decision.preemptions
    assert (one.job_id, one.worker_id, one.victims, one.unsaved_seconds) == ("urgent", "w0", ("r1",), 3.0)
    assert "r1 (priority 0)" in one.reason
    assert "at most 3 s of unsaved work" in one.reason
    assert decision.why(urgent) == "waiting: w0 is making room: r1 stops for it"


def test_equal_priority_never_stops() -> None:
    jobs = [running(f"r{n}", demand=LARGE, priority=5) for n in range(3)]
    assert not decide(snapshot([waiting("x", demand=LARGE, priority=5)], workers=(full_worker(*jobs),))).preemptions


def test_one_large_victim_rather_than_two_small_ones() -> None:
    small = [running(f"small{n}", demand=demand(GIB)) for n in range(2)]
    large = running("large", demand=LARGE, unsaved_seconds=900.0)
    full = full_worker(*small, large)
    full = replace(full, device=replace(full.device, memory_bytes=full.device.memory_bytes - GIB - GIB // 16))
    decision = decide(snapshot([waiting("x", demand=LARGE, priority=1)], workers=(full,)))
    assert victims(decision) == {"large"}


def test_a_worker_of_the_base_rather_than_one_that_must_change_its_base() -> None:
    workers = (full_worker(running("other"), of="b"), full_worker(running("same"), number=1))
    decision = decide(snapshot([waiting("x", demand=LARGE, priority=1)], workers=workers))
    assert victims(decision) == {"same"}


def test_a_whole_worker_of_another_base_stops_only_where_all_its_jobs_are_lower() -> None:
    low, high = running("low"), running("high", priority=7)
    job = waiting("x", "b", priority=5)
    assert victims(decide(snapshot([job], workers=(worker(0, low, high), worker(1, low))))) == {"low"}
    assert not decide(snapshot([job], workers=(worker(0, low, high),))).preemptions


def test_room_that_is_being_made_is_not_made_twice() -> None:
    stopping = running("r0", demand=LARGE, stopping=True)
    full = full_worker(stopping, running("r1", demand=LARGE))
    decision = decide(snapshot([waiting("x", demand=LARGE, priority=5)], workers=(full,)))
    assert not decision.preemptions
    emptying = worker(0, replace(stopping, demand=demand()), of="b")
    decision = decide(snapshot([waiting("x", demand=LARGE, priority=5)], workers=(emptying,)))
    assert not decision.preemptions


def test_who_made_room_before_is_left_alone_for_ever_longer() -> None:
    assert [respite_seconds(number) for number in (0, 1, 2, 3, 50)] == [0.0, 600.0, 1200.0, 2400.0, 86_400.0]
    job = waiting("x", priority=1)
    again = running("r", num_preemptions=2, placed_seconds=4000.0)
    assert not may_stop(again, job, TERMS)
    assert may_stop(replace(again, placed_seconds=3800.0), job, TERMS)


def test_a_queue_makes_room_for_another_only_out_of_what_it_has_more() -> None:
    terms = replace(TERMS, ahead={"poor": -50.0, "rich": 10.0})
    poor, rich = running("r", queue="poor"), running("r", queue="rich")
    assert not may_stop(poor, waiting("x", queue="rich", priority=9), terms)
    assert may_stop(poor, waiting("x", queue="poor", priority=9), terms)
    assert may_stop(rich, waiting("x", queue="poor", priority=9), terms)


def test_a_queue_at_its_quota_stops_nobody() -> None:
    workers = (full_worker(running("mine", queue="q"), running("other", demand=LARGE)),)
    job = waiting("x", demand=LARGE, priority=9, queue="q")
    decision = decide(snapshot([job], workers=workers, queues=(Queue(name="q", max_jobs=1),)))
    assert not decision.preemptions


@given(snapshots())
@settings(max_examples=300)
def test_only_strictly_lower_priorities_stop_and_nobody_twice(given: Snapshot) -> None:
    decision = decide(given)
    jobs = {one.id: one for one in given.waiting}
    on = {one.id: {job.id: job for job in one.jobs} for one in given.workers}
    stopped = [name for one in decision.preemptions for name in one.victims]
    assert len(set(stopped)) == len(stopped)
    placed = {placement.job_id for placement in decision.placements}
    for one in decision.preemptions:
        assert one.job_id not in placed
        for name in one.victims:
            victim = on[one.worker_id][name]
            assert victim.priority < jobs[one.job_id].priority
            assert not victim.stopping
            assert given.now_seconds - victim.placed_seconds >= respite_seconds(victim.num_preemptions)


@given(
    st.lists(
        st.tuples(st.integers(1, 8), st.integers(0, 3), st.integers(0, 100), st.integers(0, 2)), min_size=1, max_size=7
    ),
    st.integers(1, 24),
)
@settings(max_examples=200)
def test_no_smaller_set_and_no_cheaper_one_of_its_size_makes_room(
    rows: list[tuple[int, int, int, int]], asked: int
) -> None:
    members = tuple(
        running(
            f"r{n}", demand=demand(size * GIB // 4), priority=priority, unsaved_seconds=float(unsaved),
            num_preemptions=again, placed_seconds=4000.0,
        )
        for n, (size, priority, unsaved, again) in enumerate(rows)
    )  # fmt: skip
    job = waiting("x", demand=demand(asked * GIB // 4), priority=2)
    needs = Room(one.demand for one in members).bytes_with(SHAPE, None, BUDGET)
    one = worker(0, *members, memory_bytes=needs + GIB // 8)
    found = choose(job, [Bin.of(0, one)], TERMS)
    eligible = [member for member in members if may_stop(member, job, TERMS)]

    def is_enough(gone: tuple[RunningJob, ...]) -> bool:
        room = Room(member.demand for member in members if member not in gone)
        return fits(room, one.device, job, TERMS.most_tokens, BUDGET)

    enough = [some for number in range(1, len(eligible) + 1) for some in combinations(eligible, number) if is_enough(some)]  # fmt: skip  # noqa: E501
    if not enough:
        assert found is None
        return
    assert found is not None
    best = min((len(some), sum(member.unsaved_seconds for member in some)) for some in enough)
    assert (len(found[1].victims), found[1].unsaved_seconds) == best
