"""The nodes of a Ray cluster that others own: which there are now, and how many workers each has room for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orchestrator.clusters.ray_environment  # noqa: F401

# isort: split
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.clusters.host import cpu_devices
from orchestrator.clusters.ray_cluster import probe
from orchestrator.clusters.shared_folder import SharedFolder, look_first
from orchestrator.clusters.worker_resources import WorkerResources
from orchestrator.snapshot import (
    Device,
)
from workers.host_memory import available_bytes

_LOOK_SECONDS = 1.0
"""Between two looks at which nodes there are."""
_AGAIN_SECONDS = 15.0
"""Before a node that could not be asked is asked again."""
_FIRST_SECONDS = 30.0
"""Until which the nodes that are there at the beginning are waited for, so that jobs are not all put on the fastest."""
_ID_LENGTH = 8


@dataclass(frozen=True, kw_only=True)
class _Pending:
    """A node that was asked what it has."""

    ref: ray.ObjectRef
    room: int
    num_cpus: int


class RayNodes:
    """Follows nodes as they come and go. `look` is cheap, and to be called often; nothing here waits."""

    def __init__(
        self,
        wanted: WorkerResources,
        search_path: Sequence[str],
        *,
        shared: SharedFolder | None = None,
        say: Callable[[str], None] = lambda _: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is asked before `look`.

        Args:
            wanted: What a worker takes.
            search_path: Where nodes import from, beside what they have.
            shared: Folder that a node must see to be used; `None` where workers need none.
            say: Tells a person why a node is not used.
            now: Seconds of a clock that never goes back.
        """
        self._shared = shared
        self._say = say
        self._wanted = wanted
        self._search_path = list(search_path)
        self._now = now
        self._looked_at = float("-inf")
        self._alive: set[str] = set()
        self._devices: dict[str, list[Device]] = {}
        """By node id, of nodes that have answered."""
        self._pending: dict[str, _Pending] = {}
        self._first: set[str] | None = None
        """Nodes that were there at the first look; `None` before it."""
        self._settled_at = now() + _FIRST_SECONDS
        self._not_before: dict[str, float] = {}
        self._refused: set[str] = set()
        """Nodes of which it was said that they are not used."""
        self._measured: dict[tuple[str, int | None], int] = {}
        """Bytes of a device by node name and GPU, of those whose memory our own workers hold already."""

    def remember(self, device: Device) -> None:
        """A device of a node where workers live already: what is free there now says nothing of it."""
        if device.node is not None:
            self._measured[device.node, device.index] = device.memory_bytes

    def doubt(self, device: Device) -> None:
        """A worker was lost on it: nothing is put on its node before the node itself has answered again.

        That a process has died is known seconds before it is known that its node has.
        """
        node_id = self.node_of(device)
        for known in self._devices.pop(node_id or "", []):
            self.remember(known)

    def devices(self) -> list[Device]:
        """Of the nodes that are there and have answered; where there are GPUs, those only."""
        if self._first is None or (self._first & self._pending.keys() and self._now() < self._settled_at):
            return []
        found = [device for devices in self._devices.values() for device in devices]
        gpus = [device for device in found if device.kind == "cuda"]
        return gpus or found

    def node_of(self, device: Device) -> str | None:
        """Ray's id of the node that a device is part of; `None` where it has left."""
        return next((node_id for node_id in self._alive if node_id.startswith(device.node or "?")), None)

    def look(self) -> bool:
        """See who is there; false where that was seen just now.

        Raises:
            Exception: Ray does not answer.
        """
        if self._now() - self._looked_at < _LOOK_SECONDS:
            return False
        nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        # Not before, so that a Ray that does not answer is asked again.
        self._looked_at = self._now()
        self._alive = set(nodes)
        for gone in [*self._devices.keys() - nodes.keys()]:
            del self._devices[gone]
        for gone in [*self._pending.keys() - nodes.keys()]:
            del self._pending[gone]
        self._collect()
        for node_id, node in nodes.items():
            if node_id in self._devices or node_id in self._pending:
                continue
            if self._now() >= self._not_before.get(node_id, float("-inf")):
                self._ask(node_id, node)
        self._first = set(nodes) if self._first is None else self._first
        return True

    def _ask(self, node_id: str, node: Mapping[str, Any]) -> None:
        labels = node.get("Labels") or {}
        room = self._wanted.room_on(node["Resources"])
        if room == 0 or any(labels.get(name) != value for name, value in self._wanted.labels.items()):
            self._devices[node_id] = []
            return
        # It takes nothing, since workers may have all that there is; and its process ends with it.
        options = {
            "num_cpus": 0,
            "max_retries": 0,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False),
        }
        num_cpus = int(node["Resources"].get("CPU", 0))
        is_gpu = bool(node["Resources"].get("GPU"))
        ask: Callable[..., Any] = probe if is_gpu else available_bytes
        arguments: tuple[Any, ...] = (room, num_cpus, self._search_path) if is_gpu else ()
        if self._shared is not None:
            arguments = (str(self._shared.root), self._shared.nonce, self._search_path, ask, arguments)
            ask = look_first
        remote: Any = ray.remote(max_calls=1)(ask)
        ref = remote.options(**options).remote(*arguments)
        self._pending[node_id] = _Pending(ref=ref, room=room, num_cpus=num_cpus)

    def _collect(self) -> None:
        by_ref = {pending.ref: node_id for node_id, pending in self._pending.items()}
        ready, _ = ray.wait(list(by_ref), num_returns=len(by_ref), timeout=0) if by_ref else ([], [])
        for ref in ready:
            node_id = by_ref[ref]
            pending = self._pending.pop(node_id)
            try:
                found: list[Device] | int | str = ray.get(ref)
            except RayError:
                self._not_before[node_id] = self._now() + _AGAIN_SECONDS
                continue
            if isinstance(found, str):
                self._refuse(node_id, found)
                continue
            if isinstance(found, int):
                found = cpu_devices(pending.room, num_cpus=pending.num_cpus, free_bytes=found)
            self._devices[node_id] = self._named(node_id, found, pending.room)

    def _refuse(self, node_id: str, found: str) -> None:
        """Do not use a node for now, and say why once; the share may be mounted there later."""
        self._not_before[node_id] = self._now() + _AGAIN_SECONDS
        if node_id not in self._refused and self._shared is not None:
            self._refused.add(node_id)
            self._say(f"{self._shared.problem(node_id[:_ID_LENGTH], found)}; it is not used, and asked again")

    def _named(self, node_id: str, found: Sequence[Device], room: int) -> list[Device]:
        """Devices with names of their own in the whole cluster, that stay the same as long as the node does."""
        name = node_id[:_ID_LENGTH]
        if found and found[0].kind == "cuda":
            shares = int(1 / self._wanted.num_gpus)
            found = [
                replace(device, memory_bytes=int(device.memory_bytes * self._wanted.num_gpus), is_shared=shares > 1)
                for device in found
                for _ in range(shares)
            ]
        return [
            replace(
                device,
                id=f"{name}-{device.kind}-{number}",
                node=name,
                memory_bytes=self._measured.get((name, device.index), device.memory_bytes),
                num_cpus=self._wanted.num_cpus or device.num_cpus,
            )
            for number, device in enumerate(found[:room])
        ]
