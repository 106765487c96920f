"""The order of waiting jobs, against a slow twin that sorts all of them anew for every turn."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.fair_shares import FairShares, water_fill
from orchestrator.queueing import Turns, charge
from orchestrator.snapshot import PolicySettings, Queue, Snapshot, WaitingJob
from orchestrator.waiting_line import WaitingLine
from tests.orchestrator.parts import DEMANDS, demand, running, snapshot, snapshots, waiting, worker

HOUR = 3600.0


def order_of(given: Snapshot, *, blocked: frozenset[str] = frozenset()) -> list[str]:
    """Ids in the order of their turns, where only those in `blocked` find no place."""
    turns, found = Turns(WaitingLine(given.waiting), given), []
    while (job := turns.next()) is not None:
        if job.id in blocked:
            turns.blocked(job)
        else:
            turns.placed(job)
            found.append(job.id)
    return found


def slow_order(given: Snapshot) -> list[str]:
    """The rules of `queueing`, one by one, over plain lists."""
    rules = {queue.name: queue for queue in given.queues}
    members = [job for one in given.workers for job in one.jobs]
    left = list(given.waiting)
    names = sorted({job.queue for job in left})
    queues = {name: rules.get(name) or Queue(name=name) for name in names}
    placed = {name: sum(job.queue == name for job in members) for name in names}

    def has_quota(name: str) -> bool:
        most = queues[name].max_jobs
        return most is None or placed[name] < most

    wanting = [name for name in names if has_quota(name)]
    weights = sum(queues[name].weight for name in wanting)
    longest = charge(math.inf, given.settings)
    committed = dict.fromkeys(names, 0.0)
    for one in given.workers:
        for name in names:
            mine = [job for job in one.jobs if job.queue == name]
            share = sum(job.demand.worst_tokens for job in mine) / max(1, one.pack_tokens)
            total = sum(job.seconds_left for job in mine) - share * (given.now_seconds - one.as_of_seconds)
            committed[name] += min(max(0.0, total), longest * len(mine))
    lag = {name: queues[name].fair_seconds - queues[name].served_seconds for name in names}
    together = sum(committed[name] for name in wanting)
    ahead = {name: committed[name] - lag[name] - queues[name].weight / weights * together for name in wanting}
    devices = len(given.workers) + len(given.free_devices)
    window = given.settings.fair_tolerance * given.settings.fair_window_seconds * devices
    tolerated = {name: window * queues[name].weight / weights for name in wanting}
    number, found = given.num_placed, []
    while candidates := [job for job in left if has_quota(job.queue)]:
        overdue = [
            job for job in candidates if job.submitted_seconds < given.now_seconds - given.settings.patience_seconds
        ]
        if number % given.settings.overdue_turn == given.settings.overdue_turn - 1 and overdue:
            job = min(overdue, key=lambda one: one.order[1:])
        else:

            def rank(one: WaitingJob) -> tuple[object, ...]:
                name = one.queue
                owed = lag[name] > tolerated[name] and ahead[name] < 0
                return (not owed, 0 if owed else -one.priority, ahead[name] / queues[name].weight)

            firsts = [min((job for job in candidates if job.queue == name), key=lambda one: one.order) for name in names
                      if any(job.queue == name for job in candidates)]  # fmt: skip
            job = min(firsts, key=lambda one: (*rank(one), one.order, one.queue))
        left.remove(job)
        found.append(job.id)
        number += 1
        placed[job.queue] += 1
        ahead[job.queue] += charge(job.work_seconds, given.settings)
    return found


@given(snapshots(most_jobs=40))
@settings(max_examples=300)
def test_turns_are_those_of_the_slow_twin(given: Snapshot) -> None:
    assert order_of(given) == slow_order(given)


@given(snapshots(most_jobs=40), st.data())
@settings(max_examples=100)
def test_who_fits_nowhere_does_not_change_the_order_within_a_queue(given: Snapshot, data: st.DataObject) -> None:
    given = replace(given, settings=PolicySettings(patience_seconds=math.inf))
    blocked = frozenset(data.draw(st.sets(st.sampled_from([job.id for job in given.waiting])))) if given.waiting else frozenset()  # fmt: skip  # noqa: E501
    jobs = {job.id: job for job in given.waiting}
    found = [jobs[job_id] for job_id in order_of(given, blocked=frozenset(blocked))]
    for name in {job.queue for job in found}:
        of_queue = [job.order for job in found if job.queue == name]
        assert of_queue == sorted(of_queue)


def test_priority_then_age_then_the_longest_of_those_submitted_at_once() -> None:
    jobs = [
        waiting("short", work_seconds=1.0, sequence=0),
        waiting("long", work_seconds=9.0, sequence=1),
        waiting("old", submitted_seconds=-5.0, sequence=2),
        waiting("urgent", priority=1, submitted_seconds=5.0, sequence=3),
    ]
    assert order_of(snapshot(jobs)) == ["urgent", "old", "long", "short"]


def test_queues_take_turns_by_weight_and_by_work() -> None:
    jobs = [waiting(f"a{n}", queue="a", work_seconds=10.0, sequence=n) for n in range(8)]
    jobs += [waiting(f"b{n}", queue="b", work_seconds=20.0, sequence=10 + n) for n in range(8)]
    order = order_of(snapshot(jobs, queues=(Queue(name="a", weight=3.0), Queue(name="b", weight=1.0))))
    # Three times the weight and half as long: six of `a` for each of `b`.
    assert [name[0] for name in order[:7]].count("b") == 1


def test_a_queue_that_is_owed_comes_before_priority_until_its_running_jobs_make_up_for_it() -> None:
    low = [waiting(f"low{n}", queue="owed", work_seconds=400.0, sequence=n) for n in range(4)]
    high = [waiting(f"high{n}", queue="rich", priority=9, work_seconds=400.0, sequence=10 + n) for n in range(4)]
    one = worker(0, running("r", queue="rich", seconds_left=0.0))
    shares = (Queue(name="owed", served_seconds=0.0, fair_seconds=1000.0), Queue(name="rich", served_seconds=1000.0))
    found = order_of(snapshot([*low, *high], workers=(one,), queues=shares))
    # 1,000 seconds are missing, in jobs of 400.
    assert found[:4] == ["low0", "low1", "low2", "high0"]
    in_peace = order_of(snapshot([*low, *high], workers=(one,)))
    assert in_peace[:4] == [f"high{n}" for n in range(4)]


def test_every_eighth_turn_is_for_whom_waits_longest() -> None:
    jobs = [waiting(f"high{n}", priority=9, submitted_seconds=9000.0, sequence=10 + n) for n in range(20)]
    jobs += [waiting(f"low{n}", submitted_seconds=float(n), sequence=n) for n in range(3)]
    found = order_of(snapshot(jobs, now_seconds=9000.0))
    assert [place for place, name in enumerate(found) if name.startswith("low")] == [7, 15, 22]
    assert [name for name in found if name.startswith("low")] == ["low0", "low1", "low2"]


@given(st.lists(st.tuples(st.sampled_from("abc"), DEMANDS, st.integers(-2, 2), st.integers(0, 5)), max_size=30), st.data())  # fmt: skip  # noqa: E501
@settings(max_examples=100)
def test_a_line_holds_what_was_added_and_not_removed(rows: list[tuple[str, object, int, int]], data: st.DataObject) -> None:  # fmt: skip  # noqa: E501
    jobs = [
        waiting(f"j{n}", of=name, demand=asked, priority=priority, submitted_seconds=float(at), sequence=n)
        for n, (name, asked, priority, at) in enumerate(rows)
    ]
    line = WaitingLine(jobs)
    gone = data.draw(st.sets(st.sampled_from(jobs).map(lambda job: job.id))) if jobs else set()
    for job_id in sorted(gone):
        line.remove(job_id)
    kept = [job for job in jobs if job.id not in gone]
    assert {job.id for job in line} == {job.id for job in kept}
    assert sum(line.pack_tokens.values()) == sum(job.demand.worst_tokens for job in kept)
    firsts = sorted(order for by_base in line.heads.values() for heads in by_base.values() for order, _ in heads)
    kinds = {(job.queue, job.base, job.demand, job.priority) for job in kept}
    assert len(firsts) == line.num_kinds == len(kinds)
    assert order_of(snapshot(kept)) == slow_order(snapshot(kept))


def test_a_job_is_in_line_once() -> None:
    line = WaitingLine([waiting("x")])
    with pytest.raises(ValueError, match="job x is in line already"):
        line.add(waiting("x", priority=4))


@given(
    st.floats(0, 1e6),
    st.dictionaries(st.sampled_from("abcd"), st.one_of(st.floats(0, 1e6), st.just(math.inf)), min_size=1),
    st.lists(st.floats(0.1, 10), min_size=4, max_size=4),
)
def test_water_is_divided_by_weight_and_nobody_gets_more_than_wanted(
    capacity: float, wanted: dict[str, float], weights: list[float]
) -> None:
    weight = dict(zip("abcd", weights, strict=True))
    shares = water_fill(capacity, wanted, weight)
    assert sum(shares.values()) == pytest.approx(min(capacity, sum(wanted.values())), rel=1e-6, abs=1e-6)
    level = max((shares[name] / weight[name] for name in wanted), default=0.0)
    for name, want in wanted.items():
        assert shares[name] <= want
        if shares[name] < want * (1 - 1e-9):
            # Whoever wants more has no less for its weight than anybody.
            assert shares[name] / weight[name] == pytest.approx(level, rel=1e-6, abs=1e-6)


def test_fair_shares_forget_and_come_back_from_json() -> None:
    books = FairShares(PolicySettings(fair_window_seconds=HOUR))
    books.advance(HOUR, {"a": 3.0, "b": 1.0}, ["a", "b"])
    by_name = {queue.name: queue for queue in books.queues([Queue(name="b", weight=2.0, max_jobs=7)])}
    assert by_name["a"].served_seconds - by_name["a"].fair_seconds == pytest.approx(HOUR)
    assert (by_name["b"].weight, by_name["b"].max_jobs) == (2.0, 7)
    again = FairShares(PolicySettings(fair_window_seconds=HOUR))
    again.restore(books.to_json())
    assert again.queues() == books.queues()
    again.advance(10 * HOUR, {"a": 0.0}, [])
    left = {queue.name: queue for queue in again.queues()}["a"]
    assert left.served_seconds - left.fair_seconds < 0.001 * HOUR


def test_a_queue_that_wants_nothing_collects_no_claim() -> None:
    books = FairShares()
    books.advance(HOUR, {"a": 4.0}, ["a"], [Queue(name="b", weight=9.0)])
    assert {queue.name: queue.fair_seconds for queue in books.queues()} == {"a": 4 * HOUR}


def test_a_job_of_days_is_not_charged_at_once() -> None:
    assert charge(10 * 24 * HOUR, PolicySettings()) == 1.5 * HOUR
    assert charge(0.0, PolicySettings()) == 1.0
    assert demand().worst_tokens == 100
