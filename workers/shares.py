"""How a pack is spread over lanes: evenly by tokens, jobs whole where that is even enough.

Rows do not see each other, so a micro-batch may be cut between any of its rows; its two halves then add up in the
gradient. Cutting costs a second buffer for that gradient and a pass to add it, so it is done only where it saves more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_WORTH_CUTTING = 0.02
"""Share of a lane's tokens that a cut must save."""


@dataclass(frozen=True)
class Piece:
    """Rows of one micro-batch."""

    member: int
    """Position of the micro-batch in the pack."""
    rows: tuple[int, ...]
    """Positions of the rows in the micro-batch, ascending."""


def divide(row_tokens: Sequence[Sequence[int]], num_lanes: int) -> list[list[Piece]]:
    """Spread micro-batches over lanes.

    Args:
        row_tokens: For each micro-batch, the tokens of each of its rows.
        num_lanes: Lanes there are.

    Returns:
        For each lane that gets any, its pieces in the order of the pack; every row stands in exactly one piece.
    """
    loads = [0] * num_lanes
    lanes: list[dict[int, list[int]]] = [{} for _ in range(num_lanes)]
    totals = [sum(tokens) for tokens in row_tokens]
    for member in sorted(range(len(row_tokens)), key=lambda index: (-totals[index], index)):
        lane = loads.index(min(loads))
        lanes[lane][member] = list(range(len(row_tokens[member])))
        loads[lane] += totals[member]
    for _ in range(num_lanes - 1):
        heavy, light = loads.index(max(loads)), loads.index(min(loads))
        moved = _best_cut(lanes[heavy], row_tokens, (loads[heavy] - loads[light]) / 2)
        if moved is None:
            break
        member, rows = moved
        tokens = sum(row_tokens[member][row] for row in rows)
        gain = loads[heavy] - max(loads[heavy] - tokens, loads[light] + tokens)
        if member in lanes[light] or gain < _WORTH_CUTTING * sum(loads) / num_lanes:
            break
        lanes[heavy][member] = [row for row in lanes[heavy][member] if row not in rows]
        lanes[light][member] = sorted(rows)
        loads[heavy] -= tokens
        loads[light] += tokens
    return [[Piece(member, tuple(lane[member])) for member in sorted(lane)] for lane in lanes if lane]


def _best_cut(
    lane: dict[int, list[int]], row_tokens: Sequence[Sequence[int]], wanted: float
) -> tuple[int, set[int]] | None:
    """Rows of one job, not all of them, whose tokens come nearest to what should move."""
    best: tuple[float, int, set[int]] | None = None
    for member, rows in lane.items():
        tokens = row_tokens[member]
        largest_first = sorted(rows, key=lambda row: (-tokens[row], row))
        # Greedy from each row on: a poor first choice is made up for by a later start.
        for start in range(len(rows)):
            chosen: set[int] = set()
            missing = wanted
            for row in largest_first[start:]:
                if len(chosen) < len(rows) - 1 and tokens[row] / 2 <= missing:
                    chosen.add(row)
                    missing -= tokens[row]
            if chosen and (best is None or abs(missing) < best[0]):
                best = (abs(missing), member, chosen)
    return None if best is None else best[1:]
