"""Which job an id or a name stands for, among those of some queues."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, select

from jobs.records import JobState
from orchestrator.journal import rows
from orchestrator.journal.errors import AmbiguousName, NoSuchJob
from orchestrator.journal.records import JournaledJob
from orchestrator.journal.tables import jobs


def job(connection: Connection, id_or_name: str, queues: Collection[str] | None) -> JournaledJob:
    """See `JournalReader.job`."""
    readable = rows.in_queues(queues)
    found = rows.load_jobs(connection, (jobs.c.id == id_or_name) & readable)
    if not found:
        named = select(jobs.c.id).where(jobs.c.name == id_or_name, readable).order_by(jobs.c.submitted.desc())
        ids = list(connection.execute(named).scalars())
        if len(ids) > 1:
            raise AmbiguousName(id_or_name, ids)
        found = rows.load_jobs(connection, jobs.c.id == ids[0]) if ids else []
    if not found:
        raise NoSuchJob(id_or_name)
    return found[0]


def job_meant(
    connection: Connection, id_or_name: str, states: Collection[JobState], queues: Collection[str] | None
) -> JournaledJob:
    """See `JournalReader.job_meant`."""
    query = select(jobs.c.id, jobs.c.state).where((jobs.c.id == id_or_name) | (jobs.c.name == id_or_name))
    query = query.where(rows.in_queues(queues)).order_by(jobs.c.submitted.desc())
    found = {row.id: JobState(row.state) for row in connection.execute(query)}
    fit = [job_id for job_id, state in found.items() if state in states]
    if id_or_name in found and fit and id_or_name not in fit:
        raise AmbiguousName(id_or_name, [*fit, id_or_name])
    meant = fit[0] if len(fit) == 1 and id_or_name not in found else id_or_name
    return job(connection, meant, queues)
