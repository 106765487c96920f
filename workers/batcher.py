"""Which jobs' micro-batches run together: a pure function of their sizes, never of a clock.

Every job with work to do hands in one micro-batch a round, so none starves and none gets ahead. What goes into a pack
is first-fit decreasing under a token budget (Johnson 1973: at most 11/9 of the fewest packs, plus one).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a micro-batch is run for; packs hold one kind only, since evaluation builds no graph."""

    TRAIN = "train"
    EVALUATE = "evaluate"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One job's next micro-batch, as far as packing is concerned."""

    job_id: str
    tokens: int
    kind: Kind
    exclusive: bool
    """Runs in a pack of its own (`packing: exact`), so its bits do not depend on who else is there."""


@dataclass
class _Bin:
    members: list[int]
    tokens: int


def compose(candidates: Sequence[Candidate], *, token_budget: int) -> list[tuple[Candidate, ...]]:
    """Cut one round's candidates into packs.

    Args:
        candidates: At most one a job, in the worker's order of admission.
        token_budget: Tokens a pack may hold. A micro-batch that is larger still runs, alone.

    Returns:
        Packs in the order of their first members, members in the order of admission: equal input, equal packs.
    """
    bins: dict[Kind, list[_Bin]] = {kind: [] for kind in Kind}
    largest_first = sorted(range(len(candidates)), key=lambda index: (-candidates[index].tokens, index))
    alone = [_Bin([index], 0) for index in largest_first if candidates[index].exclusive]
    for index in largest_first:
        candidate = candidates[index]
        if candidate.exclusive:
            continue
        open_bins = bins[candidate.kind]
        fit = next((bin_ for bin_ in open_bins if bin_.tokens + candidate.tokens <= token_budget), None)
        if fit is None:
            fit = _Bin([], 0)
            open_bins.append(fit)
        fit.members.append(index)
        fit.tokens += candidate.tokens
    cut = [sorted(bin_.members) for bin_ in [*alone, *bins[Kind.TRAIN], *bins[Kind.EVALUATE]]]
    return [tuple(candidates[index] for index in members) for members in sorted(cut)]
