"""Reading the journal: beside a running writer too, always one consistent moment of it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, Integer, cast, func, select
from sqlalchemy.exc import DatabaseError

from jobs.errors import LoraloomError
from jobs.records import CheckpointRecord, Event, JobState
from orchestrator.journal import finding, history, listing, overview, pruning, rows, statements, submitting
from orchestrator.journal.engine import open_engine
from orchestrator.journal.intent import INTENTS
from orchestrator.journal.migrations import STEPS, read_version
from orchestrator.journal.records import (
    ArtifactRecord,
    Attempt,
    EndedJob,
    JobFilter,
    JobSummary,
    JournaledJob,
    MetricKind,
    MetricPoint,
    Page,
    QuarantinedCheckpoint,
    Snapshot,
    SubmissionKey,
    UndeletedFiles,
)
from orchestrator.journal.tables import artifacts, attempts, checkpoints, events, jobs
from workers.publishing import FileEntry

_UNFINISHED = jobs.c.state.in_([state.value for state in JobState if not state.is_terminal])


class JournalReader:
    """Read access; needs no lock. The writer, `Journal`, is one too."""

    def __init__(self, path: Path) -> None:
        """Open a journal that exists.

        Raises:
            LoraloomError: There is none, or it is of another version.
        """
        self.path = path
        self._engine = open_engine(path, read_only=True)
        with self._reading() as connection:
            version = read_version(connection, str(path))
        if version != len(STEPS):
            self.close()
            raise LoraloomError(
                f"{path} is a journal of version {version}, and this Loraloom reads {len(STEPS)}; "
                "`loraloom run` and `serve` bring an older one up to date"
            )

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def jobs(self) -> list[JournaledJob]:
        """All jobs in order of submission, each with the checkpoints that it can go on from."""
        with self._reading() as connection:
            return rows.load_jobs(connection)

    def unfinished(self) -> Snapshot:
        """All jobs that have not ended: what a restart begins from. Those that have are not looked at."""
        with self._reading() as connection:
            return Snapshot(
                sequence=connection.execute(select(func.max(events.c.sequence))).scalar() or 0,
                jobs=tuple(rows.load_jobs(connection, _UNFINISHED)),
            )

    def begun(self) -> list[JournaledJob]:
        """The unfinished jobs that do not just wait: with an open attempt, paused, or before another try."""
        with self._reading() as connection:
            return rows.load_jobs(connection, _UNFINISHED & (jobs.c.state != JobState.PENDING.value))

    def changed_since(self, sequence: int, *, limit: int = 1000) -> Snapshot:
        """Jobs that were submitted, steered or retried after an event, as they are now.

        Where nothing has happened it costs one look at the end of the table of events, so it can be asked often.

        Args:
            sequence: Of a snapshot before.
            limit: Look at so many events at most. The snapshot is of the last one looked at: ask again until its
                sequence does not grow.
        """
        after = select(events.c.sequence, events.c.job_id, events.c.reason).where(events.c.sequence > sequence)
        with self._reading() as connection:
            found = connection.execute(after.order_by(events.c.sequence).limit(limit)).all()
            ids = sorted({event.job_id for event in found if event.reason in INTENTS})
            return Snapshot(
                sequence=found[-1].sequence if found else sequence,
                jobs=tuple(rows.load_jobs(connection, jobs.c.id.in_(ids))) if ids else (),
            )

    def job(self, id_or_name: str, *, queues: Collection[str] | None = None) -> JournaledJob:
        """The job of that id, or else the only one of that name.

        Args:
            id_or_name: Of the job.
            queues: All other jobs are as if they were not there; `None` for no bound, here as everywhere.

        Raises:
            NoSuchJob: There is neither.
            AmbiguousName: Several jobs bear the name; the error lists their ids.
        """
        with self._reading() as connection:
            return finding.job(connection, id_or_name, queues)

    def job_meant(
        self, id_or_name: str, states: Collection[JobState], *, queues: Collection[str] | None = None
    ) -> JournaledJob:
        """The job that an order is for, which makes sense in these states only.

        An id is a job's for ever, and the id of a name's first job is the name itself. So where that job is past the
        order and others of its name are not, nobody can tell which is meant, and nothing is done.

        Raises:
            NoSuchJob: There is none of that id or name.
            AmbiguousName: It may be any of several; the error lists their ids.
        """
        with self._reading() as connection:
            return finding.job_meant(connection, id_or_name, states, queues)

    def page(self, which: JobFilter, *, after: str | None = None, limit: int = 50) -> Page[JobSummary]:
        """A part of a list of jobs, filtered and sorted by the database.

        Args:
            which: The list.
            after: The cursor that the part before ended with. It names a place between two jobs, so that none is
                shown twice or left out because others come or go.
            limit: Jobs at most, 1 to 1,000.

        Raises:
            BadCursor: `after` is not of this list.
            ValueError: `limit` is out of range.
        """
        with self._reading() as connection:
            return listing.page(connection, which, after, limit)

    def sweep(self, sweep_id: str, *, queues: Collection[str] | None = None) -> list[JournaledJob]:
        """All jobs of a sweep, in order of submission."""
        with self._reading() as connection:
            return rows.load_jobs(connection, (jobs.c.sweep_id == sweep_id) & rows.in_queues(queues))

    def sweeps(self, *, limit: int, queues: Collection[str] | None = None) -> list[overview.SweepSummary]:
        """The sweeps that were submitted last, the newest first, at most so many."""
        with self._reading() as connection:
            return overview.sweeps(connection, limit, queues)

    def spans(self, *, since: float, limit: int, queues: Collection[str] | None = None) -> list[overview.Span]:
        """Who was on which worker since a moment (seconds since the epoch), the newest first, at most so many."""
        with self._reading() as connection:
            return overview.spans(connection, since, limit, queues)

    def ids_in(self, job_ids: Collection[str], queues: Collection[str]) -> frozenset[str]:
        """Those of some jobs that are in these queues."""
        query = select(jobs.c.id).where(jobs.c.id.in_(job_ids), rows.in_queues(queues))
        with self._reading() as connection:
            return frozenset(connection.execute(query).scalars())

    def ended(self) -> list[EndedJob]:
        """All jobs that have ended, those that ended first before others."""
        with self._reading() as connection:
            return pruning.ended(connection)

    def undeleted(self) -> list[UndeletedFiles]:
        """What jobs that were pruned may have left behind, because somebody died before it was deleted."""
        with self._reading() as connection:
            return pruning.undeleted(connection)

    def last_sequence(self) -> int:
        """Sequence of the last event; 0 before the first."""
        with self._reading() as connection:
            return connection.execute(select(func.max(events.c.sequence))).scalar() or 0

    def counts_by_state_and_queue(self, *, queues: Collection[str] | None = None) -> dict[tuple[JobState, str], int]:
        """Numbers of jobs. What there is none of is left out."""
        with self._reading() as connection:
            return overview.counts(connection, queues)

    def num_submitted(self) -> int:
        """Position of the last job in the order of submission; 0 before the first."""
        with self._reading() as connection:
            return connection.execute(select(func.max(jobs.c.submitted))).scalar() or 0

    def submission(self, key: SubmissionKey) -> list[str] | None:
        """Ids of the jobs that were submitted with a key; `None` where it was not used yet.

        Raises:
            KeyConflict: It was used with another body.
        """
        with self._reading() as connection:
            return submitting.submitted_with(connection, key)

    def free_id(self, name: str) -> str:
        """The id that the next job of a name gets: the name, or the name with a number, and never one used before."""
        with self._reading() as connection:
            return submitting.free_id(connection, name)

    def metrics(
        self, job_id: str, *, kind: MetricKind | None = None, after_step: int = -1, limit: int | None = None
    ) -> tuple[MetricPoint, ...]:
        """What was measured, by step; thinned as `history` says.

        Args:
            job_id: Of which job.
            kind: Of training or of evaluations only.
            after_step: Only those of later steps.
            limit: At most so many, the earliest; one more rather than half a step, so that asking again after the
                last step leaves nothing out.
        """
        with self._reading() as connection:
            return history.read(connection, job_id, kind, after_step, limit)

    def artifact(self, job_id: str) -> ArtifactRecord | None:
        """What a job has published; `None` where it has not, or did before artifacts were entered here."""
        query = select(artifacts).where(artifacts.c.job_id == job_id)
        with self._reading() as connection:
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            return None
        files = {name: FileEntry(**entry) for name, entry in json.loads(row["files"]).items()}
        return ArtifactRecord(**{**row, "files": files})

    def checkpoints(self, job_id: str) -> tuple[CheckpointRecord, ...]:
        """Those that the job can go on from, newest first."""
        query = select(checkpoints).where(checkpoints.c.job_id == job_id, checkpoints.c.quarantined.is_(None))
        with self._reading() as connection:
            found = connection.execute(query.order_by(checkpoints.c.sequence.desc())).mappings()
            return tuple(rows.checkpoint(row) for row in found)

    def quarantined(self, job_id: str) -> tuple[QuarantinedCheckpoint, ...]:
        """Checkpoints of the job that were found bad, oldest first."""
        query = select(checkpoints).where(checkpoints.c.job_id == job_id, checkpoints.c.quarantined.is_not(None))
        with self._reading() as connection:
            found = connection.execute(query.order_by(checkpoints.c.sequence)).mappings()
            return tuple(
                QuarantinedCheckpoint(record=rows.checkpoint(row), problem=row["quarantined"]) for row in found
            )

    def attempts(self, job_id: str) -> tuple[Attempt, ...]:
        """All tries at a job, in order."""
        with self._reading() as connection:
            found = connection.execute(
                select(attempts).where(attempts.c.job_id == job_id).order_by(attempts.c.number)
            ).mappings()
            return tuple(Attempt(**row) for row in found)

    def num_workers_started(self) -> int:
        """So many that the id `w<number>` of no earlier one is given again."""
        number = cast(func.substr(attempts.c.worker_id, 2), Integer)
        with self._reading() as connection:
            last = connection.execute(select(func.max(number)).where(attempts.c.worker_id.like("w%"))).scalar()
            return 0 if last is None else last + 1

    def events(
        self,
        job_id: str | None = None,
        *,
        after: int = 0,
        limit: int | None = None,
        queues: Collection[str] | None = None,
    ) -> tuple[Event, ...]:
        """What happened, in order.

        Args:
            job_id: Of one job only.
            after: Only those whose sequence number is higher, for following along.
            limit: At most so many, the earliest.
            queues: Of jobs that are there now.
        """
        query = select(events).where(events.c.sequence > after).order_by(events.c.sequence)
        if job_id is not None:
            query = query.where(events.c.job_id == job_id)
        if queues is not None:
            query = query.where(events.c.job_id.in_(select(jobs.c.id).where(rows.in_queues(queues))))
        if limit is not None:
            query = query.limit(limit)
        with self._reading() as connection:
            return tuple(rows.event(row) for row in connection.execute(query).mappings())

    def setting(self, key: str) -> Any:
        """The JSON value under a key; `None` if there is none."""
        with self._reading() as connection:
            return statements.setting(connection, key)

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except DatabaseError as error:
            raise LoraloomError(f"the journal {self.path} cannot be read: {error.orig}") from error
