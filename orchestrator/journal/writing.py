"""The durable truth of an output directory: jobs, attempts, checkpoints, events, and who may still change them.

Every call is one transaction: it has happened, all of it, once it returns, and not at all where it raises. No clock is
read: times come from the caller and order nothing.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import DatabaseError

from jobs.checkpoints import DiskFullError
from jobs.errors import LoraloomError
from jobs.records import CheckpointRecord, Desired, Event, JobProgress, JobState
from orchestrator.journal import history, intent, pruning, statements, submitting
from orchestrator.journal.engine import open_engine
from orchestrator.journal.errors import JournalError
from orchestrator.journal.lock import ProcessLock
from orchestrator.journal.migrations import STEPS, Step, migrate
from orchestrator.journal.reading import JournalReader
from orchestrator.journal.records import ArtifactRecord, MetricPoint, Submission, SubmissionKey
from orchestrator.journal.tables import artifacts, attempts, checkpoints, jobs, settings
from workers.publishing import free_bytes, fsync


class Journal(JournalReader):
    """Write access, for one process at a time; its threads may share it."""

    def __init__(self, path: Path, *, steps: Sequence[Step] = STEPS) -> None:
        """Open a journal, or begin one; its folder must exist.

        Args:
            path: The database. A lock file stands beside it.
            steps: How files of older versions are brought up to date.

        Raises:
            JournalLocked: Another process has it open for writing.
            LoraloomError: It is damaged, of a later version, or on a disk that cannot hold one.
            DiskFullError: No room.
        """
        self.path = path
        # The database would have them wait as well, but asks again only now and then, and in no order.
        self._turn = threading.Lock()
        try:
            self._lock = ProcessLock(path.with_name(f"{path.name}.lock"))
        except OSError as error:
            raise LoraloomError(f"the journal {path} cannot be opened: {error.strerror}") from error
        try:
            self._engine = open_engine(path)
            with self._writing() as connection:
                migrate(connection, str(path), steps)
            # The name of a new file has to be as durable as what is in it.
            fsync(path.parent)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file and let the next process have it."""
        if hasattr(self, "_engine"):
            self._engine.dispose()
        self._lock.release()

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

    def set_estimate(self, job_id: str, estimate: Mapping[str, Any]) -> None:
        """Keep what the check of a job has found out, as JSON.

        Raises:
            NoSuchJob: There is none.
        """
        content = statements.finite_json(estimate)
        with self._writing() as connection:
            statements.find(connection, job_id)
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(estimate=content))

    def record_metrics(self, points: Sequence[MetricPoint]) -> None:
        """Keep what was measured, of any number of jobs, thinned as `history` says. Doing it twice is doing it once.

        Raises:
            NoSuchJob: There is no such job. Nothing was kept.
        """
        with self._writing() as connection:
            history.record(connection, points)

    def cut_metrics(self, job_id: str, *, step: int, evaluated_at: int) -> None:
        """Let go of what was measured after the checkpoint that a job goes on from: it did not happen.

        Args:
            job_id: The job.
            step: Of the checkpoint.
            evaluated_at: Step of the last evaluation that had finished there; -1 for none.
        """
        with self._writing() as connection:
            history.cut(connection, job_id, "train", step)
            history.cut(connection, job_id, "eval", evaluated_at)

    def commit_artifact(
        self,
        record: ArtifactRecord,
        *,
        message: str,
        at: float,
        by_worker: bool = True,
        reason: str = "finished",
        progress: JobProgress | None = None,
    ) -> Event:
        """Make a published adapter the job's, which has SUCCEEDED with it: both or neither.

        Args:
            record: The adapter.
            message: For the event.
            at: Time of it.
            by_worker: On the word of its attempt, which is heard only while it is the current one. False: on the
                scheduler's own, which has found it whole after the attempt was over.
            reason: For the event.
            progress: To be kept with it.

        Raises:
            StaleAttempt: The attempt may not speak for the job any more.
            JournalError: The job has ended.
        """
        with self._writing() as connection:
            event = statements.advance(
                connection,
                record.job_id,
                attempt=record.attempt if by_worker else None,
                state=JobState.SUCCEEDED,
                reason=reason,
                message=message,
                at=at,
                artifact=record.uri,
                progress=progress,
            )
            files = json.dumps({name: asdict(one) for name, one in record.files.items()})
            connection.execute(insert(artifacts).values({**vars(record), "files": files}))
            return event

    def start_attempt(
        self,
        job_id: str,
        *,
        worker_id: str,
        reason: str,
        message: str,
        at: float,
        state: JobState = JobState.STARTING,
        node: str | None = None,
    ) -> tuple[int, Event]:
        """Hand a job to a worker. From here on nobody but this attempt can commit anything for the job.

        Returns:
            The attempt's number, which is its licence, and the event.

        Raises:
            JournalError: The job has ended, or its attempt before this one has not.
        """
        with self._writing() as connection:
            job = statements.find(connection, job_id)
            statements.refuse_after_end(job)
            if statements.is_open(connection, job_id, job["attempt"]):
                raise JournalError(f"attempt {job['attempt']} of job {job_id} has not ended; end it before the next")
            number = job["attempt"] + 1
            connection.execute(
                insert(attempts).values(
                    job_id=job_id,
                    number=number,
                    worker_id=worker_id,
                    started_unix_seconds=at,
                    is_open=True,
                    charged=False,
                    node=node,
                )
            )
            values = {"attempt": number, "worker_id": worker_id}
            return number, statements.change(connection, job_id, state, reason, message, at, values)

    def end_attempt(
        self,
        job_id: str,
        *,
        attempt: int,
        state: JobState,
        reason: str,
        message: str,
        at: float,
        charged: bool = False,
    ) -> Event:
        """Take a job back from an attempt, to be tried again or not. The attempt can commit nothing any more.

        Args:
            job_id: The job.
            attempt: The one to end.
            state: What the job is now: PENDING where it is to be tried again.
            reason: Code of why, also kept with the attempt.
            message: The same for people.
            at: Time of it.
            charged: Whether it counts against the job's restarts.

        Raises:
            StaleAttempt: It is not the current one, or has ended before.
        """
        with self._writing() as connection:
            statements.fence(connection, job_id, attempt)
            statements.close_attempt(connection, job_id, attempt, reason, at, charged)
            return statements.change(connection, job_id, state, reason, message, at)

    def change(
        self,
        job_id: str,
        *,
        attempt: int | None,
        state: JobState,
        reason: str,
        message: str,
        at: float,
        charged: bool = False,
        artifact: str | None = None,
        progress: JobProgress | None = None,
    ) -> Event:
        """Change a job's state. A state that ends the job ends its attempt too.

        Args:
            job_id: The job.
            attempt: On whose word: a worker's, which is heard only while its attempt is the current one; `None` for the
                scheduler's own.
            state: The new one.
            reason: Code of why.
            message: The same for people.
            at: Time of it.
            charged: With a state that ends the job: whether its attempt counts against its restarts.
            artifact: Where the adapter was published. It is so only if this call returns.
            progress: To be kept with it.

        Raises:
            StaleAttempt: The attempt may not speak for the job any more.
            JournalError: The job has ended.
        """
        with self._writing() as connection:
            return statements.advance(
                connection,
                job_id,
                attempt=attempt,
                state=state,
                reason=reason,
                message=message,
                at=at,
                charged=charged,
                artifact=artifact,
                progress=progress,
            )

    def commit_checkpoint(self, record: CheckpointRecord, *, progress: JobProgress | None = None) -> None:
        """Make a published checkpoint the one to go on from. Doing it twice is doing it once.

        Raises:
            StaleAttempt: It was written by an attempt that may not speak for the job any more.
            JournalError: The attempt has committed a later one already, or another one under this name.
        """
        with self._writing() as connection:
            statements.fence(connection, record.job_id, record.attempt)
            mine = (checkpoints.c.job_id == record.job_id) & (checkpoints.c.attempt == record.attempt)
            for row in connection.execute(select(checkpoints).where(mine)).mappings():
                if row["folder"] == record.folder and row["manifest_sha256"] == record.manifest_sha256:
                    return
                if (row["step"], row["micro_batch"]) >= (record.step, record.micro_batch):
                    raise JournalError(
                        f"attempt {record.attempt} of job {record.job_id} has committed {row['folder']}; "
                        f"{record.folder} cannot follow it"
                    )
            connection.execute(insert(checkpoints).values(**asdict(record)))
            if progress is not None:
                statements.set_progress(connection, record.job_id, progress)

    def forget_checkpoints(self, job_id: str, folders: Collection[str]) -> None:
        """Strike superseded checkpoints off, before their files are deleted: what is listed must be there.

        Raises:
            JournalError: The newest one to go on from is among them.
        """
        of_job = checkpoints.c.job_id == job_id
        with self._writing() as connection:
            newest = connection.execute(
                select(checkpoints.c.folder)
                .where(of_job, checkpoints.c.quarantined.is_(None))
                .order_by(checkpoints.c.sequence.desc())
                .limit(1)
            ).scalar()
            if newest in folders:
                raise JournalError(f"{newest} is the last good checkpoint of job {job_id} and must be kept")
            connection.execute(delete(checkpoints).where(of_job, checkpoints.c.folder.in_(list(folders))))

    def remove_ended(self, job_ids: Sequence[str]) -> set[str]:
        """Let go of all that is known of jobs, before their files are deleted. Their ids are not given again.

        Args:
            job_ids: A few hundred at most.

        Returns:
            Those that went: the ones that have ended.
        """
        with self._writing() as connection:
            return pruning.remove(connection, job_ids)

    def strip_ended(self, job_ids: Sequence[str]) -> set[str]:
        """Strike all checkpoints of jobs off, before their files are deleted. A retry begins from the start then.

        Args:
            job_ids: A few hundred at most.

        Returns:
            Those whose checkpoints went: the ones that have ended.
        """
        with self._writing() as connection:
            return pruning.strip(connection, job_ids)

    def quarantine_checkpoint(self, record: CheckpointRecord, *, problem: str, at: float) -> Event | None:
        """Never go on from a checkpoint again, and say so among the job's events.

        Returns:
            The event; `None` where it was struck off or quarantined before.
        """
        this = (checkpoints.c.job_id == record.job_id) & (checkpoints.c.folder == record.folder)
        with self._writing() as connection:
            changed = connection.execute(
                update(checkpoints).where(this, checkpoints.c.quarantined.is_(None)).values(quarantined=problem)
            )
            if changed.rowcount == 0:
                return None
            state = JobState(statements.find(connection, record.job_id)["state"])
            return statements.event(connection, record.job_id, state, "checkpoint_quarantined", problem, at)

    def record_progress(self, progress: Mapping[str, JobProgress]) -> None:
        """Keep how far jobs are, by id, for show after a restart. Worth one transaction every few seconds, not more."""
        with self._writing() as connection:
            for job_id, one in progress.items():
                statements.set_progress(connection, job_id, one)

    def tell_waiting(self, reasons: Mapping[str, str]) -> None:
        """Say why jobs wait, by id, for show. No event: nothing has happened. Of one that waits no more, nothing."""
        with self._writing() as connection:
            for job_id, reason in reasons.items():
                waits = (jobs.c.id == job_id) & (jobs.c.state == JobState.PENDING.value)
                connection.execute(update(jobs).where(waits).values(message=reason))

    def put_setting(self, key: str, value: Any) -> None:
        """Set a JSON value."""
        with self._writing() as connection:
            connection.execute(delete(settings).where(settings.c.key == key))
            connection.execute(insert(settings).values(key=key, value=json.dumps(value)))

    def fix_setting(self, key: str, value: Any) -> Any:
        """Set a JSON value unless there is one, for what must not change over the life of an output directory.

        Returns:
            The value that holds from now on.
        """
        with self._writing() as connection:
            found = connection.execute(select(settings.c.value).where(settings.c.key == key)).scalar()
            if found is not None:
                return json.loads(found)
            text = json.dumps(value)
            connection.execute(insert(settings).values(key=key, value=text))
            return json.loads(text)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        try:
            with self._turn, self._engine.execution_options(writes=True).begin() as connection:
                yield connection
        except DatabaseError as error:
            if isinstance(error.orig, sqlite3.Error) and error.orig.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise DiskFullError(self.path, needed_bytes=None, free_bytes=free_bytes(self.path)) from error
            raise LoraloomError(f"the journal {self.path} cannot be written: {error.orig}") from error
