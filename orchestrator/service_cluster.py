"""The cluster of a service: this process, a Ray of its own, or a part of somebody else's."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from jobs.errors import LoraloomError, WorkerError
from orchestrator.clusters import Cluster
from orchestrator.clusters.ray_daemon import DaemonOptions, RayDaemon
from orchestrator.clusters.worker_resources import WorkerResources
from orchestrator.readoption import Adopting
from orchestrator.retries import LEASE_SECONDS

_REBUILD_SECONDS = 5.0
_PAUSE_SECONDS = 0.25


class ServiceCluster(Cluster, Adopting, Protocol):
    """A cluster that can outlive the service, and go down while the service lives."""

    @property
    def is_alive(self) -> bool:
        """Whether it was there when `poll` last looked."""
        ...

    def rebuild(self) -> None:
        """Make it anew. `poll` tells of workers that are no more.

        Raises:
            WorkerError: Not yet: try again.
        """
        ...

    def request_devices(self, total: int) -> None:
        """Ask for room for so many workers, those that live included, until the next call."""
        ...

    def disconnect(self) -> None:
        """Let go of it; workers that can do without this process train on."""
        ...


class ClusterKeeper:
    """Starts or joins the cluster, makes it anew where it is gone, and ends it or leaves it to the next service."""

    def __init__(
        self,
        service_id: str,
        data_dir: Path,
        *,
        in_process: bool = False,
        ray_address: str | None = None,
        resources: WorkerResources | None = None,
        object_store_bytes: int | None = None,
        lease_seconds: float = LEASE_SECONDS,
        shares_folder: bool = True,
        say: Callable[[str], None],
    ) -> None:
        """Join it. What takes a while, torch or Ray, is loaded here and not before.

        Args:
            service_id: Of the data directory.
            data_dir: Where the daemon of a Ray of our own leaves word.
            in_process: Without Ray.
            ray_address: Of a Ray that runs already; one of our own where `None`.
            resources: What a worker takes of its node.
            object_store_bytes: Of a Ray of our own; small where `None`.
            lease_seconds: A worker that gives no sign of life for so long is taken for hung.
            shares_folder: Whether workers write below `data_dir`, so that all nodes must see it: without a store.
            say: Tells a person who looks on.

        Raises:
            WorkerError: Ray cannot be started or reached.
        """
        resources = resources or WorkerResources()
        self._say = say
        self._rebuilt_at = 0.0
        self._daemon: RayDaemon | None = None
        self.may_train = False
        """Whether an earlier service may have left workers that train."""
        self.cluster: ServiceCluster
        if in_process:
            from orchestrator.clusters.host import host_devices
            from orchestrator.clusters.in_process import InProcessCluster

            self.executor = "in this process, without Ray"
            """What carries the workers, for people."""
            self.cluster = InProcessCluster(host_devices(resources.workers_per_node or 1))
            return
        # Says which Ray is meant before anything imports it.
        if ray_address is None:
            stated = object_store_bytes is not None
            options = DaemonOptions(object_store_bytes=object_store_bytes) if stated else DaemonOptions()
            self._daemon = RayDaemon(data_dir, options)
        self.may_train = self._daemon is None or self._daemon.find() is not None
        from orchestrator.clusters.ray_service import RayService
        from orchestrator.clusters.shared_folder import SharedFolder

        self.executor = f"Ray at {ray_address}" if ray_address else "a Ray of its own"
        self.cluster = RayService(
            service_id,
            daemon=self._daemon,
            address=ray_address,
            resources=resources,
            lease_seconds=lease_seconds,
            say=say,
            shared=SharedFolder(data_dir) if ray_address is not None and shares_folder else None,
        )

    def look_after(self, wanted_devices: int) -> None:
        """Make it anew where it is gone; else ask for as many devices as could be used."""
        if self.cluster.is_alive:
            self.cluster.request_devices(wanted_devices)
            return
        if time.monotonic() - self._rebuilt_at < _REBUILD_SECONDS:
            time.sleep(_PAUSE_SECONDS)
            return
        self._rebuilt_at = time.monotonic()
        self._say("Ray is gone; it is made anew, and all jobs go on from their checkpoints")
        try:
            self.cluster.rebuild()
        except WorkerError as error:
            self._say(f"not yet: {error}")

    def let_go(self, *, is_to_end: bool) -> None:
        """End all workers and a Ray of our own; or, where nobody has asked for that, leave them to the next service."""
        with suppress(Exception):
            self.cluster.shutdown() if is_to_end else self.cluster.disconnect()
        if is_to_end and self._daemon is not None:
            with suppress(LoraloomError, OSError):
                self._daemon.stop()
