"""The life of a worker in its own process: load, then step for as long as there is work, on its own thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from jobs.records import Assignment, JobState, StateReport, WorkerStatus
from orchestrator.clusters import End, Observation, WorkerEnd, end_of, load
from orchestrator.clusters.outbox import Outbox
from workers.worker import Worker

_LOOK_SECONDS = 0.05


class WorkerLoop:
    """Runs a worker without being called for each step, until its process is ended. Callable from any thread.

    It needs nobody: while no scheduler asks, it trains on and keeps what it has to tell.
    """

    def __init__(
        self,
        worker_id: str,
        build: Callable[[], Worker],
        jobs: Sequence[Assignment],
        *,
        outbox: Outbox | None = None,
    ) -> None:
        self._worker_id = worker_id
        self._build = build
        self._changed = threading.Condition()
        self._assigned: list[Assignment] = list(jobs)
        self._released: list[str] = []
        self._called_back: list[str] = []
        self._priorities: dict[str, int] = {}
        """Changed since the last step."""
        self._attempts = {job.job_id: job.attempt for job in jobs}
        self._outbox = outbox or Outbox()
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
            self._attempts.update({job.job_id: job.attempt for job in jobs})
            self._changed.notify_all()

    def release(self, job_id: str) -> None:
        """Drop a job at the next step boundary."""
        with self._changed:
            self._released.append(job_id)
            # What it was assigned again before that boundary is gone with it.
            self._assigned = [job for job in self._assigned if job.job_id != job_id]
            self._attempts.pop(job_id, None)
            self._changed.notify_all()

    def hand_back(self, job_id: str) -> None:
        """Save a job at the next micro-batch boundary and drop it."""
        with self._changed:
            self._called_back.append(job_id)
            self._changed.notify_all()

    def prioritise(self, job_id: str, priority: int) -> None:
        """Let a job count for more or less, from the next round on."""
        with self._changed:
            self._priorities[job_id] = priority
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
            self._outbox.add(reports)
            self._status = worker.status() if worker is not None else self._status
            self._end = self._end or WorkerEnd(kind=End.PREEMPTED, message=message)
            self._changed.notify_all()

    @property
    def attempts(self) -> dict[str, int]:
        """By job id: what was handed to this worker, and has not both ended and been acknowledged."""
        with self._changed:
            return dict(self._attempts)

    def observe(self, timeout_seconds: float, *, acknowledged: int = 0, after: int | None = None) -> Observation:
        """What there is to tell; waits for something new, at most `timeout_seconds`.

        Args:
            timeout_seconds: How long.
            acknowledged: Reports up to this number were written down, and are dropped. All others are kept, and told
                again to whoever asks for them.
            after: Only reports with a higher number; where `None`, all that are not acknowledged.
        """
        with self._changed:
            for report in self._outbox.acknowledge(acknowledged):
                # A job that was handed back is this worker's no more, as one that has ended.
                is_end = isinstance(report, StateReport) and (
                    report.state.is_terminal or report.state is JobState.PENDING
                )
                if is_end and self._attempts.get(report.job_id) == report.attempt:
                    del self._attempts[report.job_id]
            heard = acknowledged if after is None else after
            self._changed.wait_for(lambda: self._outbox.has_after(heard) or self._end, timeout=timeout_seconds)
            reports = self._outbox.after(heard)
            has_told_all = self._outbox.is_last(reports[-1].number if reports else heard)
            return Observation(
                worker_id=self._worker_id,
                reports=reports,
                status=self._status,
                silent_seconds=self._worker.silent_seconds if self._worker is not None else 0.0,
                end=self._end if has_told_all else None,
            )

    def _run(self) -> None:
        try:
            worker = self._worker = self._build()
            load(worker)
            while self._exchange(worker):
                reports = worker.step()
                with self._changed:
                    self._is_stepping = False
                    self._outbox.add(reports)
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
                for job_id in self._called_back:
                    worker.hand_back(job_id)
                for job_id, priority in self._priorities.items():
                    worker.prioritise(job_id, priority)
                self._released, self._assigned, self._called_back, self._priorities = [], [], [], {}
                self._status = worker.status()
                if not worker.is_idle:
                    self._is_stepping = True
                    return True
                self._changed.wait()
            return False
