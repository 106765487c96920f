"""A pack's memory as measured: β₀ + β₁·tokens + β₂·Σ length² + β₃·labels, all β ≥ 0.

The form is mLoRA's (https://arxiv.org/abs/2312.02515, section 4.1), fitted online by non-negative least squares
(Lawson and Hanson 1974). With so few unknowns every set of them that may be positive is simply tried.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from workers.memory import BaseShape, PackLoad

_MIN_OBSERVATIONS = 6
"""Below it the bound from the base's shapes holds."""
_MARGIN = 0.03
"""On predictions beyond what was measured: admission must not be wrong on the small side."""
_GROWTH_MARGIN = 0.5
"""What is added to it where a pack is twice as large as any that was measured, and in proportion before that."""
_MOST_GROWTH = 2.0
"""Times the largest pack measured beyond which the fit says nothing: it is a line through small packs, in which what
grows with the square of a row, or does not grow at all, cannot be told apart."""
_KEPT = 64
"""Observations remembered, the newest: old ones may be of other jobs."""


class MemoryFit:
    """Predicts what a pack will take, better with each that was measured."""

    def __init__(self, base: BaseShape) -> None:
        self._base = base
        self._seen: dict[bool, list[tuple[PackLoad, int]]] = {False: [], True: []}
        self._betas: dict[bool, np.ndarray | None] = {False: None, True: None}

    def observe(self, load: PackLoad, num_bytes: int) -> None:
        """Take in what a pack took beside weights and adapters."""
        seen = self._seen[load.checkpointing]
        seen.append((load, max(1, num_bytes)))
        del seen[:-_KEPT]
        if len(seen) >= _MIN_OBSERVATIONS:
            self._betas[load.checkpointing] = _fit(seen)

    def num_observed(self, *, checkpointing: bool = False) -> int:
        """Packs that were measured, at most those remembered."""
        return len(self._seen[checkpointing])

    def largest_observed(self, *, checkpointing: bool = False) -> int:
        """Tokens of the largest pack that was measured."""
        return max((load.tokens for load, _ in self._seen[checkpointing]), default=0)

    def predict(self, load: PackLoad) -> int:
        """Bytes of a pack: expected from what was measured, or an upper bound while too little was."""
        betas = self._betas[load.checkpointing]
        if betas is None:
            return self._base.pack_bytes(load)
        return int(_features(load) @ betas)

    def bound(self, load: PackLoad) -> int:
        """Bytes to admit a pack by: more than expected by a margin that grows with the distance to what was measured.

        Beyond twice the largest pack measured it is no less than the bound from the base's shapes either. So what may
        run beside each other grows in steps, each of which was measured before the next.
        """
        growth = self._growth(load)
        if growth <= 1.0:
            return self.predict(load)
        margin = 1.0 + _MARGIN + _GROWTH_MARGIN * (min(growth, _MOST_GROWTH) - 1.0)
        expected = int(self.predict(load) * margin)
        return max(expected, self._base.pack_bytes(load)) if growth > _MOST_GROWTH else expected

    def _growth(self, load: PackLoad) -> float:
        """How many times larger a pack is than any that was measured, in whatever it is most so."""
        seen = [one for one, _ in self._seen[load.checkpointing]]
        if self._betas[load.checkpointing] is None:
            # Nothing is fitted: the prediction is a bound already.
            return 1.0
        return max(
            getattr(load, name) / max(1, *(getattr(one, name) for one in seen))
            for name in ("tokens", "squares", "labels")
        )


def _features(load: PackLoad) -> np.ndarray:
    return np.array([1.0, load.tokens, load.squares, load.labels])


def _fit(seen: list[tuple[PackLoad, int]]) -> np.ndarray:
    """Non-negative β of the least relative squared error."""
    measured = np.array([num_bytes for _, num_bytes in seen], dtype=float)
    rows = np.array([_features(load) for load, _ in seen]) / measured[:, None]
    ones = np.ones(len(seen))
    scale = np.maximum(np.abs(rows).max(axis=0), np.finfo(float).tiny)
    best, least = np.zeros(rows.shape[1]), np.inf
    for size in range(1, rows.shape[1] + 1):
        for chosen in map(list, combinations(range(rows.shape[1]), size)):
            part, *_ = np.linalg.lstsq(rows[:, chosen] / scale[chosen], ones, rcond=1e-9)
            if (part < 0).any():
                continue
            betas = np.zeros(rows.shape[1])
            betas[chosen] = part / scale[chosen]
            error = float(((rows @ betas - ones) ** 2).sum())
            if error < least * (1 - 1e-9):
                best, least = betas, error
    return best
