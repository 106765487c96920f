"""What lives in a Ray worker's process. Ray wraps the class; nothing here imports it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from jobs.records import Assignment
from orchestrator.clusters import AdoptedWorker, Observation
from orchestrator.clusters.host import limit_memory, quiet_libraries
from orchestrator.clusters.worker_loop import WorkerLoop
from orchestrator.decision import (
    NewWorker,
)
from workers.confinement import work_in_empty_folder
from workers.settings import WorkerSettings
from workers.worker import Worker

PROTOCOL = 5
"""Of the calls below and of what goes through them. A worker of another one, left by an upgrade, is not adopted."""


class WorkerActor:
    """Holds a `WorkerLoop` and passes calls on."""

    def __init__(
        self, worker: NewWorker, settings: WorkerSettings, jobs: Sequence[Assignment], search_path: Sequence[str]
    ) -> None:
        sys.path.extend(entry for entry in search_path if entry not in sys.path)
        quiet_libraries()

        work_in_empty_folder(settings.staging_dir / ".empty")

        def build() -> Worker:
            import torch

            torch.set_num_threads(worker.device.num_cpus)
            limit_memory(worker.device)
            return Worker(worker.id, worker.base, settings, device=worker.device.kind)

        self._worker = worker
        self._loop = WorkerLoop(worker.id, build, jobs)
        self._loop.start()
        _on_terminate(self._loop.preempt)

    def describe(self) -> tuple[int, AdoptedWorker]:
        """The protocol that is spoken here, what this worker is, and whose word it has."""
        return PROTOCOL, AdoptedWorker(worker=self._worker, attempts=self._loop.attempts)

    def assign(self, jobs: Sequence[Assignment]) -> None:
        """See `WorkerLoop`."""
        self._loop.assign(jobs)

    def release(self, job_id: str) -> None:
        """See `WorkerLoop`."""
        self._loop.release(job_id)

    def hand_back(self, job_id: str) -> None:
        """See `WorkerLoop`."""
        self._loop.hand_back(job_id)

    def prioritise(self, job_id: str, priority: int) -> None:
        """See `WorkerLoop`."""
        self._loop.prioritise(job_id, priority)

    def preempt(self) -> None:
        """See `WorkerLoop`; returns at once."""
        threading.Thread(target=self._loop.preempt, args=("told to stop",), daemon=True).start()

    def observe(self, timeout_seconds: float, acknowledged: int, after: int) -> Observation:
        """See `WorkerLoop`."""
        return self._loop.observe(timeout_seconds, acknowledged=acknowledged, after=after)


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
