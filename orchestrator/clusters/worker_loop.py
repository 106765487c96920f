"""The life of a worker in its own process: load, then step for as long as there is work, on its own thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from jobs.records import Assignment, Report, WorkerStatus
from orchestrator.clusters import End, Observation, WorkerEnd, end_of
from workers.worker import Worker

_LOOK_SECONDS = 0.05


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
        self._end: WorkerEnd | None = None
        self._worker: Worker | None = None
        self._is_stepping = False
        """While what a step has told is not handed over yet."""
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

    def preempt(self, message: str) -> None:
        """Save all jobs where they stand and end. Returns once both are done: in any phase within a micro-batch or so.

        Args:
            message: Why.
        """
        worker = self._worker
        reports = worker.preempt() if worker is not None else []
        with self._changed:
            # What an unfinished step has told comes first; one that has only begun to tokenise tells nothing more.
            while self._is_stepping and worker is not None and not worker.is_preparing:
                self._changed.wait(_LOOK_SECONDS)
            self._reports.extend(reports)
            self._status = worker.status() if worker is not None else self._status
            self._end = self._end or WorkerEnd(kind=End.PREEMPTED, message=message)
            self._changed.notify_all()

    def observe(self, timeout_seconds: float) -> Observation:
        """Everything since the last call; waits for something to say, at most `timeout_seconds`."""
        with self._changed:
            self._changed.wait_for(lambda: self._reports or self._end, timeout=timeout_seconds)
            reports, self._reports = tuple(self._reports), []
            return Observation(
                worker_id=self._worker_id,
                reports=reports,
                status=self._status,
                silent_seconds=self._worker.silent_seconds if self._worker is not None else 0.0,
                end=self._end,
            )

    def _run(self) -> None:
        try:
            worker = self._worker = self._build()
            worker.load()
            while self._exchange(worker):
                reports = worker.step()
                with self._changed:
                    self._is_stepping = False
                    self._reports.extend(reports)
                    self._status = worker.status()
                    self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._is_stepping = False
                self._end = self._end or end_of(error)
                self._changed.notify_all()

    def _exchange(self, worker: Worker) -> bool:
        """Apply what came in, and wait for more while there is nothing to do. False at the end."""
        with self._changed:
            while self._end is None:
                for job_id in self._released:
                    worker.release(job_id)
                worker.assign(self._assigned)
                self._released, self._assigned = [], []
                self._status = worker.status()
                if not worker.is_idle:
                    self._is_stepping = True
                    return True
                self._changed.wait()
            return False
