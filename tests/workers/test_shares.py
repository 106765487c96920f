"""Spreading a pack over lanes loses no row, is even, and cuts only where that pays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.shares import Piece, divide

packs = st.lists(st.lists(st.integers(1, 200), min_size=1, max_size=12), min_size=1, max_size=20)


def loads_of(lanes: list[list[Piece]], row_tokens: list[list[int]]) -> list[int]:
    return [sum(row_tokens[piece.member][row] for piece in lane for row in piece.rows) for lane in lanes]


@given(packs, st.integers(1, 8))
def test_every_row_runs_once_and_each_lane_keeps_the_order_of_the_pack(
    row_tokens: list[list[int]], num_lanes: int
) -> None:
    lanes = divide(row_tokens, num_lanes)
    assert 1 <= len(lanes) <= num_lanes
    ran = sorted((piece.member, row) for lane in lanes for piece in lane for row in piece.rows)
    assert ran == [(member, row) for member, rows in enumerate(row_tokens) for row in range(len(rows))]
    for lane in lanes:
        members = [piece.member for piece in lane]
        assert members == sorted(set(members))
        assert all(list(piece.rows) == sorted(piece.rows) and piece.rows for piece in lane)


@given(packs, st.integers(2, 8))
def test_no_lane_has_more_than_its_part_and_the_longest_job(row_tokens: list[list[int]], num_lanes: int) -> None:
    loads = loads_of(divide(row_tokens, num_lanes), row_tokens)
    # What greedy spreading guarantees (Graham 1969); cuts only make it better.
    assert max(loads) <= sum(loads) / num_lanes + max(sum(rows) for rows in row_tokens)


@given(packs, st.integers(1, 8))
def test_at_most_one_cut_less_than_there_are_lanes(row_tokens: list[list[int]], num_lanes: int) -> None:
    pieces = sum(len(lane) for lane in divide(row_tokens, num_lanes))
    assert pieces - len(row_tokens) <= num_lanes - 1


def test_even_jobs_stay_whole_and_a_lone_job_is_cut_between_its_rows() -> None:
    assert divide([[10], [10], [10], [10]], 2) == [[Piece(0, (0,)), Piece(2, (0,))], [Piece(1, (0,)), Piece(3, (0,))]]
    assert loads_of(divide([[7, 3, 5, 5]], 2), [[7, 3, 5, 5]]) == [10, 10]
    assert divide([[30]], 2) == [[Piece(0, (0,))]]
    assert divide([[5, 5], [4]], 1) == [[Piece(0, (0, 1)), Piece(1, (0,))]]
