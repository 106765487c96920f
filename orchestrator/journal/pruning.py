"""Letting go of jobs that have ended, and of what they could go on from."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict

from sqlalchemy import Connection, delete, select

from jobs.records import JobState
from orchestrator.journal import statements
from orchestrator.journal.records import EndedJob, UndeletedFiles
from orchestrator.journal.tables import (
    artifacts,
    attempts,
    checkpoints,
    events,
    job_labels,
    jobs,
    metric_series,
    metrics,
)

_ENDED = jobs.c.state.in_([state.value for state in JobState if state.is_terminal])

_UNDELETED = "undeleted"


def ended(connection: Connection) -> list[EndedJob]:
    """See `JournalReader.ended`."""
    sizes: dict[str, dict[str, int]] = {}
    kept = select(checkpoints.c.job_id, checkpoints.c.folder, checkpoints.c.size_bytes)
    for job_id, folder, size in connection.execute(kept.order_by(checkpoints.c.sequence)):
        sizes.setdefault(job_id, {})[folder] = size
    query = (
        select(jobs.c.id, jobs.c.name, jobs.c.state, jobs.c.ended_unix_seconds, jobs.c.artifact, artifacts.c.size_bytes)
        .join(artifacts, artifacts.c.job_id == jobs.c.id, isouter=True)
        .where(_ENDED)
        .order_by(jobs.c.ended_unix_seconds, jobs.c.submitted)
    )
    return [
        EndedJob(
            id=row.id,
            name=row.name,
            state=JobState(row.state),
            ended_unix_seconds=row.ended_unix_seconds,
            artifact=row.artifact,
            artifact_bytes=row.size_bytes or 0,
            checkpoints=sizes.get(row.id, {}),
        )
        for row in connection.execute(query)
    ]


def remove(connection: Connection, job_ids: Sequence[str], with_artifacts: bool) -> set[str]:
    """See `Journal.remove_ended`."""
    query = select(jobs.c.id, jobs.c.submitted, jobs.c.artifact).where(_ENDED, jobs.c.id.in_(job_ids))
    found = connection.execute(query).all()
    ids = [row.id for row in found]
    _remember(
        connection,
        [
            UndeletedFiles(job_id=row.id, is_removed=True, artifact=row.artifact if with_artifacts else None)
            for row in found
        ],
    )
    connection.execute(delete(job_labels).where(job_labels.c.submitted.in_([row.submitted for row in found])))
    # Those that refer to others first. The name stays in `names`, so that no id is ever given twice.
    for table in (artifacts, metrics, metric_series, events, checkpoints, attempts):
        connection.execute(delete(table).where(table.c.job_id.in_(ids)))
    connection.execute(delete(jobs).where(jobs.c.id.in_(ids)))
    return set(ids)


def strip(connection: Connection, job_ids: Sequence[str]) -> set[str]:
    """See `Journal.strip_ended`."""
    ids = set(connection.execute(select(jobs.c.id).where(_ENDED, jobs.c.id.in_(job_ids))).scalars())
    _remember(
        connection,
        [
            UndeletedFiles(job_id=job_id, is_removed=False, folders=names)
            for job_id, names in _folders(connection, list(ids)).items()
        ],
    )
    connection.execute(delete(checkpoints).where(checkpoints.c.job_id.in_(ids)))
    return ids


def undeleted(connection: Connection) -> list[UndeletedFiles]:
    """See `JournalReader.undeleted`."""
    found = statements.setting(connection, _UNDELETED) or []
    return [UndeletedFiles(**{**one, "folders": tuple(one["folders"])}) for one in found]


def forget(connection: Connection, job_ids: Collection[str]) -> None:
    """See `Journal.deleted`."""
    _write(connection, [one for one in undeleted(connection) if one.job_id not in job_ids])


def _remember(connection: Connection, files: Sequence[UndeletedFiles]) -> None:
    if files:
        _write(connection, [*undeleted(connection), *files])


def _write(connection: Connection, files: Sequence[UndeletedFiles]) -> None:
    statements.put_setting(connection, _UNDELETED, [asdict(one) for one in files])


def _folders(connection: Connection, job_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Names of checkpoints by job."""
    found: dict[str, tuple[str, ...]] = {}
    query = select(checkpoints.c.job_id, checkpoints.c.folder).where(checkpoints.c.job_id.in_(job_ids))
    for job_id, folder in connection.execute(query):
        found[job_id] = (*found.get(job_id, ()), folder)
    return found
