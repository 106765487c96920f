"""Which jobs' micro-batches run together: a function of their sizes and priorities, never of a clock.

The batcher works in rounds. A round runs at most one micro-batch of a job, so a job's micro-batches stay in their
order. What goes into a pack is first-fit decreasing under a token budget (Johnson 1973: at most 11/9 of the fewest
packs, plus one).

Who runs in a round is decided by a deficit counter (deficit round robin, Shreedhar and Varghese 1995) in units of
micro-batches, since those are what a job's owner sees as progress. Jobs of equal priority run in every round. Where
priorities differ and not all jobs fit in one pack, each step of priority halves a job's share, down to an eighth; a job
never waits longer than `MAX_WAIT_ROUNDS`. Where all fit in one pack nobody is held back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

_LEAST_WEIGHT = 1 / 8
MAX_WAIT_ROUNDS = 16
"""A job runs at least once in so many rounds: it earns an eighth at worst, and may be one micro-batch ahead."""


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
    checkpointing: bool = False
    """Packs hold either micro-batches that keep their activations or such that compute them again."""
    priority: int = 0


@dataclass
class _Bin:
    members: list[int]
    tokens: int


class Batcher:
    """Cuts rounds into packs and remembers who is owed a turn."""

    def __init__(self, token_budget: int) -> None:
        """Tokens that a pack of several micro-batches may hold. A larger micro-batch still runs, alone."""
        self.token_budget = token_budget
        self._credits: dict[str, float] = {}

    def round(self, candidates: Sequence[Candidate]) -> list[tuple[Candidate, ...]]:
        """The next round's packs, in the order in which they run.

        Args:
            candidates: At most one a job, in the worker's order of admission.
        """
        everyone = compose(candidates, token_budget=self.token_budget)
        weights = _weights(candidates)
        if len(everyone) <= 1 or len(set(weights.values())) <= 1:
            return everyone
        self._credits = {job_id: self._credits.get(job_id, 0.0) + weight for job_id, weight in weights.items()}
        due = [candidate for candidate in candidates if self._credits[candidate.job_id] >= 1]
        early = [candidate for candidate in candidates if 0 < self._credits[candidate.job_id] < 1]
        packs = _fill(compose(due, token_budget=self.token_budget), early, candidates, self.token_budget)
        for pack in packs:
            for candidate in pack:
                self._credits[candidate.job_id] -= 1
        return packs


def compose(candidates: Sequence[Candidate], *, token_budget: int) -> list[tuple[Candidate, ...]]:
    """Cut candidates into packs.

    Returns:
        Packs in the order of their first members, members in the order given: equal input, equal packs.
    """
    bins: dict[tuple[Kind, bool], list[_Bin]] = {}
    largest_first = sorted(range(len(candidates)), key=lambda index: (-candidates[index].tokens, index))
    alone = [_Bin([index], 0) for index in largest_first if candidates[index].exclusive]
    for index in largest_first:
        candidate = candidates[index]
        if candidate.exclusive:
            continue
        open_bins = bins.setdefault(_kind(candidate), [])
        fit = next((bin_ for bin_ in open_bins if bin_.tokens + candidate.tokens <= token_budget), None)
        if fit is None:
            fit = _Bin([], 0)
            open_bins.append(fit)
        fit.members.append(index)
        fit.tokens += candidate.tokens
    cut = [sorted(bin_.members) for bin_ in [*alone, *(bin_ for of_kind in bins.values() for bin_ in of_kind)]]
    return [tuple(candidates[index] for index in members) for members in sorted(cut)]


def _kind(candidate: Candidate) -> tuple[Kind, bool]:
    return candidate.kind, candidate.checkpointing


def _weights(candidates: Sequence[Candidate]) -> dict[str, float]:
    """Micro-batches that a job earns in a round; one for the highest priority present."""
    highest = max((candidate.priority for candidate in candidates), default=0)
    least = -_LEAST_WEIGHT.as_integer_ratio()[1].bit_length() + 1
    return {candidate.job_id: 2.0 ** max(candidate.priority - highest, least) for candidate in candidates}


def _fill(
    packs: Sequence[tuple[Candidate, ...]],
    early: Sequence[Candidate],
    order: Sequence[Candidate],
    token_budget: int,
) -> list[tuple[Candidate, ...]]:
    """Let jobs that are not due yet have the room that is left, the largest first; they pay for it later."""
    position: Mapping[str, int] = {candidate.job_id: index for index, candidate in enumerate(order)}
    filled = [list(pack) for pack in packs]
    for candidate in sorted(early, key=lambda one: (-one.tokens, position[one.job_id])):
        if candidate.exclusive:
            continue
        for pack in filled:
            room = token_budget - sum(one.tokens for one in pack)
            if _kind(pack[0]) == _kind(candidate) and not pack[0].exclusive and candidate.tokens <= room:
                pack.append(candidate)
                break
    return [tuple(sorted(pack, key=lambda one: position[one.job_id])) for pack in filled]
