"""Contenders in turn on the same rows, so that a machine whose speed drifts does not decide between them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tests.benchmarks.rows import Feed, num_tokens
from workers.dataset import Row

WARM_UP = 1
"""Repeats that are run and not counted: jobs are admitted, moments allocated, kernels chosen."""


class Contender(Protocol):
    """One way of training all jobs, or a bound on all ways."""

    name: str

    def step(self, rows_by_job: Sequence[Sequence[Row]]) -> float:
        """Run one step of every job and return its seconds."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


@dataclass(frozen=True, kw_only=True)
class Timings:
    """What was run, and how long each contender took, repeat by repeat."""

    tokens: list[int]
    """Of all jobs, without padding."""
    labels: list[int]
    rows: list[int]
    seconds: dict[str, list[float]]
    """By the contender's name."""

    def tokens_per_second(self, name: str) -> float:
        """Median over the repeats."""
        return statistics.median(count / taken for count, taken in zip(self.tokens, self.seconds[name], strict=True))

    def speedup(self, name: str, other: str) -> float:
        """How many times as fast `name` is as `other`: taken within each repeat, then the median."""
        pairs = zip(self.seconds[name], self.seconds[other], strict=True)
        return statistics.median(theirs / ours for ours, theirs in pairs)

    @property
    def mean_row_tokens(self) -> float:
        """Tokens a row."""
        return sum(self.tokens) / sum(self.rows)

    @property
    def mean_row_labels(self) -> float:
        """Label tokens a row."""
        return sum(self.labels) / sum(self.rows)


def alternate(contenders: Sequence[Contender], feed: Feed, repeats: int) -> Timings:
    """Each repeat takes the next rows of every job through all contenders, a different one first each time."""
    timings = Timings(tokens=[], labels=[], rows=[], seconds={contender.name: [] for contender in contenders})
    for repeat in range(-WARM_UP, repeats):
        rows_by_job = feed.next()
        if repeat >= 0:
            rows = [row for job_rows in rows_by_job for row in job_rows]
            timings.tokens.append(num_tokens(rows_by_job))
            timings.labels.append(sum(row.num_labels for row in rows))
            timings.rows.append(len(rows))
        for place in range(len(contenders)):
            contender = contenders[(repeat + place) % len(contenders)]
            seconds = contender.step(rows_by_job)
            if repeat >= 0:
                timings.seconds[contender.name].append(seconds)
    return timings
