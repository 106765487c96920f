"""Cutting a round into packs loses nobody, keeps to the budget and depends on nothing but the candidates."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from workers.batcher import Candidate, Kind, compose


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
