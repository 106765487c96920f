"""What happened over all jobs: who was where and when, and which sweeps there are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, column, func, or_, select, true

from jobs.records import JobState
from orchestrator.journal.listing import LISTING
from orchestrator.journal.rows import in_queues
from orchestrator.journal.tables import attempts, jobs


@dataclass(frozen=True, kw_only=True)
class Span:
    """A job's time on a worker."""

    job_id: str
    name: str
    state: JobState
    """Of the job, now."""
    attempt: int
    worker_id: str | None
    node: str | None
    started_unix_seconds: float
    ended_unix_seconds: float | None
    """`None` while it is there."""
    why: str | None
    """Reason code of its end."""


@dataclass(frozen=True, kw_only=True)
class SweepSummary:
    """A sweep in a list."""

    id: str
    first_name: str
    """Of its jobs' names, the first in the order of the alphabet."""
    submitted_unix_seconds: float
    states: dict[JobState, int]
    """How many of its jobs are in each state."""


def spans(connection: Connection, since: float, limit: int, queues: Collection[str] | None = None) -> list[Span]:
    """Attempts that were open at a moment or began later, the newest first, at most so many."""
    # Cut first: a job's state lies behind its spec in the row, and is read for those alone that are shown.
    newest = (
        select(
            attempts.c.job_id, attempts.c.number.label("attempt"), attempts.c.worker_id, attempts.c.node,
            attempts.c.started_unix_seconds, attempts.c.ended_unix_seconds, attempts.c.why,
        )
        .where(or_(attempts.c.is_open, attempts.c.ended_unix_seconds >= since))
        .where(true() if queues is None else attempts.c.job_id.in_(select(jobs.c.id).where(in_queues(queues))))
        .order_by(attempts.c.started_unix_seconds.desc(), attempts.c.job_id)
        .limit(limit)
        .subquery()
    )  # fmt: skip
    query = (
        select(newest, jobs.c.name, jobs.c.state)
        .join_from(newest, jobs, newest.c.job_id == jobs.c.id)
        .order_by(newest.c.started_unix_seconds.desc(), newest.c.job_id)
    )
    return [Span(**{**row, "state": JobState(row["state"])}) for row in connection.execute(query).mappings()]


def counts(connection: Connection, queues: Collection[str] | None) -> dict[tuple[JobState, str], int]:
    """Numbers of jobs by state and queue."""
    query = select(jobs.c.state, jobs.c.queue, func.count()).where(in_queues(queues))
    query = query.group_by(jobs.c.state, jobs.c.queue)
    return {(JobState(state), queue): number for state, queue, number in connection.execute(query)}


def sweeps(connection: Connection, limit: int, queues: Collection[str] | None = None) -> list[SweepSummary]:
    """The sweeps that were submitted last, the newest first, at most so many."""
    sweep_id, state, name, submitted = (column(one) for one in ("sweep_id", "state", "name", "submitted"))
    query = (
        select(
            sweep_id, state, func.count().label("number"), func.min(name).label("first"),
            func.min(submitted).label("submitted"),
        )
        .select_from(LISTING)
        .where(sweep_id.is_not(None), true() if queues is None else column("queue").in_(sorted(queues)))
        .group_by(sweep_id, state)
    )  # fmt: skip
    parts: dict[str, list[tuple[str, int, str, int]]] = {}
    for key, of_state, number, first, position in connection.execute(query):
        parts.setdefault(key, []).append((of_state, number, first, position))
    began = {key: min(part[3] for part in found) for key, found in parts.items()}
    newest = sorted(parts, key=lambda key: -began[key])[:limit]
    times = _times(connection, [began[key] for key in newest])
    return [
        SweepSummary(
            id=key,
            first_name=min(part[2] for part in parts[key]),
            submitted_unix_seconds=times[began[key]],
            states={JobState(part[0]): part[1] for part in parts[key]},
        )
        for key in newest
    ]


def _times(connection: Connection, positions: Sequence[int]) -> dict[int, float]:
    query = select(jobs.c.submitted, jobs.c.submitted_unix_seconds).where(jobs.c.submitted.in_(positions))
    return {row.submitted: row.submitted_unix_seconds for row in connection.execute(query)}
