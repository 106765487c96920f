"""Taking in jobs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, func, insert, select
from sqlalchemy.dialects.sqlite import insert as upsert

from jobs.field_types import NAME_PATTERN
from jobs.records import JobState
from orchestrator.journal.errors import JournalError, KeyConflict
from orchestrator.journal.records import Submission, SubmissionKey
from orchestrator.journal.statements import TOLD
from orchestrator.journal.tables import events, job_labels, jobs, names, submissions


def prepared(one: Submission, at: float, message: str) -> dict[str, Any]:
    """A row of `jobs`, all but the place in the order of submission, and the id where it is not chosen yet.

    Raises:
        JournalError: The id is none.
    """
    if one.job_id is not None and not re.fullmatch(rf"{NAME_PATTERN}(\.[0-9]{{1,18}})?", one.job_id):
        raise JournalError(
            f"{one.job_id!r} is no id of a job: an id is a job's name, or a name with a dot and a number"
        )
    return {
        "id": one.job_id,
        "name": one.spec.name,
        "spec": json.dumps(one.spec.model_dump(mode="json"), ensure_ascii=False),
        "spec_sha256": one.spec.spec_sha256(),
        "state": JobState.PENDING.value,
        "reason": "submitted",
        "message": message,
        "attempt": 0,
        "priority": one.spec.scheduling.priority,
        "queue": one.spec.scheduling.queue,
        "labels": json.dumps(dict(one.spec.labels), separators=(",", ":")),
        "owner": one.owner,
        "sweep_id": one.sweep_id,
        "submitted_unix_seconds": at,
    }


def insert_jobs(connection: Connection, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Take in prepared rows, in order.

    Returns:
        Their ids.

    Raises:
        JournalError: There is a job of that id.
    """
    if not rows:
        return []
    first = (connection.execute(select(func.max(jobs.c.submitted))).scalar() or 0) + 1
    numbers: dict[str, int] = {}
    taken: set[str] = set()
    whole: list[dict[str, Any]] = []
    for submitted, row in enumerate(rows, first):
        name, job_id = row["name"], row["id"]
        if name not in numbers:
            numbers[name] = _last_number(connection, name)
        if job_id is None:
            job_id = name
            while True:
                numbers[name] += 1
                job_id = _numbered(name, numbers[name])
                if job_id not in taken and not _exists(connection, job_id):
                    break
        elif job_id in taken or _exists(connection, job_id):
            raise JournalError(f"there is a job {job_id} already; submit this one under another id")
        else:
            numbers[name] = max(numbers[name], _number(name, job_id))
        taken.add(job_id)
        whole.append({**row, "id": job_id, "submitted": submitted})
    connection.execute(insert(jobs), whole)
    said = ("state", "reason", "message")
    told = [
        {"job_id": row["id"], "time_unix_seconds": row["submitted_unix_seconds"], **{key: row[key] for key in said}}
        for row in whole
    ]
    connection.execute(insert(events), told)
    connection.info[TOLD] = True
    labels = [
        {"key": key, "value": value, "submitted": row["submitted"]}
        for row in whole
        for key, value in json.loads(row["labels"]).items()
    ]
    if labels:
        connection.execute(insert(job_labels), labels)
    counted = upsert(names)
    connection.execute(
        counted.on_conflict_do_update(index_elements=["name"], set_={"last_number": counted.excluded.last_number}),
        [{"name": name, "last_number": number} for name, number in numbers.items()],
    )
    return [row["id"] for row in whole]


def free_id(connection: Connection, name: str) -> str:
    """The id that the next job of a name would get."""
    number = _last_number(connection, name) + 1
    while _exists(connection, _numbered(name, number)):
        number += 1
    return _numbered(name, number)


def submitted_with(connection: Connection, key: SubmissionKey) -> list[str] | None:
    """Ids of the jobs that were submitted with a key; `None` where it was not used yet.

    Raises:
        KeyConflict: It was used with another body.
    """
    query = select(submissions).where(submissions.c.owner == (key.owner or ""), submissions.c.key == key.key)
    before = connection.execute(query).mappings().one_or_none()
    if before is None:
        return None
    if before["body_sha256"] != key.body_sha256:
        raise KeyConflict(key.key)
    return json.loads(before["job_ids"])


def remember(connection: Connection, key: SubmissionKey, job_ids: Sequence[str], at: float) -> None:
    """Keep what a key was used for."""
    connection.execute(
        insert(submissions).values(
            owner=key.owner or "",
            key=key.key,
            body_sha256=key.body_sha256,
            job_ids=json.dumps(list(job_ids)),
            time_unix_seconds=at,
        )
    )


def _exists(connection: Connection, job_id: str) -> bool:
    return connection.execute(select(jobs.c.submitted).where(jobs.c.id == job_id)).scalar() is not None


def _last_number(connection: Connection, name: str) -> int:
    return connection.execute(select(names.c.last_number).where(names.c.name == name)).scalar() or 0


def _numbered(name: str, number: int) -> str:
    """Names hold no dot, so that no id is made of two names."""
    return name if number == 1 else f"{name}.{number}"


def _number(name: str, job_id: str) -> int:
    """The number that an id has among those of its name; 0 for an id that was made otherwise."""
    if job_id == name:
        return 1
    before, _, number = job_id.rpartition(".")
    return int(number) if before == name else 0
