"""What the journal's transactions are made of. What writes belongs into a transaction that has the write lock."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from jobs.records import Event, JobProgress, JobState
from orchestrator.journal.errors import JournalError, NoSuchJob, StaleAttempt
from orchestrator.journal.tables import attempts, events, jobs, settings

TOLD = "told"
"""In a connection's `info`: the transaction has added an event."""


def find(connection: Connection, job_id: str) -> RowMapping:
    """A job's row.

    Raises:
        NoSuchJob: There is none.
    """
    job = connection.execute(select(jobs).where(jobs.c.id == job_id)).mappings().one_or_none()
    if job is None:
        raise NoSuchJob(job_id)
    return job


def setting(connection: Connection, key: str) -> Any:
    """The JSON value under a key; `None` if there is none."""
    value = connection.execute(select(settings.c.value).where(settings.c.key == key)).scalar()
    return None if value is None else json.loads(value)


def put_setting(connection: Connection, key: str, value: Any) -> None:
    """Set a JSON value."""
    connection.execute(delete(settings).where(settings.c.key == key))
    connection.execute(insert(settings).values(key=key, value=json.dumps(value)))


def is_open(connection: Connection, job_id: str, number: int) -> bool:
    """Whether an attempt exists and has not ended."""
    query = select(attempts.c.is_open).where(attempts.c.job_id == job_id, attempts.c.number == number)
    return bool(connection.execute(query).scalar())


def fence(connection: Connection, job_id: str, attempt: int) -> None:
    """Let only the current attempt through, and only while it has not ended.

    Raises:
        StaleAttempt: It is not.
    """
    current = find(connection, job_id)["attempt"]
    if attempt != current or not is_open(connection, job_id, attempt):
        raise StaleAttempt(job_id, attempt, current)


def refuse_after_end(job: RowMapping) -> None:
    """Let only a job through that goes on.

    Raises:
        JournalError: It has ended.
    """
    if JobState(job["state"]).is_terminal:
        raise JournalError(f"job {job['id']} has ended as {job['state']}; nothing can follow")


def close_attempt(connection: Connection, job_id: str, number: int, why: str, at: float, charged: bool) -> None:
    """End an attempt; it passes no fence any more."""
    connection.execute(
        update(attempts)
        .where(attempts.c.job_id == job_id, attempts.c.number == number)
        .values(is_open=False, ended_unix_seconds=at, why=why, charged=charged)
    )


def advance(
    connection: Connection,
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
    """See `Journal.change`."""
    job = find(connection, job_id)
    if attempt is not None:
        fence(connection, job_id, attempt)
    refuse_after_end(job)
    if state.is_terminal and is_open(connection, job_id, job["attempt"]):
        close_attempt(connection, job_id, job["attempt"], reason, at, charged)
    values: dict[str, Any] = {}
    if artifact is not None:
        values["artifact"] = artifact
    if progress is not None:
        values["progress"] = progress_json(progress)
    return change(connection, job_id, state, reason, message, at, values)


def change(
    connection: Connection,
    job_id: str,
    state: JobState,
    reason: str,
    message: str,
    at: float,
    values: Mapping[str, Any] | None = None,
) -> Event:
    """Set a job's state, and other columns, and add the event of it."""
    changed = {"state": state.value, "reason": reason, "message": message, **(values or {})}
    changed["ended_unix_seconds"] = at if state.is_terminal else None
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(**changed))
    return event(connection, job_id, state, reason, message, at)


def event(connection: Connection, job_id: str, state: JobState, reason: str, message: str, at: float) -> Event:
    """Add an event."""
    values = {"job_id": job_id, "time_unix_seconds": at, "reason": reason, "message": message}
    inserted = connection.execute(insert(events).values(**values, state=state.value))
    connection.info[TOLD] = True
    (sequence,) = inserted.inserted_primary_key or (0,)
    return Event(**values, state=state, sequence=sequence)


def set_progress(connection: Connection, job_id: str, progress: JobProgress) -> None:
    """Keep how far a job is."""
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(progress=progress_json(progress)))


def progress_json(progress: JobProgress) -> str:
    """As the journal keeps it."""
    return finite_json(asdict(progress))


def finite_json(value: object) -> str:
    """JSON of it, with null for a number that is not finite: JSON has no NaN, and nobody can act upon one."""
    return json.dumps(_finite(value), ensure_ascii=False)


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
