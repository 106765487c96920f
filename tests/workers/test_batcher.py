"""Cutting a round into packs loses nobody, keeps to the budget and depends on nothing but the candidates."""

from __future__ import annotations

import itertools
import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from workers.batcher import MAX_WAIT_ROUNDS, Batcher, Candidate, Kind, compose


@st.composite
def rounds(draw: st.DrawFn) -> list[Candidate]:
    number = draw(st.integers(0, 40))
    return [
        Candidate(
            job_id=f"job-{index}",
            tokens=draw(st.integers(1, 120)),
            kind=draw(st.sampled_from(Kind)),
            exclusive=draw(st.booleans()),
        )
        for index in range(number)
    ]


budgets = st.integers(1, 200)


@given(rounds(), budgets)
def test_each_candidate_is_in_exactly_one_pack(candidates: list[Candidate], budget: int) -> None:
    packed = [candidate for pack in compose(candidates, token_budget=budget) for candidate in pack]
    assert sorted(packed, key=lambda one: one.job_id) == sorted(candidates, key=lambda one: one.job_id)


@given(rounds(), budgets)
def test_a_pack_over_the_budget_holds_a_single_micro_batch(candidates: list[Candidate], budget: int) -> None:
    for pack in compose(candidates, token_budget=budget):
        assert pack
        assert len(pack) == 1 or sum(candidate.tokens for candidate in pack) <= budget


@given(rounds(), budgets)
def test_exclusive_candidates_run_alone_and_kinds_do_not_mix(candidates: list[Candidate], budget: int) -> None:
    for pack in compose(candidates, token_budget=budget):
        assert len(pack) == 1 or not any(candidate.exclusive for candidate in pack)
        assert len({candidate.kind for candidate in pack}) == 1


@given(rounds(), budgets)
def test_packs_and_members_stand_in_the_order_of_admission(candidates: list[Candidate], budget: int) -> None:
    place = {candidate.job_id: index for index, candidate in enumerate(candidates)}
    packs = [[place[candidate.job_id] for candidate in pack] for pack in compose(candidates, token_budget=budget)]
    assert all(pack == sorted(pack) for pack in packs)
    assert packs == sorted(packs)


@given(rounds(), budgets)
def test_equal_rounds_are_cut_equally(candidates: list[Candidate], budget: int) -> None:
    again = [Candidate(**vars(candidate)) for candidate in candidates]
    assert compose(candidates, token_budget=budget) == compose(again, token_budget=budget)


@given(rounds(), budgets)
def test_no_two_packs_could_have_been_one_and_few_are_cut(candidates: list[Candidate], budget: int) -> None:
    """First-fit decreasing leaves no later pack that fits as a whole into an earlier one."""
    for kind in Kind:
        shared = [one for one in candidates if one.kind is kind and not one.exclusive]
        packs = [pack for pack in compose(shared, token_budget=budget) if sum(one.tokens for one in pack) <= budget]
        sums = sorted(sum(one.tokens for one in pack) for pack in packs)
        if len(sums) > 1:
            assert sums[0] + sums[1] > budget
        least = math.ceil(sum(sums) / budget)
        # Twice the volume bound is what follows from the line above; 11/9 of the optimum is Johnson's.
        assert len(packs) <= max(1, 2 * least)


@given(rounds(), budgets)
def test_an_exclusive_job_changes_nobody_elses_pack(candidates: list[Candidate], budget: int) -> None:
    shared = [candidate for candidate in candidates if not candidate.exclusive]
    beside = [pack for pack in compose(candidates, token_budget=budget) if not pack[0].exclusive]
    assert beside == compose(shared, token_budget=budget)


def test_first_fit_decreasing_by_hand() -> None:
    sizes = {"a": 3, "b": 7, "c": 5, "d": 5, "e": 11}
    candidates = [
        Candidate(job_id=job_id, tokens=tokens, kind=Kind.TRAIN, exclusive=False) for job_id, tokens in sizes.items()
    ]
    packs = compose(candidates, token_budget=10)
    assert [[candidate.job_id for candidate in pack] for pack in packs] == [["a", "b"], ["c", "d"], ["e"]]
    assert compose([], token_budget=10) == []


