"""What a worker takes of its node. Ray is not imported here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.snapshot import (
    Device,
)


@dataclass(frozen=True, kw_only=True)
class WorkerResources:
    """What one worker takes of its node, as the operator states it."""

    num_cpus: int | None = None
    """An equal share of the node's where `None`."""
    num_gpus: float = 1.0
    """On nodes with GPUs: below 1 several workers share one."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """Further ones by Ray's names; a node without them has no room for a worker."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Only nodes that have all of these."""
    workers_per_node: int | None = None
    """On nodes without GPUs: as many as `num_cpus` allows where `None`, and one if that is `None` too."""

    def __post_init__(self) -> None:
        """Refuse what no node could give.

        Raises:
            ValueError: With the field and what it may be.
        """
        if not 0 < self.num_gpus <= 1:
            raise ValueError(f"num_gpus is {self.num_gpus}: a worker takes one GPU or a part of one")
        if self.num_cpus is not None and self.num_cpus < 1:
            raise ValueError(f"num_cpus is {self.num_cpus}: a worker takes at least one")
        if self.workers_per_node is not None and self.workers_per_node < 1:
            raise ValueError(f"workers_per_node is {self.workers_per_node}: at least one, or nothing")

    def room_on(self, resources: Mapping[str, float]) -> int:
        """Workers that a node with these resources has room for, before its GPUs are looked at."""
        cpus = int(resources.get("CPU", 0))
        gpus = resources.get("GPU", 0.0)
        if gpus:
            most = int(gpus / self.num_gpus)
        else:
            most = self.workers_per_node or (cpus // self.num_cpus if self.num_cpus else 1)
        wanted = {"CPU": self.num_cpus or 1, **self.resources}
        return min(most, *(int(resources.get(name, 0) / amount) for name, amount in wanted.items() if amount))

    def demand(self, device: Device) -> dict[str, Any]:
        """Options of an actor on the device."""
        return {
            "num_cpus": device.num_cpus,
            "num_gpus": self.num_gpus if device.kind == "cuda" else 0,
            "resources": dict(self.resources),
        }

    def bundle(self, device: Device | None) -> dict[str, float]:
        """The same for the autoscaler; of a device like this one, or of the smallest that would do."""
        kind = device.kind if device is not None else "cpu"
        cpus = device.num_cpus if device is not None else self.num_cpus or 1
        return {"CPU": cpus, **({"GPU": self.num_gpus} if kind == "cuda" else {}), **self.resources}
