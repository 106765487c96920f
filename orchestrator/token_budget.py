"""How many tokens a pack may hold: found once from the devices' memory, then fixed for the life of an output directory.

The budget decides which micro-batches share a pack, and so the last bits of shared jobs. A run that goes on takes the
budget that it began with, on whatever machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jobs.records import BaseKey
from orchestrator.journal import Journal
from orchestrator.snapshot import (
    Device,
)
from workers.estimate import Estimate
from workers.memory import Demand, find_token_budget

_KEY = "token_budget"


def fixed_token_budget(
    asked: int | None, journal: Journal, estimates: Iterable[Estimate], devices: Sequence[Device]
) -> int:
    """What the user asks for, or what was fixed before, or what fits; it holds from now on.

    Args:
        asked: By the user; overrules what was fixed.
        journal: Of the output directory.
        estimates: Of the jobs that are to run.
        devices: That they may run on.
    """
    if asked is not None:
        journal.put_setting(_KEY, asked)
        return asked
    return int(journal.fix_setting(_KEY, token_budget(estimates, devices)))


def token_budget(estimates: Iterable[Estimate], devices: Sequence[Device]) -> int:
    """The largest that fits every base beside its adapters on the smallest device."""
    smallest = min(device.memory_bytes for device in devices)
    by_base: dict[BaseKey, tuple[Estimate, list[Demand]]] = {}
    for estimate in estimates:
        by_base.setdefault(estimate.base, (estimate, []))[1].append(estimate.demand)
    return min(find_token_budget(first.base_shape, demands, smallest) for first, demands in by_base.values())
