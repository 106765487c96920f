"""Workers of one run, as Ray actors that live no longer than it does."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.clusters.ray_environment import protect_token

# isort: split
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.errors import WorkerError
from jobs.records import Assignment
from orchestrator.clusters.host import host_devices
from orchestrator.clusters.processes import descendants, kill_if_same
from orchestrator.clusters.ray_workers import RayWorkers
from orchestrator.clusters.shared_folder import SharedFolder, look
from orchestrator.decision import (
    NewWorker,
)
from orchestrator.retries import LEASE_SECONDS
from orchestrator.snapshot import (
    Device,
)
from workers.settings import WorkerSettings

_OBJECT_STORE_BYTES = 100 * 2**20
"""Small: reports are small, and weights never travel through Ray."""
_LOOPBACK = "127.0.0.1"
_CONNECT_SECONDS = 5.0


class RayCluster(RayWorkers):
    """A local Ray that lives as long as this object, or a part of an existing cluster."""

    def __init__(
        self,
        *,
        num_workers: int,
        address: str | None = None,
        lease_seconds: float = LEASE_SECONDS,
        shared_root: Path | None = None,
    ) -> None:
        """Start a local Ray, or join the one at `address`.

        Args:
            num_workers: CPU workers wanted where the cluster has no GPU; with GPUs there is one worker a GPU.
            address: As `ray.init` takes it; `None` starts a local Ray on the loopback interface.
            lease_seconds: A worker that gives no sign of life for so long is taken for hung, killed and replaced.
            shared_root: Folder that workers write into, which all nodes of somebody else's Ray must see.

        Raises:
            WorkerError: Ray cannot be started or reached, or a node does not see the folder.
        """
        super().__init__(lease_seconds=lease_seconds)
        if address is not None:
            require_reachable(address)
        self._before = descendants(os.getpid())
        self._nodes: dict[str, str] = {}
        local = {"num_cpus": os.cpu_count(), "object_store_memory": _OBJECT_STORE_BYTES, "_node_ip_address": _LOOPBACK}
        try:
            with signals_kept():
                ray.init(
                    address=address or "local",
                    include_dashboard=None if address else False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    configure_logging=False,
                    **({} if address else local),
                )
        except Exception as error:
            what = f"joined at {address}" if address else "started"
            raise WorkerError(f"Ray cannot be {what}: {error}") from error
        protect_token()
        self._is_local = address is None
        if address is not None and shared_root is not None:
            require_shared(SharedFolder(shared_root))
        self._devices = self._find_devices(num_workers)

    def devices(self) -> list[Device]:
        """One a GPU, or `num_workers` shares of the CPUs."""
        return list(self._devices)

    def start_worker(self, worker: NewWorker, settings: WorkerSettings, jobs: Sequence[Assignment]) -> None:
        """Start an actor on the device's node; it loads and steps by itself."""
        self._start(
            worker,
            settings,
            jobs,
            node_id=self._nodes[worker.device.id],
            # A local Ray's workers are this machine's: what can be imported here can be there.
            search_path=search_path() if self._is_local else (),
            options={
                "num_cpus": worker.device.num_cpus if worker.device.kind == "cpu" else 1,
                "num_gpus": 1 if worker.device.kind == "cuda" else 0,
            },
        )

    def shutdown(self) -> None:
        """Kill the workers, and Ray too where we started it."""
        for worker_id in list(self._workers):
            self.stop_worker(worker_id)
        left = descendants(os.getpid()) if self._is_local else []
        node = ray._private.worker._global_node  # pyright: ignore[reportPrivateImportUsage, reportAttributeAccessIssue]
        if self._is_local and node is not None:
            # They do not hear SIGTERM, so asking first would only take a second for each of them.
            kill = node.kill_all_processes
            node.kill_all_processes = lambda **how: kill(**{**how, "allow_graceful": False})
        ray.shutdown()
        # Its agents would find out only seconds later that what they served is gone.
        for process in left:
            if process not in self._before:
                kill_if_same(process)

    def _find_devices(self, num_workers: int) -> list[Device]:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        devices = []
        for number, node in enumerate(nodes):
            node_id = node["NodeID"]
            prefix = f"{number}-" if len(nodes) > 1 else ""
            num_gpus = int(node["Resources"].get("GPU", 0))
            num_cpus = int(node["Resources"].get("CPU", 0))
            if not num_gpus and num_cpus == 0:
                continue
            on_node = NodeAffinitySchedulingStrategy(node_id, soft=False)
            share = max(1, num_workers // max(1, len(nodes)))
            remote_probe = ray.remote(max_calls=1)(probe).options(
                num_cpus=0, num_gpus=num_gpus, scheduling_strategy=on_node
            )
            found: list[Device] = (
                host_devices(share, num_cpus=num_cpus)
                if self._is_local and not num_gpus
                else ray.get(remote_probe.remote(share, num_cpus, search_path() if self._is_local else ()))
            )
            for device in found:
                named = Device(
                    id=f"{prefix}{device.id}",
                    kind=device.kind,
                    memory_bytes=device.memory_bytes,
                    num_cpus=device.num_cpus,
                )
                self._nodes[named.id] = node_id
                devices.append(named)
        if any(device.kind == "cuda" for device in devices):
            devices = [device for device in devices if device.kind == "cuda"]
        if not devices:
            raise WorkerError("the Ray cluster has neither CPUs nor GPUs for a worker")
        return devices


def require_shared(shared: SharedFolder) -> None:
    """Ask every node that could get a worker whether it sees a folder.

    Raises:
        WorkerError: One does not; the message names it and says what to do.
    """
    asked: dict[str, Any] = {}
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get("CPU"):
            on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task: Any = ray.remote(look).options(num_cpus=0, scheduling_strategy=on_node)
            asked[node["NodeID"]] = task.remote(str(shared.root), shared.nonce)
    for node_id, ref in asked.items():
        found: str | None = ray.get(ref)
        if found is not None:
            raise WorkerError(shared.problem(node_id[:8], found))


def probe(num_workers: int, num_cpus: int, search_path: Sequence[str]) -> list[Device]:
    """What a node has to offer; runs there."""
    sys.path.extend(entry for entry in search_path if entry not in sys.path)
    return host_devices(num_workers, num_cpus=num_cpus)


def search_path() -> list[str]:
    """Where this process imports from."""
    return [entry or os.getcwd() for entry in sys.path]


@contextmanager
def signals_kept() -> Iterator[None]:
    """Around what starts or joins a Ray."""
    # Ray leaves the token that opens its ports readable for everybody; what it creates is for this user alone.
    mask = os.umask(0o077)
    # And it takes SIGTERM for itself; what to do then is the caller's business.
    on_terminate = signal.getsignal(signal.SIGTERM)
    # What is sent to all processes of a group must not end those that the workers' last reports travel through: they
    # inherit this mask, and are killed at `shutdown`, or by the kernel when this process dies.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        os.umask(mask)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_terminate)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def require_reachable(address: str) -> None:
    """Ray itself tries for minutes before it says that nobody is there.

    Raises:
        WorkerError: Nothing answers at the address.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise WorkerError(f"nothing answers at --ray-address {address}: {error.strerror or error}") from error
