"""What `loraloom validate` tells of specs that are sound: what each job will take, and all jobs of a base together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from jobs.records import BaseKey
from orchestrator.clusters.host import host_devices
from orchestrator.token_budget import token_budget
from workers.estimate import Estimate
from workers.memory import PROCESS_BYTES, worker_bytes

_MOST_NAMES = 3
"""Jobs named beside a note."""


@dataclass(frozen=True, kw_only=True)
class Together:
    """All jobs of one base on one worker of this machine."""

    base: BaseKey
    num_jobs: int
    base_bytes: int
    adapter_bytes: int
    pack_bytes: int
    """Activations and logits of one pack as full as packs get."""
    token_budget: int
    """Tokens that a pack may hold, as `run` would find it here."""
    device_bytes: int
    """What a worker may use on this machine, its process left out."""

    @property
    def peak_bytes(self) -> int:
        """Predicted peak of the worker's process."""
        return PROCESS_BYTES + self.base_bytes + self.adapter_bytes + self.pack_bytes

    @property
    def fits(self) -> bool:
        """Whether all of them are there at once; if not, some wait until others leave."""
        return self.peak_bytes <= PROCESS_BYTES + self.device_bytes


def by_base(estimates: Iterable[Estimate]) -> list[Together]:
    """One for each base, in the order of their first jobs."""
    grouped: dict[BaseKey, list[Estimate]] = {}
    for estimate in estimates:
        grouped.setdefault(estimate.base, []).append(estimate)
    devices = host_devices(max(1, len(grouped)))
    found = []
    for base, members in grouped.items():
        shape, demands = members[0].base_shape, [one.demand for one in members]
        budget = token_budget(members, devices)
        adapters = sum(one.adapter_bytes for one in demands)
        found.append(
            Together(
                base=base,
                num_jobs=len(members),
                base_bytes=shape.base_bytes,
                adapter_bytes=adapters,
                pack_bytes=worker_bytes(shape, demands, budget) - shape.base_bytes - adapters,
                token_budget=budget,
                device_bytes=min(device.memory_bytes for device in devices),
            )
        )
    return found


def to_json(estimates: Mapping[str, Estimate], together: Sequence[Together]) -> dict[str, Any]:
    """Plain values of both."""
    return {
        "jobs": [
            {
                "name": name,
                "base": str(estimate.base),
                "train_rows": estimate.train_rows,
                "eval_rows": estimate.eval_rows,
                "steps": estimate.total_steps,
                "train_tokens": estimate.train_tokens,
                "trainable_parameters": estimate.trainable_parameters,
                "base_bytes": estimate.base_shape.base_bytes,
                "adapter_bytes": estimate.demand.adapter_bytes,
                "peak_bytes": estimate.peak_bytes,
                "rows_read": estimate.rows.read,
                "rows_truncated": estimate.rows.truncated,
                "rows_dropped": estimate.rows.dropped,
                "rows_skipped": estimate.rows.skipped,
                "columns_unused": list(estimate.rows.columns_unused),
                "notes": list(estimate.notes),
            }
            for name, estimate in estimates.items()
        ],
        "bases": [
            {
                "base": str(one.base),
                "jobs": one.num_jobs,
                "base_bytes": one.base_bytes,
                "adapter_bytes": one.adapter_bytes,
                "pack_bytes": one.pack_bytes,
                "token_budget": one.token_budget,
                "peak_bytes": one.peak_bytes,
                "device_bytes": one.device_bytes,
                "fits": one.fits,
            }
            for one in together
        ],
    }


def tables(estimates: Mapping[str, Estimate], together: Sequence[Together]) -> list[Table]:
    """The same for people."""
    jobs = _table("job", "base", ("rows", "eval rows", "steps", "tokens", "trainable", "adapter", "peak alone"))
    for name, estimate in estimates.items():
        jobs.add_row(
            Text(name),
            Text(estimate.base.short),
            f"{estimate.train_rows:,}",
            f"{estimate.eval_rows:,}",
            f"{estimate.total_steps:,}",
            f"{estimate.train_tokens:,}",
            f"{estimate.trainable_parameters:,}",
            _bytes(estimate.demand.adapter_bytes),
            _bytes(estimate.peak_bytes),
        )
    figures = ("jobs", "weights", "adapters", "fullest pack", "tokens a pack", "peak together", "this machine has")
    bases = _table("base", "all at once", figures)
    for one in together:
        bases.add_row(
            Text(one.base.short),
            "fits" if one.fits else "some wait for room",
            f"{one.num_jobs}",
            _bytes(one.base_bytes),
            _bytes(one.adapter_bytes),
            _bytes(one.pack_bytes),
            f"{one.token_budget:,}",
            _bytes(one.peak_bytes),
            _bytes(PROCESS_BYTES + one.device_bytes),
        )
    return [jobs, bases]


def notes(estimates: Mapping[str, Estimate]) -> list[str]:
    """What became of rows, and what is no error and would surprise later; each once, with its jobs."""
    jobs: dict[str, list[str]] = {}
    for name, estimate in estimates.items():
        for note in (str(estimate.rows), *estimate.notes):
            jobs.setdefault(note, []).append(name)
    found = []
    for note, names in jobs.items():
        others = len(names) - _MOST_NAMES
        found.append(f"{', '.join(names[:_MOST_NAMES])}{f' and {others} more' if others > 0 else ''}: {note}")
    return found


def _table(first: str, second: str, figures: Sequence[str]) -> Table:
    table = Table(header_style="bold", box=SIMPLE_HEAD)
    table.add_column(first, no_wrap=True)
    table.add_column(second, overflow="fold")
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _bytes(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
