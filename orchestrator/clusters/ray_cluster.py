"""Workers as Ray actors. The only module that imports ray.

An actor steps on its own thread; the scheduler asks it now and then what happened. Ray restarts nothing and remembers
nothing for us: it finds a machine, starts a process there, and says when that process has died.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Read by ray when it is imported. Usage reports are off; workers must see the same accelerators that the node has; and
# training is what the machine is for, so its processes do not stand back behind all others, as Ray's do by default.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.errors import WorkerError
from jobs.records import Assignment
from orchestrator.clusters import End, Observation, WorkerEnd
from orchestrator.clusters.host import host_devices, quiet_libraries
from orchestrator.clusters.processes import descendants, kill_if_same
from orchestrator.clusters.worker_loop import WorkerLoop
from orchestrator.openmp import ENVIRONMENT
from orchestrator.placement import Device, NewWorker
from orchestrator.retries import LEASE_SECONDS
from workers.settings import WorkerSettings
from workers.worker import Worker

_OBJECT_STORE_BYTES = 100 * 2**20
"""Small: reports are small, and weights never travel through Ray."""
_LOOPBACK = "127.0.0.1"
_CONNECT_SECONDS = 5.0


class _WorkerActor:
    """Body of the actor process: holds a `WorkerLoop` and passes calls on."""

    def __init__(
        self, worker: NewWorker, settings: WorkerSettings, jobs: Sequence[Assignment], search_path: Sequence[str]
    ) -> None:
        sys.path.extend(entry for entry in search_path if entry not in sys.path)
        quiet_libraries()

        def build() -> Worker:
            import torch

            torch.set_num_threads(worker.device.num_cpus)
            return Worker(worker.id, worker.base, settings, device=worker.device.kind)

        self._loop = WorkerLoop(worker.id, build, jobs)
        self._loop.start()
        _on_terminate(self._loop.preempt)

    def assign(self, jobs: Sequence[Assignment]) -> None:
        self._loop.assign(jobs)

    def release(self, job_id: str) -> None:
        self._loop.release(job_id)

    def preempt(self) -> None:
        threading.Thread(target=self._loop.preempt, args=("told to stop",), daemon=True).start()

    def observe(self, timeout_seconds: float) -> Observation:
        return self._loop.observe(timeout_seconds)


@dataclass
class _Handle:
    actor: Any
    """Ray's proxy of a `_WorkerActor`; its methods exist only at run time."""
    pending: ray.ObjectRef | None = None
    """The observation being waited for; one at a time, so that none is lost."""
    asked_at: float = 0.0
    """When it was asked for, by the monotonic clock."""
    has_answered: bool = False
    """Before its first answer the process is still being started, and no lease runs."""


