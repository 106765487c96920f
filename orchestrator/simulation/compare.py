"""The policies against one job per device, first in, first out, and against the lower bound, on the same jobs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from orchestrator.simulation.figures import Figures, figures
from orchestrator.simulation.history import (
    Conditions,
    History,
)
from orchestrator.simulation.workload import Workload, bound_seconds, draw
from orchestrator.simulation.world import (
    World,
)
from orchestrator.snapshot import PolicySettings, Queue

PACKED = PolicySettings(most_packs=1.0)
"""One pack a worker: simulated rows are all as long as the longest, so that what fills a pack is known."""
_FIRST_IN_FIRST_OUT = PolicySettings(most_packs=0.0)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One workload, both ways."""

    name: str
    workload: Workload
    num_devices: int
    bound_seconds: float | None
    """With all jobs at time 0."""
    packed: Figures
    history: History
    alone: Figures | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        bound = self.bound_seconds
        return {
            "name": self.name,
            "devices": self.num_devices,
            "micro_batch": self.workload.micro_batch,
            "load": self.workload.load,
            "seed": self.workload.seed,
            "bound_seconds": bound,
            "makespan_over_bound": round(self.packed.makespan_seconds / bound, 4) if bound else None,
            "packed": self.packed.to_json(),
            "one_job_per_device": self.alone.to_json() if self.alone else None,
        }


def compare(
    name: str,
    workload: Workload,
    conditions: Conditions,
    *,
    settings: PolicySettings = PACKED,
    with_baseline: bool = True,
) -> Comparison:
    """Run a workload under the policies and, where wanted, one job per device.

    The baseline has the same devices, failures and losses, keeps a base loaded where the next job has it too, and knows
    neither queues nor priorities.
    """
    jobs = draw(workload, conditions.num_devices)
    work = sum(job.work_seconds for job in jobs)
    bound = bound_seconds(jobs, conditions.num_devices) if workload.load is None else None
    history = World(jobs, conditions, settings, workload.queues, sample_seconds=settings.fair_window_seconds / 36).run()
    packed = figures(history, work, settings.fair_window_seconds)
    alone = None
    if with_baseline:
        queue = Queue(name="all")
        others = [replace(job, queue=queue.name, priority=0) for job in draw(workload, conditions.num_devices)]
        alone_history = World(
            others, conditions, _FIRST_IN_FIRST_OUT, (queue,), sample_seconds=600.0, longest_first=False
        ).run()
        alone = figures(alone_history, work, settings.fair_window_seconds)
    return Comparison(
        name=name,
        workload=workload,
        num_devices=conditions.num_devices,
        bound_seconds=bound,
        packed=packed,
        history=history,
        alone=alone,
    )
