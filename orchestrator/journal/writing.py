"""The durable truth of an output directory: jobs, attempts, checkpoints, events, and who may still change them.

Every call is one transaction: it has happened, all of it, once it returns, and not at all where it raises. No clock is
read: times come from the caller and order nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import delete, insert, select, update

from jobs.records import CheckpointRecord, Event, JobProgress, JobState
from orchestrator.journal import history, pruning, statements
from orchestrator.journal.asking import AskedJournal
from orchestrator.journal.errors import JournalError
from orchestrator.journal.records import ArtifactRecord, MetricPoint
from orchestrator.journal.tables import artifacts, attempts, checkpoints, jobs


class Journal(AskedJournal):
    """Write access, for one process at a time; its threads may share it. Lives of jobs are the scheduler's to write."""

    def set_estimate(self, job_id: str, estimate: Mapping[str, Any]) -> None:
        """Keep what the check of a job has found out, as JSON.

        Raises:
            NoSuchJob: There is none.
        """
        content = statements.finite_json(estimate)
        with self._writing() as connection:
            statements.find(connection, job_id)
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(estimate=content))

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
        progress: JobProgress | None = None,
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
            progress: To be kept with it.

        Raises:
            StaleAttempt: It is not the current one, or has ended before.
        """
        with self._writing() as connection:
            statements.fence(connection, job_id, attempt)
            statements.close_attempt(connection, job_id, attempt, reason, at, charged)
            values = {} if progress is None else {"progress": statements.progress_json(progress)}
            return statements.change(connection, job_id, state, reason, message, at, values)

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

    def remove_ended(self, job_ids: Sequence[str], *, artifacts: bool = False) -> set[str]:
        """Let go of all that is known of jobs, before their files are deleted. Their ids are not given again.

        What is to be deleted stands in `undeleted` from then on, until `deleted` is told that it is.

        Args:
            job_ids: A few hundred at most.
            artifacts: Their adapters are to be deleted too.

        Returns:
            Those that went: the ones that have ended.
        """
        with self._writing() as connection:
            return pruning.remove(connection, job_ids, artifacts)

    def strip_ended(self, job_ids: Sequence[str]) -> set[str]:
        """Strike all checkpoints of jobs off, before their files are deleted. A retry begins from the start then.

        What is to be deleted stands in `undeleted`, likewise.

        Args:
            job_ids: A few hundred at most.

        Returns:
            Those whose checkpoints went: the ones that have ended.
        """
        with self._writing() as connection:
            return pruning.strip(connection, job_ids)

    def deleted(self, job_ids: Collection[str]) -> None:
        """Files of removed or stripped jobs are gone, and need not be deleted any more."""
        with self._writing() as connection:
            pruning.forget(connection, job_ids)

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
