"""The life of a worker in its own process: load, then step for as long as there is work, on its own thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from jobs.records import Assignment, JobState, Report, StateReport, WorkerStatus
from orchestrator.clusters import End, Observation, WorkerEnd, end_of, last_line, load
from orchestrator.clusters.outbox import Outbox
from workers.worker import Worker

_LOOK_SECONDS = 0.05


@dataclass
class _Commands:
    """What is to be done with jobs at the next step boundary."""

    released: list[str] = field(default_factory=list)
    assigned: list[Assignment] = field(default_factory=list)
    called_back: list[str] = field(default_factory=list)
    priorities: dict[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.released or self.assigned or self.called_back or self.priorities)

    def apply(self, worker: Worker) -> None:
        """On the thread that steps."""
        for job_id in self.released:
            worker.release(job_id)
        worker.assign(self.assigned)
        for job_id in self.called_back:
            worker.hand_back(job_id)
        for job_id, priority in self.priorities.items():
            worker.prioritise(job_id, priority)


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
        self._commands = _Commands(assigned=list(jobs))
        """Since the last step."""
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
            self._commands.assigned.extend(jobs)
            self._attempts.update({job.job_id: job.attempt for job in jobs})
            self._changed.notify_all()

    def release(self, job_id: str) -> None:
        """Drop a job at the next step boundary."""
        with self._changed:
            self._commands.released.append(job_id)
            # What it was assigned again before that boundary is gone with it.
            self._commands.assigned = [job for job in self._commands.assigned if job.job_id != job_id]
            self._attempts.pop(job_id, None)
            self._changed.notify_all()

    def hand_back(self, job_id: str) -> None:
        """Save a job at the next micro-batch boundary and drop it."""
        with self._changed:
            self._commands.called_back.append(job_id)
            self._changed.notify_all()

    def prioritise(self, job_id: str, priority: int) -> None:
        """Let a job count for more or less, from the next round on."""
        with self._changed:
            self._commands.priorities[job_id] = priority
            self._changed.notify_all()

    def preempt(self, message: str) -> None:
        """Save all jobs where they stand and end. Returns once both are done: in any phase within a micro-batch or so.

        Never raises: it runs in a thread that nobody waits for. What breaks it is what the worker ends with, after the
        saves that have finished.

        Args:
            message: Why.
        """
        worker, end = self._worker, WorkerEnd(kind=End.PREEMPTED, message=message)
        reports: list[Report] = []
        try:
            reports = worker.preempt() if worker is not None else []
        except BaseException as error:
            end = WorkerEnd(kind=End.LOST, message=f"{message}, but not all jobs could be saved: {last_line(error)}")
        if end.kind is End.LOST:
            reports = self._last_reports()
        status = worker.status() if worker is not None else None
        with self._changed:
            # What an unfinished step has told comes first; one that has only begun to tokenise tells nothing more.
            while self._is_stepping and worker is not None and not worker.is_preparing:
                self._changed.wait(_LOOK_SECONDS)
            self._outbox.add(reports)
            self._status = status or self._status
            self._end = self._end or end
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
            self._show(worker.status())
            while (commands := self._next_commands(worker)) is not None:
                commands.apply(worker)
                self._show(worker.status())
                reports = [] if worker.is_idle else worker.step()
                status = worker.status()
                with self._changed:
                    self._is_stepping = False
                    self._outbox.add(reports)
                    self._status = status
                    self._changed.notify_all()
        except BaseException as error:
            end = end_of(error)
            reports = self._last_reports()
            with self._changed:
                self._is_stepping = False
                if self._end is None:
                    self._outbox.add(reports)
                self._end = self._end or end
                self._changed.notify_all()

    def _show(self, status: WorkerStatus) -> None:
        with self._changed:
            self._status = status

    def _last_reports(self) -> list[Report]:
        """What a worker that has raised still has to tell, if it can."""
        with suppress(Exception):
            return self._worker.last_reports() if self._worker is not None else []
        return []

    def _next_commands(self, worker: Worker) -> _Commands | None:
        """What came in since the last step; waits for it while there is nothing to do. `None` at the end.

        Applied by the thread that steps, without the lock on which whoever asks this worker waits: another thread may
        be saving the jobs, and that takes as long as the disk does.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._end is not None or not worker.is_idle or self._commands)
            if self._end is not None:
                return None
            commands, self._commands = self._commands, _Commands()
            self._is_stepping = True
            return commands
