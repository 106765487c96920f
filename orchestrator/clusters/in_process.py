"""A cluster inside this process, without Ray: for tests, debugging, and machines where Ray is not wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from jobs.errors import WorkerError
from jobs.records import Assignment, Report
from orchestrator.clusters import AdoptedWorker, End, Observation, WorkerEnd, end_of, last_line, load
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
        self._places: dict[str, str] = {}
        """Worker id → device id."""
        self._lost: dict[str, str] = {}
        """Device id → the error that every further call would end with."""
        self._observed: list[Observation] = []

    def adopt(self, open_attempts: Mapping[str, Mapping[str, int]]) -> list[AdoptedWorker]:
        """Nobody: workers in a process end with it."""
        return []

    def devices(self) -> list[Device]:
        """As given, without those that are lost to this process."""
        return [device for device in self._devices if device.id not in self._lost]

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
        device = worker.device
        name = device.kind if device.index is None else f"{device.kind}:{device.index}"
        started = build(worker.id, worker.base, settings, device=name)
        started.assign(jobs)
        self._workers[worker.id] = started
        self._places[worker.id] = device.id

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
            end = WorkerEnd(kind=End.PREEMPTED, message="told to stop")
            try:
                reports = tuple(worker.preempt())
            except Exception as error:
                message = f"told to stop, but not all jobs could be saved: {last_line(error)}"
                end, reports = WorkerEnd(kind=End.LOST, message=message), _last_reports(worker)
            status = worker.status()
            self.stop_worker(worker_id)
            self._observed.append(Observation(worker_id=worker_id, reports=reports, status=status, end=end))

    def poll(self, timeout_seconds: float) -> list[Observation]:
        """One step of every worker, however long that takes.

        Raises:
            WorkerError: All devices are lost to this process.
        """
        if self._lost and not self._observed and not self.devices():
            raise WorkerError(f"{'; '.join(self._lost.values())}: start again, to go on from the last checkpoints")
        for worker_id, worker in list(self._workers.items()):
            try:
                if worker_id not in self._loaded:
                    load(worker)
                    self._loaded.add(worker_id)
                reports = tuple(worker.step()) if not worker.is_idle else ()
                self._observed.append(Observation(worker_id=worker_id, reports=reports, status=worker.status()))
            except Exception as error:
                end = end_of(error)
                if end.kind is End.LOST:
                    # Whatever runs there next from this process would end so too.
                    self._lost[self._places[worker_id]] = f"{self._places[worker_id]}: {end.message}"
                reports = _last_reports(worker)
                self.stop_worker(worker_id)
                self._observed.append(Observation(worker_id=worker_id, reports=reports, status=None, end=end))
        # Kept in the object until here, for what breaks a poll off must not lose what was seen before.
        observed, self._observed = self._observed, []
        return observed

    def acknowledge(self, worker_id: str, number: int) -> None:
        """Nothing is kept: what `poll` has returned is in this process."""

    def stop_worker(self, worker_id: str) -> None:
        """Forget it; its memory goes with it."""
        self._workers.pop(worker_id, None)
        self._places.pop(worker_id, None)
        self._loaded.discard(worker_id)

    def disconnect(self) -> None:
        """Workers in a process end with it."""
        self.shutdown()

    def shutdown(self) -> None:
        """Forget all workers."""
        self._workers.clear()


def _last_reports(worker: Worker) -> tuple[Report, ...]:
    """What a worker that has raised still has to tell, if it can."""
    with suppress(Exception):
        return tuple(worker.last_reports())
    return ()
