"""What queues had and what was their share, counted in device-seconds and forgotten over the fair window.

A queue's share is its weight's share of what all queues had; what a queue could not use goes to the others (max-min
fairness: Bertsekas & Gallager, Data Networks, 6.5.2). While a queue wants nothing it collects no claim.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.snapshot import PolicySettings, Queue


def water_fill(capacity: float, wanted: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """Divide a capacity by weight, giving nobody more than it wants and what is left over to the others.

    Args:
        capacity: To divide.
        wanted: By name; infinity for as much as there is.
        weights: By name, positive.
    """
    shares = dict.fromkeys(wanted, 0.0)
    left = capacity
    # In the order in which they are satisfied as the level rises.
    rising = sorted(wanted, key=lambda name: (wanted[name] / weights[name], name))
    total = sum(weights[name] for name in rising)
    for name in rising:
        share = min(wanted[name], left * weights[name] / total if total > 0 else 0.0)
        shares[name] = share
        left -= share
        total -= weights[name]
    return shares


class FairShares:
    """Remembers what queues had and what was their share, forgetting it over the fair window."""

    def __init__(self, settings: PolicySettings | None = None) -> None:
        self._window = (settings or PolicySettings()).fair_window_seconds
        self._served: dict[str, float] = {}
        self._fair: dict[str, float] = {}

    def advance(
        self, seconds: float, devices: Mapping[str, float], wanting: Iterable[str], queues: Iterable[Queue] = ()
    ) -> None:
        """Let time pass.

        Args:
            seconds: Since the last call.
            devices: Device-seconds that each queue had in this time, divided by `seconds`.
            wanting: Queues with jobs that waited, quota permitting.
            queues: Their weights; 1 where there is none.
        """
        if seconds <= 0:
            return
        hungry = set(wanting)
        weights = {queue.name: queue.weight for queue in queues}
        wanted = {name: math.inf if name in hungry else devices.get(name, 0.0) for name in sorted({*devices, *hungry})}
        for name in wanted:
            weights.setdefault(name, 1.0)
        fair = water_fill(sum(devices.values()), wanted, weights)
        kept = math.exp(-seconds / self._window)
        for name in sorted({*wanted, *self._served}):
            self._served[name] = self._served.get(name, 0.0) * kept + devices.get(name, 0.0) * seconds
            self._fair[name] = self._fair.get(name, 0.0) * kept + fair.get(name, 0.0) * seconds

    def queues(self, known: Iterable[Queue] = ()) -> tuple[Queue, ...]:
        """For a snapshot: the queues as set up, with what they had and what was their share."""
        rules = {queue.name: queue for queue in known}
        return tuple(
            Queue(
                name=name,
                weight=rules[name].weight if name in rules else 1.0,
                max_jobs=rules[name].max_jobs if name in rules else None,
                served_seconds=self._served.get(name, 0.0),
                fair_seconds=self._fair.get(name, 0.0),
            )
            for name in sorted({*rules, *self._served})
        )

    def to_json(self) -> dict[str, list[float]]:
        """For the journal: queue -> device-seconds had and due."""
        return {name: [self._served[name], self._fair[name]] for name in sorted(self._served)}

    def restore(self, saved: Mapping[str, Sequence[float]]) -> None:
        """Take up what `to_json` gave."""
        self._served = {name: had for name, (had, _) in saved.items()}
        self._fair = {name: due for name, (_, due) in saved.items()}
