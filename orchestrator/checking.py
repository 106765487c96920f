"""Looks into the bases and the data of submitted jobs, in a process of its own.

That process loads torch and transformers, renders the users' chat templates and reads their files. The service that
asks it does none of that: it stays small for months, and what hangs or dies there is one job's failure.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from jobs.file_rules import FileRules
from jobs.spec import JobSpec
from workers.estimate import Estimate

TIMEOUT_SECONDS = 600.0
"""For one job. A large data set is tokenised at about a million tokens a second."""
_IDLE_SECONDS = 60.0
"""The process holds what it read last; with nothing to do for so long it is ended."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What came of a job's check."""

    job_id: str
    estimate: Estimate | None
    problems: tuple[str, ...] = ()
    """A line each; empty where there is an estimate."""
    is_passing: bool = False
    """Nothing is wrong with the job: what it needs could not be had just now, and may be the next time."""


class Checker:
    """Checks jobs one after another. Never waits: whoever owns it calls `poll` now and then."""

    def __init__(
        self,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        file_rules: FileRules = FileRules(),  # noqa: B008
        working_dir: Path | None = None,
        body: Callable[[Connection], None] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is started before the first job comes.

        Args:
            timeout_seconds: A job whose check takes longer fails it.
            file_rules: Under which the files of jobs are read.
            working_dir: An empty folder that the process works in; this one's where `None`.
            body: Runs in the process; answers each (job id, spec) that it receives.
            now: Seconds of a clock that never goes back.
        """
        self._timeout_seconds = timeout_seconds
        self._body = body or partial(check_jobs, file_rules=file_rules, working_dir=working_dir)
        self._now = now
        self._waiting: deque[tuple[str, JobSpec]] = deque()
        self._checking: str | None = None
        self._since = 0.0
        """When the check under way, or idleness, began."""
        self._process: Any = None
        self._connection: Connection | None = None

    def submit(self, job_id: str, spec: JobSpec) -> None:
        """Check a job after those before it."""
        self._waiting.append((job_id, spec))

    def forget(self, job_id: str) -> None:
        """Do not check a job whose turn has not come."""
        self._waiting = deque(one for one in self._waiting if one[0] != job_id)

    def poll(self) -> list[Checked]:
        """What has been found since the last call; begins the next check."""
        found: list[Checked] = []
        while True:
            if self._checking is not None:
                answer = self._answer(self._checking)
                if answer is None:
                    return found
                found.append(answer)
                self._checking, self._since = None, self._now()
            if not self._waiting:
                if self._process is not None and self._now() - self._since > _IDLE_SECONDS:
                    self.close()
                return found
            self._begin(*self._waiting.popleft())

    def close(self) -> None:
        """End the process. What was not checked yet is forgotten by it, not by this object."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            assert self._connection is not None
            self._connection.close()
        self._process = self._connection = None

    def _begin(self, job_id: str, spec: JobSpec) -> None:
        if self._process is None or not self._process.is_alive():
            self.close()
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=self._body, args=(theirs,), name="check", daemon=True)
            self._process.start()
            theirs.close()
        assert self._connection is not None
        self._checking, self._since = job_id, self._now()
        self._connection.send((job_id, spec))

    def _answer(self, job_id: str) -> Checked | None:
        assert self._connection is not None
        try:
            if self._connection.poll(0):
                answer: Checked = self._connection.recv()
                return answer
        except (EOFError, OSError):
            code = self._process.exitcode if self._process is not None else None
            self.close()
            return _failed(job_id, f"the process that looked into its base and data died (exit code {code})")
        if self._now() - self._since > self._timeout_seconds:
            self.close()
            return _failed(
                job_id,
                f"looking into its base and data took more than {self._timeout_seconds:g} seconds; a chat template or "
                "a data file may be to blame",
            )
        return None


def check_jobs(
    connection: Connection,
    *,
    file_rules: FileRules = FileRules(),  # noqa: B008
    working_dir: Path | None = None,
) -> None:
    """Answer each (job id, spec) with a `Checked`, until the other side is gone.

    Args:
        connection: To whom asks.
        file_rules: Under which the files of jobs are read.
        working_dir: An empty folder to work in, which is made; as it is where `None`.
    """
    from orchestrator.clusters.host import quiet_libraries
    from workers.confinement import within, work_in_empty_folder
    from workers.passing import is_passing
    from workers.preflight import Preflight

    # Of Ctrl-C in a terminal the service hears as well, and ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    quiet_libraries()
    if working_dir is not None:
        work_in_empty_folder(working_dir)
    preflight = Preflight()
    # Whoever asks may be killed at any moment.
    with suppress(EOFError, ConnectionError), within(file_rules):
        while True:
            job_id, spec = connection.recv()
            try:
                estimate, problems = preflight.check(spec)
                answer = Checked(
                    job_id=job_id,
                    estimate=estimate,
                    problems=tuple(str(one) for one in problems),
                    is_passing=bool(problems) and all(one.is_passing for one in problems),
                )
            except Exception as error:  # whatever a library raises over somebody's files is told to that job's owner
                answer = _failed(job_id, f"{type(error).__name__}: {error}", is_passing=is_passing(error))
            connection.send(answer)


def _failed(job_id: str, problem: str, *, is_passing: bool = False) -> Checked:
    return Checked(job_id=job_id, estimate=None, problems=(problem,), is_passing=is_passing)