@st.composite
def jobs(draw: st.DrawFn) -> list[tuple[int, int, bool]]:
    """Priority, largest micro-batch and packing of each job."""
    return draw(st.lists(st.tuples(st.integers(-3, 3), st.integers(1, 60), st.booleans()), min_size=1, max_size=14))


def play(known: list[tuple[int, int, bool]], budget: int, num_rounds: int) -> list[list[tuple[tuple[str, int], ...]]]:
    """Rounds of packs of (job, number of its micro-batch), sizes varying from one micro-batch to the next."""
    batcher = Batcher(budget)
    done = Counter[str]()
    rounds = []
    for _ in range(num_rounds):
        candidates = [
            Candidate(
                job_id=f"job-{number}",
                tokens=1 + (largest * (7 + 3 * done[f"job-{number}"])) % largest if largest > 1 else 1,
                kind=Kind.TRAIN,
                exclusive=exclusive,
                priority=priority,
            )
            for number, (priority, largest, exclusive) in enumerate(known)
        ]
        sizes = {one.job_id: one.tokens for one in candidates}
        packs = batcher.round(candidates)
        assert packs
        for pack in packs:
            assert len(pack) == 1 or sum(sizes[one.job_id] for one in pack) <= budget
            assert len(pack) == 1 or not any(one.exclusive for one in pack)
        rounds.append([tuple((one.job_id, done[one.job_id]) for one in pack) for pack in packs])
        done.update(one.job_id for pack in packs for one in pack)
    return rounds


@given(jobs(), st.integers(1, 200))
def test_every_micro_batch_runs_once_in_order_and_nobody_waits_long(
    known: list[tuple[int, int, bool]], budget: int
) -> None:
    rounds = play(known, budget, 120)
    last_round = {f"job-{number}": -1 for number in range(len(known))}
    expected = Counter[str]()
    for number, packs in enumerate(rounds):
        ran = [entry for pack in packs for entry in pack]
        assert len({job_id for job_id, _ in ran}) == len(ran)
        for job_id, micro_batch in ran:
            assert micro_batch == expected[job_id]
            expected[job_id] += 1
            assert number - last_round[job_id] <= MAX_WAIT_ROUNDS
            last_round[job_id] = number
    assert all(120 - number <= MAX_WAIT_ROUNDS for number in last_round.values())


@given(jobs(), st.integers(1, 200))
def test_equal_priorities_get_equal_shares_and_higher_ones_no_less(
    known: list[tuple[int, int, bool]], budget: int
) -> None:
    shares = Counter(job_id for packs in play(known, budget, 400) for pack in packs for job_id, _ in pack)
    by_priority: dict[int, list[int]] = {}
    for number, (priority, _, _) in enumerate(known):
        by_priority.setdefault(priority, []).append(shares[f"job-{number}"])
    for same in by_priority.values():
        assert max(same) <= 1.1 * min(same)
    means = [sum(same) / len(same) for _, same in sorted(by_priority.items())]
    assert all(lower <= 1.1 * higher for lower, higher in itertools.pairwise(means))


def test_where_a_budget_binds_a_step_of_priority_doubles_the_share() -> None:
    known = [(2, 10, False), (1, 10, False), (0, 10, False), (-9, 10, False)]
    shares = Counter(job_id for packs in play(known, 1, 800) for pack in packs for job_id, _ in pack)
    assert [round(shares[f"job-{number}"] / 800, 3) for number in range(4)] == [1.0, 0.5, 0.25, 0.125]


def test_where_all_fit_into_one_pack_nobody_is_held_back() -> None:
    shares = Counter(
        job_id for packs in play([(5, 9, False), (0, 9, False)], 100, 50) for pack in packs for job_id, _ in pack
    )
    assert set(shares.values()) == {50}
