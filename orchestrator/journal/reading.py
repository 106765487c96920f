"""Reading the journal: beside a running writer too, always one consistent moment of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from sqlalchemy import URL, Connection, Engine, Integer, RowMapping, cast, create_engine, event, func, select
from sqlalchemy.exc import DatabaseError

from jobs.errors import LoraloomError
from jobs.records import CheckpointRecord, Event, JobProgress, JobState
from orchestrator.journal.migrations import STEPS, read_version
from orchestrator.journal.records import Attempt, JournaledJob, QuarantinedCheckpoint
from orchestrator.journal.tables import attempts, checkpoints, events, jobs, settings

_BUSY_MILLISECONDS = 10_000
"""How long to wait for another connection's transaction: ours take milliseconds, a backup of the file takes longer."""


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
                "`loraloom run` brings an older one up to date"
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
            usable: dict[str, list[CheckpointRecord]] = {}
            query = select(checkpoints).where(checkpoints.c.quarantined.is_(None))
            for row in connection.execute(query.order_by(checkpoints.c.sequence.desc())).mappings():
                usable.setdefault(row["job_id"], []).append(_checkpoint(row))
            count = select(attempts.c.job_id, func.count()).where(attempts.c.charged).group_by(attempts.c.job_id)
            charged = {row[0]: row[1] for row in connection.execute(count)}
            latest = (jobs.c.id == attempts.c.job_id) & (jobs.c.attempt == attempts.c.number)
            rows = connection.execute(
                select(jobs, attempts.c.is_open).join(attempts, latest, isouter=True).order_by(jobs.c.submitted)
            ).mappings()
            return [
                JournaledJob(
                    id=row["id"],
                    name=row["name"],
                    spec=json.loads(row["spec"]),
                    spec_sha256=row["spec_sha256"],
                    submitted=row["submitted"],
                    state=JobState(row["state"]),
                    reason=row["reason"],
                    message=row["message"],
                    attempt=row["attempt"],
                    attempt_is_open=bool(row["is_open"]),
                    worker_id=row["worker_id"],
                    progress=_progress(row["progress"]),
                    artifact=row["artifact"],
                    num_charged=charged.get(row["id"], 0),
                    checkpoints=tuple(usable.get(row["id"], ())),
                )
                for row in rows
            ]

    def checkpoints(self, job_id: str) -> tuple[CheckpointRecord, ...]:
        """Those that the job can go on from, newest first."""
        query = select(checkpoints).where(checkpoints.c.job_id == job_id, checkpoints.c.quarantined.is_(None))
        with self._reading() as connection:
            rows = connection.execute(query.order_by(checkpoints.c.sequence.desc())).mappings()
            return tuple(_checkpoint(row) for row in rows)

    def quarantined(self, job_id: str) -> tuple[QuarantinedCheckpoint, ...]:
        """Checkpoints of the job that were found bad, oldest first."""
        query = select(checkpoints).where(checkpoints.c.job_id == job_id, checkpoints.c.quarantined.is_not(None))
        with self._reading() as connection:
            rows = connection.execute(query.order_by(checkpoints.c.sequence)).mappings()
            return tuple(QuarantinedCheckpoint(record=_checkpoint(row), problem=row["quarantined"]) for row in rows)

    def attempts(self, job_id: str) -> tuple[Attempt, ...]:
        """All tries at a job, in order."""
        with self._reading() as connection:
            rows = connection.execute(
                select(attempts).where(attempts.c.job_id == job_id).order_by(attempts.c.number)
            ).mappings()
            return tuple(Attempt(**row) for row in rows)

    def num_workers_started(self) -> int:
        """So many that the id `w<number>` of no earlier one is given again."""
        number = cast(func.substr(attempts.c.worker_id, 2), Integer)
        with self._reading() as connection:
            last = connection.execute(select(func.max(number)).where(attempts.c.worker_id.like("w%"))).scalar()
            return 0 if last is None else last + 1

    def events(self, job_id: str | None = None, *, after: int = 0, limit: int | None = None) -> tuple[Event, ...]:
        """What happened, in order.

        Args:
            job_id: Of one job only.
            after: Only those whose sequence number is higher, for following along.
            limit: At most so many, the earliest.
        """
        query = select(events).where(events.c.sequence > after).order_by(events.c.sequence)
        if job_id is not None:
            query = query.where(events.c.job_id == job_id)
        if limit is not None:
            query = query.limit(limit)
        with self._reading() as connection:
            return tuple(
                Event(**{**row, "state": JobState(row["state"])}) for row in connection.execute(query).mappings()
            )

    def setting(self, key: str) -> Any:
        """The JSON value under a key; `None` if there is none."""
        with self._reading() as connection:
            value = connection.execute(select(settings.c.value).where(settings.c.key == key)).scalar()
            return None if value is None else json.loads(value)

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except DatabaseError as error:
            raise LoraloomError(f"the journal {self.path} cannot be read: {error.orig}") from error


def open_engine(path: Path, *, read_only: bool = False) -> Engine:
    """An engine under whose connections a commit that has returned survives a power cut.

    With the execution option `writes`, a transaction takes the write lock at its beginning: what it reads it may then
    act upon, and it cannot fail half way through because another one was faster.
    """
    query: Mapping[str, str] = {"uri": "true", "mode": "ro"} if read_only else {}
    database = path.resolve().as_uri() if read_only else str(path)
    engine = create_engine(URL.create("sqlite", database=database, query=query))

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, record: object) -> None:
        # The driver would begin transactions by its own rules, and none for a CREATE TABLE.
        connection.isolation_level = None
        for pragma in (
            f"busy_timeout = {_BUSY_MILLISECONDS}",
            "foreign_keys = ON",
            "query_only = ON" if read_only else "synchronous = FULL",
        ):
            connection.execute(f"PRAGMA {pragma}")
        if not read_only:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                raise LoraloomError(
                    f"{path} cannot have a write-ahead log (its journal mode is {mode}), as on some network file "
                    "systems; name an output directory on a local disk"
                )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _checkpoint(row: RowMapping) -> CheckpointRecord:
    return CheckpointRecord(
        job_id=row["job_id"],
        attempt=row["attempt"],
        step=row["step"],
        micro_batch=row["micro_batch"],
        folder=row["folder"],
        manifest_sha256=row["manifest_sha256"],
        size_bytes=row["size_bytes"],
    )


def _progress(text: str | None) -> JobProgress:
    if text is None:
        return JobProgress()
    # Fields that another version knows and this one does not are for show only.
    known = JobProgress.__dataclass_fields__
    return JobProgress(**{name: value for name, value in json.loads(text).items() if name in known})
