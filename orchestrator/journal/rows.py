"""From rows of the journal to records."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, func, literal_column, select, true

from jobs.ledger import Ledger
from jobs.records import CheckpointRecord, Desired, Event, JobProgress, JobState
from orchestrator.journal.records import JobSummary, JournaledJob
from orchestrator.journal.tables import attempts, checkpoints, jobs

_SUMMARY_COLUMNS = (
    *(column for column in jobs.c if column.name not in ("spec", "spec_sha256", "estimate", "retried_after")),
    func.json_extract(jobs.c.spec, literal_column("'$.model.model_name_or_path'")).label("model"),
)


def in_queues(queues: Collection[str] | None) -> ColumnElement[bool]:
    """The condition that a job is in one of these queues now; no condition where `None`."""
    return true() if queues is None else jobs.c.queue.in_(sorted(queues))


def load_jobs(connection: Connection, which: ColumnElement[bool] | None = None) -> list[JournaledJob]:
    """Jobs in order of submission, each with the checkpoints that it can go on from.

    Args:
        connection: In a transaction: three things are read that must be of one moment.
        which: A condition on `jobs`; all where `None`.
    """
    usable: dict[str, list[tuple[int, CheckpointRecord]]] = {}
    kept = select(checkpoints).where(checkpoints.c.quarantined.is_(None))
    charged = (
        select(func.count())
        .where(attempts.c.job_id == jobs.c.id, attempts.c.number > jobs.c.retried_after, attempts.c.charged)
        .correlate(jobs)
        .scalar_subquery()
    )
    latest = (jobs.c.id == attempts.c.job_id) & (jobs.c.attempt == attempts.c.number)
    query = select(jobs, attempts.c.is_open, charged.label("num_charged")).join(attempts, latest, isouter=True)
    if which is not None:
        kept = kept.where(checkpoints.c.job_id.in_(select(jobs.c.id).where(which)))
        query = query.where(which)
    for row in connection.execute(kept).mappings():
        usable.setdefault(row["job_id"], []).append((row["sequence"], checkpoint(row)))
    found: list[JournaledJob] = []
    # Sorted here: the rows are wide, and the database would spill them to do it.
    for row in connection.execute(query).mappings():
        spec = json.loads(row["spec"])
        newest_first = sorted(usable.get(row["id"], ()), key=lambda one: -one[0])
        found.append(
            JournaledJob(
                **_shared(row),
                model=spec.get("model", {}).get("model_name_or_path", ""),
                spec=spec,
                spec_sha256=row["spec_sha256"],
                attempt_is_open=bool(row["is_open"]),
                num_charged=row["num_charged"],
                checkpoints=tuple(record for _, record in newest_first),
                estimate=None if row["estimate"] is None else json.loads(row["estimate"]),
            )
        )
    return sorted(found, key=lambda job: job.submitted)


def load_summaries(connection: Connection, submitted: list[int]) -> dict[int, JobSummary]:
    """A few jobs by their positions in the order of submission, without their specs."""
    rows = connection.execute(select(*_SUMMARY_COLUMNS).where(jobs.c.submitted.in_(submitted))).mappings()
    return {row["submitted"]: JobSummary(**_shared(row), model=row["model"] or "") for row in rows}


def checkpoint(row: RowMapping) -> CheckpointRecord:
    """A row of `checkpoints`."""
    return CheckpointRecord(
        job_id=row["job_id"],
        attempt=row["attempt"],
        step=row["step"],
        micro_batch=row["micro_batch"],
        folder=row["folder"],
        manifest_sha256=row["manifest_sha256"],
        size_bytes=row["size_bytes"],
    )


def event(row: RowMapping) -> Event:
    """A row of `events`."""
    return Event(**{**row, "state": JobState(row["state"])})


def _shared(row: RowMapping) -> dict[str, Any]:
    """What a job has in lists and by itself."""
    return {
        "id": row["id"],
        "name": row["name"],
        "state": JobState(row["state"]),
        "reason": row["reason"],
        "message": row["message"],
        "desired": Desired(row["desired"]),
        "priority": row["priority"],
        "queue": row["queue"],
        "labels": json.loads(row["labels"]),
        "owner": row["owner"],
        "sweep_id": row["sweep_id"],
        "submitted": row["submitted"],
        "submitted_unix_seconds": row["submitted_unix_seconds"],
        "ended_unix_seconds": row["ended_unix_seconds"],
        "attempt": row["attempt"],
        "worker_id": row["worker_id"],
        "progress": progress(row["progress"]),
        "artifact": row["artifact"],
    }


def progress(text: str | None) -> JobProgress:
    """What a row of `jobs` says of how far the job is."""
    if text is None:
        return JobProgress()
    # Fields that another version knows and this one does not are for show only.
    known = {name: value for name, value in json.loads(text).items() if name in JobProgress.__dataclass_fields__}
    if "ledger" in known:
        known["ledger"] = Ledger.from_json(known["ledger"])
    return JobProgress(**known)
