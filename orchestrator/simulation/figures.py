"""Figures of a simulated history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from orchestrator.simulation.history import (
    History,
    Sample,
)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Seconds are of simulated wall time."""

    jobs: int
    makespan_seconds: float
    wait_p50_seconds: float
    """From submission to the first placement."""
    wait_p95_seconds: float
    longest_wait_seconds: float
    longest_wait_low_priority_seconds: float
    busy: float
    """Share of device time in which a device had jobs."""
    effective: float
    """Share of what the devices would do in full packs all the time."""
    preemptions: int
    devices_lost: int
    failures: int
    decisions: int
    jain: float | None
    """Jain's index of what queues had by what was due to them; 1 is even."""
    largest_shortfall: float | None
    """The most that a queue had less than its fair share over a window in which it always wanted more; `None` where
    there was no such window."""

    def to_json(self) -> dict[str, float | int | None]:
        """Plain values, rounded."""
        return {name: round(one, 4) if isinstance(one, float) else one for name, one in asdict(self).items()}


def figures(history: History, work_seconds: float, window_seconds: float) -> Figures:
    """Sum a history up.

    Args:
        history: Of a run to its end.
        work_seconds: Device-seconds of all its jobs in full packs.
        window_seconds: What counts as a long window.
    """
    waits = sorted((job.first_placed or 0.0) - job.arrival for job in history.jobs)
    low = min(job.priority for job in history.jobs)
    last = history.samples[-1]
    return Figures(
        jobs=len(history.jobs),
        makespan_seconds=history.makespan,
        wait_p50_seconds=waits[len(waits) // 2],
        wait_p95_seconds=waits[int(0.95 * (len(waits) - 1))],
        longest_wait_seconds=waits[-1],
        longest_wait_low_priority_seconds=max(
            (job.first_placed or 0.0) - job.arrival for job in history.jobs if job.priority == low
        ),
        busy=history.busy_device_seconds / history.device_seconds,
        effective=work_seconds / history.device_seconds,
        preemptions=history.num_preemptions,
        devices_lost=history.num_lost,
        failures=history.num_failures,
        decisions=history.num_decisions,
        jain=jain([last.served[name] / due for name, due in last.fair.items() if due > 0]),
        largest_shortfall=largest_shortfall(history.samples, window_seconds),
    )


def jain(shares: Sequence[float]) -> float | None:
    """(Σx)² / (n Σx²): Jain, Chiu, Hawe 1984, arXiv:cs/9809099."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else None


def largest_shortfall(samples: Sequence[Sample], window_seconds: float) -> float | None:
    """Over all windows that are as long, by queue: the share of what was due that was not had."""
    worst: float | None = None
    for name in samples[-1].fair if samples else ():
        first = 0
        since = 0
        for place, sample in enumerate(samples):
            if name not in sample.wanting:
                since = place + 1
                continue
            while first < since or samples[first].seconds < sample.seconds - 1.1 * window_seconds:
                first += 1
            begin = samples[first]
            if sample.seconds - begin.seconds >= window_seconds:
                due = sample.fair[name] - begin.fair.get(name, 0.0)
                had = sample.served[name] - begin.served.get(name, 0.0)
                if due > 0 and (worst is None or 1 - had / due > worst):
                    worst = 1 - had / due
    return worst
