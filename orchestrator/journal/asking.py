"""What owners of jobs ask for: written down at once, and left to the scheduler to follow."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.records import Desired, Event
from orchestrator.journal import intent, submitting
from orchestrator.journal.opening import OpenJournal
from orchestrator.journal.records import Submission, SubmissionKey


class AskedJournal(OpenJournal):
    """Takes in jobs and what their owners want of them."""

    def submit(
        self,
        submissions: Sequence[Submission],
        *,
        at: float,
        message: str = "waiting to be placed",
        key: SubmissionKey | None = None,
    ) -> list[str]:
        """Take in jobs, all or none. Once this has returned they are never lost.

        Args:
            submissions: In the order in which they wait.
            at: Time of it.
            message: What they wait for.
            key: Where it was used before with the same body, nothing is submitted again.

        Returns:
            The jobs' ids, in order; with a key that was used before, those of the first time.

        Raises:
            JournalError: There is a job of that id, or the id is none.
            KeyConflict: The key was used with another body.
        """
        # Takes longer than the rest, and nobody has to wait for it.
        prepared = [submitting.prepared(one, at, message) for one in submissions]
        with self._writing() as connection:
            before = submitting.submitted_with(connection, key) if key is not None else None
            if before is not None:
                return before
            ids = submitting.insert_jobs(connection, prepared)
            if key is not None:
                submitting.remember(connection, key, ids, at)
            return ids

    def steer(
        self,
        job_id: str,
        *,
        desired: Desired | None = None,
        priority: int | None = None,
        queue: str | None = None,
        by: str | None,
        at: float,
    ) -> Event | None:
        """Keep what a job's owner wants of it. The scheduler makes it so; the job's state is as before.

        Args:
            job_id: The job.
            desired: Whether it shall run, pause or be cancelled; `None`: as before, as with the rest.
            priority: In comparison with other jobs.
            queue: To wait in.
            by: Name of who asks; `None` where nobody has to say it.
            at: Time of it.

        Returns:
            The event, which says who asked what; `None` where nothing changes.

        Raises:
            NoSuchJob: There is none.
            Unfit: It has ended, or is being cancelled, so that it cannot be done.
            JournalError: Priority or queue are out of range.
        """
        with self._writing() as connection:
            return intent.steer(connection, job_id, desired, priority, queue, by, at)

    def retry(self, job_id: str, *, by: str | None, at: float) -> Event | None:
        """Have a job that failed or was cancelled wait again, with all its restarts, to go on from its checkpoints.

        Returns:
            The event; `None` where the job has not ended, so that there is nothing to do.

        Raises:
            NoSuchJob: There is none.
            Unfit: It has succeeded, or is being cancelled.
        """
        with self._writing() as connection:
            return intent.retry(connection, job_id, by, at)
