"""Lists of jobs: filtered, sorted and cut into pages by the database.

Only an index is walked, never the rows, which hold whole specs; those of a page are fetched once it is known which they
are.
"""

from __future__ import annotations

import base64
import json
import operator
from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    and_,
    column,
    func,
    or_,
    select,
    text,
    tuple_,
)

from orchestrator.journal.errors import BadCursor
from orchestrator.journal.records import JobFilter, JobSummary, Page, Sort
from orchestrator.journal.rows import load_summaries
from orchestrator.journal.tables import job_labels, jobs

MAX_PAGE = 1000
"""Jobs of one page."""

_FEW = 2000
"""So many jobs are looked up one by one; more of them are faster met on the way through the index."""

_COLUMNS: Mapping[Sort, str] = {
    "submitted": "submitted",
    "ended": "ended_unix_seconds",
    "name": "name",
    "state": "state",
    "priority": "priority",
}
# The planner keeps no statistics, and would sooner walk the rows than this.
LISTING = text("jobs INDEXED BY jobs_listing")
"""Holds what lists need of a job, so that no row with its spec is read."""
_SORTED = {
    "ended": text("jobs INDEXED BY jobs_by_end"),
    "name": text("jobs INDEXED BY jobs_by_name"),
    "priority": text("jobs INDEXED BY jobs_by_priority"),
}
_SUBMITTED: ColumnElement[int] = column("submitted", Integer)
_MAX_INTEGER = 2**63 - 1


def page(connection: Connection, which: JobFilter, after: str | None, limit: int) -> Page[JobSummary]:
    """See `JournalReader.page`."""
    rows = connection.execute(page_query(connection, which, after, limit)).all()
    summaries = load_summaries(connection, [row[0] for row in rows[:limit]])
    more = len(rows) > limit
    return Page(
        items=tuple(summaries[row[0]] for row in rows[:limit]),
        after=_cursor(which, rows[limit - 1][1], rows[limit - 1][0]) if more else None,
    )


def page_query(connection: Connection, which: JobFilter, after: str | None, limit: int) -> Select[int, Any]:
    """Positions in the order of submission, and values sorted by, of a page's jobs and of one more where there is one.

    Raises:
        BadCursor: `after` is not of this list.
        ValueError: `limit` is out of range.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise ValueError(f"limit is {limit}; it should be 1 to {MAX_PAGE}")
    key: ColumnElement[Any] = _SUBMITTED if which.sort == "submitted" else column(_COLUMNS[which.sort])
    conditions = _conditions(connection, which)
    source = _SORTED.get(which.sort, LISTING) if not conditions else LISTING
    if after is not None:
        conditions.append(_beyond(which, *_read(which, after)))
    order = [one.desc() if which.descending else one.asc() for one in dict.fromkeys((key, _SUBMITTED))]
    query = select(_SUBMITTED, key.label("sorted_by")).select_from(source)
    return query.where(*conditions).order_by(*order).limit(limit + 1)


def _conditions(connection: Connection, which: JobFilter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if which.queues is not None:
        found.append(column("queue").in_(sorted(which.queues)))
    if which.states:
        found.append(column("state").in_(sorted(which.states)))
    for name, value in (("queue", which.queue), ("owner", which.owner), ("sweep_id", which.sweep_id)):
        if value is not None:
            found.append(column(name) == value)
    if which.sweep_id is not None:
        found.append(_SUBMITTED.in_(select(jobs.c.submitted).where(jobs.c.sweep_id == which.sweep_id)))
    for name, value in which.labels.items():
        labelled = select(job_labels.c.submitted).where(job_labels.c.key == name, job_labels.c.value == value)
        num_labelled = connection.execute(
            select(func.count()).select_from(labelled.limit(_FEW + 1).subquery())
        ).scalar()
        if (num_labelled or 0) <= _FEW:
            found.append(_SUBMITTED.in_(labelled))
        else:
            # Exact, though it looks at text: no label has a quote or a backslash in it.
            found.append(func.instr(column("labels"), f"{json.dumps(name)}:{json.dumps(value)}") > 0)
    if which.text:
        part = which.text.lower()
        found.append(or_(func.instr(column("name"), part) > 0, func.instr(column("id"), part) > 0))
    return found


def _beyond(which: JobFilter, value: Any, submitted: int) -> ColumnElement[bool]:
    """What comes after a job in the list. Null is less than everything else, as in SQLite's order."""
    beyond = operator.lt if which.descending else operator.gt
    later = beyond(_SUBMITTED, submitted)
    if which.sort == "submitted":
        return later
    key: ColumnElement[Any] = column(_COLUMNS[which.sort])
    if value is None:
        return and_(key.is_(None), later) if which.descending else or_(and_(key.is_(None), later), key.is_not(None))
    after = beyond(tuple_(key, _SUBMITTED), tuple_(value, submitted))
    return or_(after, key.is_(None)) if which.sort == "ended" and which.descending else after


def _cursor(which: JobFilter, value: Any, submitted: int) -> str:
    content = json.dumps([which.sort, which.descending, value, submitted], separators=(",", ":"))
    return base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")


def _read(which: JobFilter, cursor: str) -> tuple[Any, int]:
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        sort, descending, value, submitted = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, TypeError, RecursionError) as error:
        raise BadCursor(cursor) from error
    kinds: dict[str, tuple[type, ...]] = {
        "submitted": (int,),
        "ended": (float, int, type(None)),
        "priority": (int,),
        "name": (str,),
        "state": (str,),
    }
    fits = (
        (sort, descending) == (which.sort, which.descending)
        and type(submitted) is int
        and type(value) in kinds[which.sort]
        and all(abs(one) <= _MAX_INTEGER for one in (value, submitted) if isinstance(one, int))
    )
    if not fits:
        raise BadCursor(cursor)
    return value, submitted
