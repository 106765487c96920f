"""A cluster inside this process, without Ray: for tests, debugging, and machines where Ray is not wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from jobs.records import Assignment
from orchestrator.clusters import AdoptedWorker, End, Observation, WorkerEnd, end_of, load
from orchestrator.decision import (
    NewWorker,
)
from orchestrator.snapshot import (
    Device,
)
from workers.settings import WorkerSettings

if TYPE_CHECKING:
    from workers.worker import Worker


class InProcessCluster:
    """Workers are stepped in turn by `poll`; nothing runs in between."""

    def __init__(self, devices: Sequence[Device], *, build: Callable[..., Worker] | None = None) -> None:
        """Nothing heavy is loaded before the first worker starts.

        Args:
            devices: To train on.
            build: Makes a worker.
        """
        self._devices = list(devices)
        self._build = build
        self._workers: dict[str, Worker] = {}
        self._loaded: set[str] = set()
        self._observed: list[Observation] = []

    def adopt(self, open_attempts: Mapping[str, Mapping[str, int]]) -> list[AdoptedWorker]:
        """Nobody: workers in a process end with it."""
        return []

    def devices(self) -> list[Device]:
        """As given."""
        return list(self._devices)

    @property
    def is_alive(self) -> bool:
        """As long as this process."""
        return True

    def rebuild(self) -> None:
        """It is never gone."""

    def request_devices(self, total: int) -> None:
        """There are no others."""

    @property
    def is_interruptible(self) -> bool:
        """While a base is loaded or rows are tokenised: jobs that train already stand still meanwhile."""
        return any(worker.is_preparing for worker in self._workers.values())

    def start_worker(self, worker: NewWorker, settings: WorkerSettings, jobs: Sequence[Assignment]) -> None:
        """Loading happens in the next `poll`, so that its errors are reported as those of any worker."""
        import torch

        from orchestrator.clusters.host import quiet_libraries

        quiet_libraries()
        torch.set_num_threads(min(device.num_cpus for device in self._devices))
        build = self._build
        if build is None:
            from workers.worker import Worker

            build = Worker
        started = build(worker.id, worker.base, settings, device=worker.device.kind)
        started.assign(jobs)
        self._workers[worker.id] = started

    def assign(self, worker_id: str, jobs: Sequence[Assignment]) -> None:
        """Taken in at the next step."""
        self._workers[worker_id].assign(jobs)

    def release(self, worker_id: str, job_id: str) -> None:
        """At once: between two polls every worker stands at a step boundary."""
        self._workers[worker_id].release(job_id)

    def hand_back(self, worker_id: str, job_id: str) -> None:
        """Takes the steps that it takes to write the checkpoint."""
        self._workers[worker_id].hand_back(job_id)

    def prioritise(self, worker_id: str, job_id: str, priority: int) -> None:
        """From the next round on."""
        self._workers[worker_id].prioritise(job_id, priority)

    def preempt(self) -> None:
        """At once, for the same reason."""
        for worker_id, worker in list(self._workers.items()):
            reports = tuple(worker.preempt())
            status = worker.status()
            self.stop_worker(worker_id)
            self._observed.append(
                Observation(
                    worker_id=worker_id,
                    reports=reports,
                    status=status,
                    end=WorkerEnd(kind=End.PREEMPTED, message="told to stop"),
                )
            )

    def poll(self, timeout_seconds: float) -> list[Observation]:
        """One step of every worker, however long that takes."""
        for worker_id, worker in list(self._workers.items()):
            try:
                if worker_id not in self._loaded:
                    load(worker)
                    self._loaded.add(worker_id)
                reports = tuple(worker.step()) if not worker.is_idle else ()
                self._observed.append(Observation(worker_id=worker_id, reports=reports, status=worker.status()))
            except Exception as error:
                self.stop_worker(worker_id)
                self._observed.append(Observation(worker_id=worker_id, reports=(), status=None, end=end_of(error)))
        # Kept in the object until here, for what breaks a poll off must not lose what was seen before.
        observed, self._observed = self._observed, []
        return observed

    def acknowledge(self, worker_id: str, number: int) -> None:
        """Nothing is kept: what `poll` has returned is in this process."""

    def stop_worker(self, worker_id: str) -> None:
        """Forget it; its memory goes with it."""
        self._workers.pop(worker_id, None)
        self._loaded.discard(worker_id)

    def disconnect(self) -> None:
        """Workers in a process end with it."""
        self.shutdown()

    def shutdown(self) -> None:
        """Forget all workers."""
        self._workers.clear()
