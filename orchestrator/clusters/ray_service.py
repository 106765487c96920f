"""Workers of the service: named, detached actors, which live on while it does not.

Ray is disposable here: what is true stands in the journal. A service that comes back asks Ray who is there, keeps those
that have the word for a job that the journal knows, and ends all others. When Ray itself is gone it is made anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import orchestrator.clusters.ray_environment  # noqa: F401

# isort: split
import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError
from ray.util import list_named_actors

from jobs.errors import WorkerError
from jobs.records import Assignment
from orchestrator.clusters import AdoptedWorker, End, Observation
from orchestrator.clusters.ray_cluster import require_reachable, search_path, signals_kept
from orchestrator.clusters.ray_daemon import RayDaemon, answers
from orchestrator.clusters.ray_environment import protect_token
from orchestrator.clusters.ray_nodes import RayNodes
from orchestrator.clusters.ray_workers import Handle, RayWorkers, kill, line_of, lost
from orchestrator.clusters.shared_folder import SharedFolder
from orchestrator.clusters.worker_actor import PROTOCOL
from orchestrator.clusters.worker_resources import WorkerResources
from orchestrator.decision import (
    NewWorker,
)
from orchestrator.retries import LEASE_SECONDS
from orchestrator.snapshot import (
    Device,
)
from workers.settings import WorkerSettings

_DESCRIBE_SECONDS = 30.0
"""For a worker to say who it is. One that takes longer is as good as dead."""
_MOST_MISSED = 3
"""Looks in a row that find nobody at another's Ray, before it is taken to be gone."""
_MOST_FAILED_POLLS = 20
"""Failed polls in a row, and a lease's time of them, before all workers are taken for lost."""


