"""The jobs of a worker, and what is kept for each of them while it is here."""

from __future__ import annotations

import time
from collections import deque

from jobs.ledger import Ledger
from jobs.records import Assignment
from workers.caught_error import CaughtError
from workers.job_run import JobRun


class JobTable:
    """Who waits, who runs, and who is about to leave. By job id throughout."""

    def __init__(self) -> None:
        self.waiting: deque[Assignment] = deque()
        self.runs: dict[str, JobRun] = {}
        """In order of admission."""
        self.paused: dict[str, str] = {}
        """Jobs that wait for room or for the store → the reason that they were PAUSED with."""
        self.failing: dict[str, CaughtError] = {}
        """Jobs that end with an error as soon as the save that is under way has come to its end."""
        self.handing_back: set[str] = set()
        """Jobs that stand still and leave as soon as they are saved."""
        self.priorities: dict[str, int] = {}
        """Where they are not as in the specs."""
        self.isolated: set[str] = set()
        """Jobs that run in packs of their own, whatever their specs say."""
        self.ledgers: dict[str, Ledger] = {}
        """What the running jobs have cost before."""

    def __contains__(self, job_id: str) -> bool:
        return job_id in self.runs or any(assignment.job_id == job_id for assignment in self.waiting)

    def add(self, assignment: Assignment) -> None:
        """Let a job wait to be admitted."""
        if assignment.priority is not None:
            self.priorities[assignment.job_id] = assignment.priority
        if assignment.is_isolated:
            self.isolated.add(assignment.job_id)
        self.waiting.append(assignment)

    def admit(self, run: JobRun) -> None:
        """Let the job that waits in front run."""
        assignment = self.waiting.popleft()
        self.runs[run.job_id] = run
        self.ledgers[run.job_id] = assignment.ledger.goes_on(time.time())

    def drop(self, job_id: str) -> JobRun | None:
        """Forget a job, and return its run if it has one."""
        self.waiting = deque(assignment for assignment in self.waiting if assignment.job_id != job_id)
        for kept in (self.paused, self.failing, self.priorities, self.ledgers):
            kept.pop(job_id, None)
        self.handing_back.discard(job_id)
        self.isolated.discard(job_id)
        return self.runs.pop(job_id, None)
