"""Finished adapters on their way to their places, for as long as it takes: a store that is away is nobody's fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jobs.errors import StoreError, StoreUnavailableError
from jobs.records import Job, JobState, StateReport
from orchestrator import retries
from orchestrator.lives import Lives
from orchestrator.roster import Roster, Unpublished

Failed = tuple[Job, Exception]


@dataclass
class _Outage:
    """The store could not be reached; it is one store, so all wait for it together."""

    num_tries: int
    retry_at: float


class Publications:
    """Publishes what jobs have made. What the store does not take now is kept, in the journal too, and tried again."""

    def __init__(
        self, roster: Roster, lives: Lives, publish: Callable[[Job, str], str], now: Callable[[], float]
    ) -> None:
        self._roster = roster
        self._lives = lives
        self._publish = publish
        self._now = now
        self._outage: _Outage | None = None

    def publish(self, job: Job, report: StateReport, staged: str) -> None:
        """Publish what a job has staged, and let the job SUCCEED; or keep it PAUSED until the store can be reached.

        Raises:
            ValueError: It is not whole, or not of this job and attempt.
            OSError: The disk refuses.
            StoreError: The store refuses, and would the next time.
        """
        one = Unpublished(attempt=job.attempt, staged=staged, reason=report.reason, message=report.message)
        if self._outage is not None:
            self._keep(job, one, "the store could not be reached a moment ago")
            return
        try:
            self._finish(job, one)
        except StoreUnavailableError as error:
            self._keep(job, one, str(error))
            self._put_off()

    def retry(self) -> list[Failed]:
        """Try again where it is time to.

        Returns:
            Jobs whose adapter cannot be published for a reason of their own, with the reason.
        """
        failed: list[Failed] = []
        if self._outage is not None and self._now() < self._outage.retry_at:
            return failed
        for job_id, one in list(self._roster.unpublished.items()):
            job = self._roster.jobs.get(job_id)
            if job is None or job.state.is_terminal or job.attempt != one.attempt:
                self._forget(job_id)
                continue
            try:
                self._finish(job, one)
            except StoreUnavailableError:
                self._put_off()
                return failed
            except (OSError, ValueError, StoreError) as error:
                failed.append((job, error))
            self._forget(job_id)
        self._outage = None
        return failed

    def _finish(self, job: Job, one: Unpublished) -> None:
        artifact = self._publish(job, one.staged)
        if job.state is JobState.PAUSED:
            self._lives.change(job, JobState.RUNNING, "store", "the store can be reached again")
        # Between the rename and this a crash leaves an artifact that nobody confirmed; the next run verifies it.
        self._lives.succeed(job, one.reason, f"{one.message}; artifact in {artifact}", artifact)

    def _keep(self, job: Job, one: Unpublished, problem: str) -> None:
        self._write({**self._roster.unpublished, job.id: one})
        message = f"{one.message}; its adapter waits to be published, which is tried until it works: {problem}"
        self._lives.change(job, JobState.PAUSED, "store", message)

    def _forget(self, job_id: str) -> None:
        self._write({other: one for other, one in self._roster.unpublished.items() if other != job_id})

    def _write(self, unpublished: Mapping[str, Unpublished]) -> None:
        self._lives.keep_unpublished(unpublished)
        self._roster.unpublished = dict(unpublished)

    def _put_off(self) -> None:
        tries = self._outage.num_tries + 1 if self._outage is not None else 1
        self._outage = _Outage(tries, self._now() + retries.delay_seconds(tries))