class RayService(RayWorkers):
    """A Ray of our own that is looked after by a daemon, or a part of somebody else's."""

    def __init__(
        self,
        service_id: str,
        *,
        daemon: RayDaemon | None = None,
        address: str | None = None,
        resources: WorkerResources | None = None,
        lease_seconds: float = LEASE_SECONDS,
        say: Callable[[str], None] = lambda _: None,
        shared: SharedFolder | None = None,
    ) -> None:
        """Join Ray. Call `adopt` before anything else.

        Args:
            service_id: Of the data directory; two services on one Ray do not meet.
            daemon: Looks after a Ray of our own, which is started if there is none.
            address: Of another's, where there is no daemon: a raylet of it must run on this machine.
            resources: What a worker takes.
            lease_seconds: A worker that gives no sign of life for so long is taken for hung, killed and replaced.
            say: Tells a person who looks on.
            shared: Folder that workers write into: nodes of another's Ray that do not see it are not used.

        Raises:
            WorkerError: Ray cannot be started or reached.
        """
        super().__init__(lease_seconds=lease_seconds, say=say)
        if (daemon is None) == (address is None):
            raise ValueError("either a daemon or an address")
        self._prefix = f"loraloom-{service_id}"
        self._daemon = daemon
        self._address = address
        self._shared = shared
        self._resources = resources or WorkerResources()
        self._places: dict[str, Device] = {}
        """Where each worker was started."""
        self._requested: int | None = None
        self._num_missed = 0
        self._num_failed_polls = 0
        self._failing_since = 0.0
        self._join()

    def _join(self) -> None:
        if self._daemon is not None:
            self._address = self._daemon.ensure().address
        assert self._address is not None
        require_reachable(self._address)
        try:
            with signals_kept():
                ray.init(
                    address=self._address,
                    namespace=self._prefix,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    configure_logging=False,
                )
        except Exception as error:
            raise WorkerError(f"Ray cannot be joined at {self._address}: {error}") from error
        protect_token()
        self._num_missed = 0
        # On our own Ray what can be imported here can be there; another's nodes have what they have.
        self._search_path = search_path() if self._daemon is not None else []
        self._nodes = RayNodes(self._resources, self._search_path, shared=self._shared, say=self._say)

    def adopt(self, open_attempts: Mapping[str, Mapping[str, int]]) -> list[AdoptedWorker]:
        """Find the workers that an earlier service started, and take over those that train what the journal knows.

        All others are ended: their attempts are over. So is a job's part in a worker of which only other jobs go on.

        Args:
            open_attempts: Worker id → job id → attempt, of all attempts that the journal has open.

        Returns:
            Those taken over, each with the attempts that it goes on with. `poll` tells what they had to say meanwhile.
        """
        found = {name: _actor(name, self._prefix) for name in list_named_actors() if name.startswith(self._prefix)}
        asked: dict[ray.ObjectRef, Any] = {
            actor.describe.remote(): actor for actor in found.values() if actor is not None
        }
        ready, silent = ray.wait(list(asked), num_returns=len(asked), timeout=_DESCRIBE_SECONDS) if asked else ([], [])
        for ref in silent:
            kill(asked[ref])
        adopted = []
        for ref in ready:
            actor, described = asked[ref], _described(ref)
            known = open_attempts.get(described.worker.id, {}).items() if described is not None else ()
            if described is None or not (current := dict(described.attempts.items() & known)):
                kill(actor)
                continue
            self._workers[described.worker.id] = Handle(actor)
            self._places[described.worker.id] = described.worker.device
            self._nodes.remember(described.worker.device)
            for job_id in described.attempts.keys() - current.keys():
                self.release(described.worker.id, job_id)
            adopted.append(AdoptedWorker(worker=described.worker, attempts=current))
        return sorted(adopted, key=lambda one: one.worker.id)

    def devices(self) -> list[Device]:
        """Of the nodes that are there now and have said what they have; a node takes some seconds for that."""
        return self._nodes.devices()

    def start_worker(self, worker: NewWorker, settings: WorkerSettings, jobs: Sequence[Assignment]) -> None:
        """Start a detached actor on the device's node; it loads and steps by itself."""
        node_id = self._nodes.node_of(worker.device)
        if not self._is_there():
            self._untold.append(lost(worker.id, "Ray was gone before it was started"))
            return
        if node_id is None:
            self._untold.append(lost(worker.id, f"its node {worker.device.node} has left the cluster"))
            return
        self._start(
            worker,
            settings,
            jobs,
            node_id=node_id,
            search_path=self._search_path,
            options={
                **self._resources.demand(worker.device),
                "name": self._name(worker.id),
                "namespace": self._prefix,
                "lifetime": "detached",
            },
        )
        self._places[worker.id] = worker.device

    def poll(self, timeout_seconds: float) -> list[Observation]:
        """See `RayWorkers`. Workers of nodes that have left are lost at once; a Ray that is gone has nothing to say."""
        if not self._is_there():
            time.sleep(timeout_seconds)
            return []
        try:
            if self._nodes.look():
                for worker_id in list(self._workers):
                    if self._nodes.node_of(self._places[worker_id]) is None:
                        self._lose(worker_id, f"its node {self._places[worker_id].node} has left the cluster")
            places = dict(self._places)
            observations = super().poll(timeout_seconds)
        except (RayError, OSError, RuntimeError, ValueError) as error:
            time.sleep(timeout_seconds)
            return self._poll_failed(error)
        self._num_failed_polls = 0
        for one in observations:
            if one.end is not None and one.end.kind is End.LOST and one.worker_id in places:
                self._nodes.doubt(places[one.worker_id])
        return observations

    def _poll_failed(self, error: Exception) -> list[Observation]:
        """Say so; where it lasts longer than a lease, nobody knows of any worker whether it lives: all are lost."""
        self._num_failed_polls += 1
        if self._num_failed_polls == 1:
            self._failing_since = time.monotonic()
            self._say(f"Ray cannot be asked what its workers report, and is asked again: {line_of(error)}")
        seconds = time.monotonic() - self._failing_since
        if self._num_failed_polls < _MOST_FAILED_POLLS or seconds < self._lease_seconds:
            return []
        why = f"Ray could not be asked for {seconds:.0f} seconds, {self._num_failed_polls} times: {line_of(error)}"
        self._say(f"{why}; its workers are taken for lost")
        self._num_failed_polls = 0
        ended = [lost(worker_id, why) for worker_id in self._workers]
        for one in ended:
            self.stop_worker(one.worker_id)
        return ended

    @property
    def is_alive(self) -> bool:
        """Whether Ray was there when `poll` last looked. Where it was not, `rebuild` is what helps."""
        return self._num_missed < (_MOST_MISSED if self._daemon is None else 1) and ray.is_initialized()

    def _is_there(self) -> bool:
        """Look, before anything is asked of Ray.

        A call that finds nobody at the address blocks, and after a minute Ray ends the whole process.
        """
        assert self._address is not None
        there = self._daemon.is_alive if self._daemon is not None else answers(self._address)
        self._num_missed = 0 if there else self._num_missed + 1
        return there and ray.is_initialized()

    def rebuild(self) -> None:
        """Join Ray again, after making it anew if it is ours. `poll` tells of workers that are no more.

        Raises:
            WorkerError: Not yet: try again.
        """
        self.disconnect()
        self._join()
        before, self._workers = self._workers, {}
        self._requested = None
        for worker_id, handle in before.items():
            actor = _actor(self._name(worker_id), self._prefix)
            if actor is None:
                self._places.pop(worker_id, None)
                self._untold.append(lost(worker_id, "Ray went down with it"))
            else:
                self._workers[worker_id] = Handle(
                    actor, received=handle.received, acknowledged=handle.acknowledged, has_ended=handle.has_ended
                )

    def stop_worker(self, worker_id: str) -> None:
        """See `RayWorkers`."""
        super().stop_worker(worker_id)
        self._places.pop(worker_id, None)

    def request_devices(self, total: int) -> None:
        """Ask Ray's autoscaler for a cluster with room for so many workers, those that live included.

        It holds until the next call. Without an autoscaler nobody hears it.
        """
        if total == self._requested or not self._is_there():
            return
        devices = self.devices()
        bundle = self._resources.bundle(devices[0] if devices else None)
        with suppress(RayError, RuntimeError, OSError):
            request_resources(bundles=[bundle] * total)
            self._requested = total

    def disconnect(self) -> None:
        """Let go of Ray; workers train on."""
        for handle in self._workers.values():
            handle.pending = None
        with suppress(Exception):
            ray.shutdown()

    def shutdown(self) -> None:
        """End all workers, and let go of Ray. Whether it goes too is for its daemon to say."""
        for worker_id in list(self._workers):
            self.stop_worker(worker_id)
        self.disconnect()

    def _name(self, worker_id: str) -> str:
        return f"{self._prefix}-{worker_id}"


def _actor(name: str, namespace: str) -> Any:
    """Ray's proxy of a named actor; `None` where there is none any more."""
    try:
        return ray.get_actor(name, namespace=namespace)
    except (ValueError, RayError):
        return None


def _described(ref: ray.ObjectRef) -> AdoptedWorker | None:
    """Who a worker says it is; `None` where it is dead, or of another version and not to be understood."""
    try:
        protocol, described = ray.get(ref)
    except Exception:
        return None
    return described if protocol == PROTOCOL and isinstance(described, AdoptedWorker) else None