class RayCluster:
    """A local Ray that lives as long as this object, or a part of an existing cluster."""

    def __init__(self, *, num_workers: int, address: str | None = None, lease_seconds: float = LEASE_SECONDS) -> None:
        """Start a local Ray, or join the one at `address`.

        Args:
            num_workers: CPU workers wanted where the cluster has no GPU; with GPUs there is one worker a GPU.
            address: As `ray.init` takes it; `None` starts a local Ray on the loopback interface.
            lease_seconds: A worker that gives no sign of life for so long is taken for hung, killed and replaced.

        Raises:
            WorkerError: Ray cannot be started or reached.
        """
        if address is not None:
            _require_reachable(address)
        self._workers: dict[str, _Handle] = {}
        self._lease_seconds = lease_seconds
        self._before = descendants(os.getpid())
        self._nodes: dict[str, str] = {}
        local = {"num_cpus": os.cpu_count(), "object_store_memory": _OBJECT_STORE_BYTES, "_node_ip_address": _LOOPBACK}
        # Ray leaves the token that opens its ports readable for everybody; what it creates is for this user alone.
        mask = os.umask(0o077)
        # And it takes SIGTERM for itself; what to do then is the caller's business.
        on_terminate = signal.getsignal(signal.SIGTERM)
        # What is sent to all processes of a group must not end those that the workers' last reports travel through:
        # they inherit this mask, and are killed at `shutdown`, or by the kernel when this process dies.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
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
        finally:
            os.umask(mask)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_terminate)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        token = Path.home() / ".ray" / "auth_token"
        if token.is_file():
            token.chmod(0o600)
        self._is_local = address is None
        self._devices = self._find_devices(num_workers)

    def devices(self) -> list[Device]:
        """One a GPU, or `num_workers` shares of the CPUs."""
        return list(self._devices)

    @property
    def is_interruptible(self) -> bool:
        """Never: the workers do what takes long."""
        return False

    def start_worker(self, worker: NewWorker, settings: WorkerSettings, jobs: Sequence[Assignment]) -> None:
        """Start an actor on the device's node; it loads and steps by itself."""
        options = {
            "num_cpus": worker.device.num_cpus if worker.device.kind == "cpu" else 1,
            "num_gpus": 1 if worker.device.kind == "cuda" else 0,
            "max_restarts": 0,
            "max_concurrency": 4,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(self._nodes[worker.device.id], soft=False),
            "runtime_env": {"env_vars": {name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()}},
        }
        # A local Ray's workers are this machine's: what can be imported here can be there.
        search_path = [entry or os.getcwd() for entry in sys.path] if self._is_local else []
        actor = ray.remote(_WorkerActor).options(**options).remote(worker, settings, list(jobs), search_path)
        self._workers[worker.id] = _Handle(actor)

    def assign(self, worker_id: str, jobs: Sequence[Assignment]) -> None:
        """Sent without waiting for the answer."""
        self._workers[worker_id].actor.assign.remote(list(jobs))

    def release(self, worker_id: str, job_id: str) -> None:
        """Sent without waiting for the answer."""
        self._workers[worker_id].actor.release.remote(job_id)

    def preempt(self) -> None:
        """Sent without waiting for the answer."""
        for handle in self._workers.values():
            handle.actor.preempt.remote()

    def poll(self, timeout_seconds: float) -> list[Observation]:
        """Whatever arrives within the time; a worker whose process died says so in its last observation."""
        if not self._workers:
            time.sleep(timeout_seconds)
            return []
        for handle in self._workers.values():
            if handle.pending is None:
                handle.pending = handle.actor.observe.remote(timeout_seconds)
                handle.asked_at = time.monotonic()
        by_ref = {handle.pending: worker_id for worker_id, handle in self._workers.items()}
        ready, _ = ray.wait(list(by_ref), num_returns=1, timeout=timeout_seconds)
        ready, _ = ray.wait(list(by_ref), num_returns=len(by_ref), timeout=0) if ready else ([], [])
        observations = []
        for ref in ready:
            worker_id = by_ref[ref]
            self._workers[worker_id].pending = None
            try:
                observation: Observation = ray.get(ref)
            except RayError as error:
                observation = _lost(worker_id, _why_dead(error))
            observations.append(observation)
            if observation.end is not None:
                self.stop_worker(worker_id)
            else:
                self._workers[worker_id].has_answered = True
                if observation.silent_seconds > self._lease_seconds:
                    observations.append(self._give_up(worker_id))
        for worker_id, handle in list(self._workers.items()):
            # Its process does not answer at all, though it did before: stopped, swapped out, or cut off.
            silent = handle.pending is not None and time.monotonic() - handle.asked_at > self._lease_seconds
            if silent and handle.has_answered:
                observations.append(self._give_up(worker_id))
        return observations

    def _give_up(self, worker_id: str) -> Observation:
        self.stop_worker(worker_id)
        return _lost(
            worker_id,
            f"no sign of life for {self._lease_seconds:g} seconds; if its micro-batches take that long, raise --lease",
        )

    def stop_worker(self, worker_id: str) -> None:
        """Kill the actor's process: a step in progress has nothing that anybody waits for."""
        handle = self._workers.pop(worker_id, None)
        if handle is not None:
            ray.kill(handle.actor, no_restart=True)

    def shutdown(self) -> None:
        """Kill the workers, and Ray too where we started it."""
        for worker_id in list(self._workers):
            try:
                self.stop_worker(worker_id)
            except (RayError, ValueError):
                self._workers.pop(worker_id, None)
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
            probe = ray.remote(_probe).options(num_cpus=0, num_gpus=num_gpus, scheduling_strategy=on_node)
            search_path = [entry or os.getcwd() for entry in sys.path] if self._is_local else []
            found: list[Device] = (
                host_devices(share, num_cpus=num_cpus)
                if self._is_local and not num_gpus
                else ray.get(probe.remote(share, num_cpus, search_path))
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


def _probe(num_workers: int, num_cpus: int, search_path: Sequence[str]) -> list[Device]:
    sys.path.extend(entry for entry in search_path if entry not in sys.path)
    return host_devices(num_workers, num_cpus=num_cpus)


def _require_reachable(address: str) -> None:
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


def _lost(worker_id: str, message: str) -> Observation:
    return Observation(worker_id=worker_id, reports=(), status=None, end=WorkerEnd(kind=End.LOST, message=message))


def _on_terminate(preempt: Callable[[str], None]) -> None:
    """Let SIGTERM preempt this worker, a second one end it at once. For the main thread of an actor's process.

    Python runs handlers in the main thread alone, which waits in Ray's own loop; hence the pipe and a thread at it.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def wait() -> None:
        asked = False
        while True:
            if signal.SIGTERM not in os.read(reading, 1):
                continue
            if asked:
                os._exit(128 + signal.SIGTERM)
            asked = True
            threading.Thread(target=preempt, args=("terminated (SIGTERM)",), daemon=True).start()

    threading.Thread(target=wait, name="on-terminate", daemon=True).start()


def _why_dead(error: RayError) -> str:
    """The part of Ray's report that a person can use."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    telling = [line for line in lines if "exit" in line.lower() or "killed" in line.lower() or "Error" in line]
    return f"the worker's process died: {(telling or lines or [type(error).__name__])[-1]}"
