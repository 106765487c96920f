"""The life of a worker in its own process: load, then step for as long as there is work, on its own thread."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Sequence

from jobs.records import Assignment, Report, WorkerStatus
from orchestrator.clusters import Observation
from workers.worker import Worker


class WorkerLoop:
    """Runs a worker without being called for each step, until its process is ended. Callable from any thread."""

    def __init__(self, worker_id: str, build: Callable[[], Worker], jobs: Sequence[Assignment]) -> None:
        self._worker_id = worker_id
        self._build = build
        self._changed = threading.Condition()
        self._assigned: list[Assignment] = list(jobs)
        self._released: list[str] = []
        self._reports: list[Report] = []
        self._status: WorkerStatus | None = None
        self._error: str | None = None
        self._thread = threading.Thread(target=self._run, name=f"loraloom-{worker_id}", daemon=True)

    def start(self) -> None:
        """Begin to load the base."""
        self._thread.start()

    def assign(self, jobs: Sequence[Assignment]) -> None:
        """More jobs, taken in at the next step boundary."""
        with self._changed:
            self._assigned.extend(jobs)
            self._changed.notify_all()

    def release(self, job_id: str) -> None:
        """Drop a job at the next step boundary."""
        with self._changed:
            self._released.append(job_id)
            self._changed.notify_all()

    def observe(self, timeout_seconds: float) -> Observation:
        """Everything since the last call; waits for something to say, at most `timeout_seconds`."""
        with self._changed:
            self._changed.wait_for(lambda: self._reports or self._error, timeout=timeout_seconds)
            reports, self._reports = tuple(self._reports), []
            return Observation(worker_id=self._worker_id, reports=reports, status=self._status, error=self._error)

    def _run(self) -> None:
        try:
            worker = self._build()
            worker.load()
            while True:
                self._exchange(worker)
                reports = worker.step()
                with self._changed:
                    self._reports.extend(reports)
                    self._status = worker.status()
                    if reports:
                        self._changed.notify_all()
        except BaseException as error:
            last = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
            with self._changed:
                self._error = last
                self._changed.notify_all()

    def _exchange(self, worker: Worker) -> None:
        """Apply what came in, and wait for more while there is nothing to do."""
        with self._changed:
            while True:
                for job_id in self._released:
                    worker.release(job_id)
                worker.assign(self._assigned)
                self._released, self._assigned = [], []
                self._status = worker.status()
                if not worker.is_idle:
                    return
                self._changed.wait()
