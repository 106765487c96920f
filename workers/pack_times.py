"""How long packs take, fitted to those that were timed: what a job would take alone is read off it."""

from __future__ import annotations

from dataclasses import dataclass, field

from workers.batcher import Kind

BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the histogram of packs' times."""

_LEAST_SPREAD = 0.1
"""Standard deviation of packs' tokens, as a share of their mean, below which their times say nothing of a line."""


@dataclass
class _Line:
    """seconds ≈ a + b · tokens, by least squares, a and b not negative."""

    packs: int = 0
    tokens: float = 0.0
    seconds: float = 0.0
    squares: float = 0.0
    products: float = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        self.packs += 1
        self.tokens += tokens
        self.seconds += seconds
        self.squares += tokens * tokens
        self.products += tokens * seconds

    @property
    def coefficients(self) -> tuple[float, float]:
        """Seconds of a pack, and of a token more. Packs of one size alone say nothing of the first."""
        if not self.tokens:
            return 0.0, 0.0
        mean = self.tokens / self.packs
        variance = self.squares / self.packs - mean * mean
        through_zero = 0.0, self.seconds / self.tokens
        if variance <= (_LEAST_SPREAD * mean) ** 2:
            return through_zero
        slope = (self.products / self.packs - mean * self.seconds / self.packs) / variance
        offset = self.seconds / self.packs - slope * mean
        return (offset, slope) if offset >= 0 and slope >= 0 else through_zero


@dataclass
class PackTimes:
    """Of one worker."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_SECONDS) + 1))
    """Packs by the first of `BUCKETS_SECONDS` that they do not exceed; the last is of those beyond all."""
    seconds: float = 0.0
    """Of all packs together."""
    _lines: dict[Kind, _Line] = field(default_factory=lambda: {kind: _Line() for kind in Kind})

    def add(self, kind: Kind, tokens: int, seconds: float, *, disturbed: bool) -> None:
        """A pack was run.

        Args:
            kind: Of all its micro-batches.
            tokens: Of all its jobs.
            seconds: Forward, backward and the jobs' own steps.
            disturbed: Something else was done meanwhile, such as measuring its memory: it says nothing of others.
        """
        bucket = next((index for index, most in enumerate(BUCKETS_SECONDS) if seconds <= most), len(BUCKETS_SECONDS))
        self.counts[bucket] += 1
        self.seconds += seconds
        if not disturbed:
            self._lines[kind].add(tokens, seconds)

    def alone_seconds(self, kind: Kind, micro_batches: int, tokens: int) -> float:
        """What micro-batches with so many tokens together would take, each in a pack of its own; 0 where no pack was
        timed yet."""
        a, b = self._lines[kind].coefficients
        return a * micro_batches + b * tokens
