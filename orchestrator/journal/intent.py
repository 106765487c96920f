"""What owners want of jobs that are there."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, RowMapping, update

from jobs.field_types import NAME_PATTERN
from jobs.records import Desired, Event, JobState
from orchestrator.journal import rows, statements
from orchestrator.journal.errors import JournalError, Unfit
from orchestrator.journal.tables import jobs

_ASKED = {
    Desired.RUN: ("resume_requested", "that it goes on"),
    Desired.PAUSE: ("pause_requested", "that it pauses"),
    Desired.CANCEL: ("cancel_requested", "that it is cancelled"),
}

INTENTS = frozenset(
    {"submitted", "retry", "priority_changed", "queue_changed", *(reason for reason, _ in _ASKED.values())}
)
"""Reasons of the events that tell the scheduler of something it did not do itself."""

MIN_PRIORITY, MAX_PRIORITY = -(2**31), 2**31 - 1


def steer(
    connection: Connection,
    job_id: str,
    desired: Desired | None,
    priority: int | None,
    queue: str | None,
    by: str | None,
    at: float,
) -> Event | None:
    """See `Journal.steer`."""
    job = statements.find(connection, job_id)
    _refuse_nonsense(job, desired)
    wanted = {"desired": desired and desired.value, "priority": _priority(priority), "queue": _queue(queue)}
    changed: dict[str, Any] = {
        name: value for name, value in wanted.items() if value is not None and value != job[name]
    }
    state = JobState(job["state"])
    if state is JobState.CANCELLED:
        changed.pop("desired", None)
    if not changed:
        return None
    if state.is_terminal:
        field = next(iter(changed))
        raise Unfit(
            job_id, state.value, f"has ended as {state}; its {field} cannot be changed any more, {_mend(state)}"
        )
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(**changed))
    reasons, asked = [], []
    if "desired" in changed and desired is not None:
        reason, what = _ASKED[desired]
        reasons.append(reason)
        asked.append(what)
    for name in ("priority", "queue"):
        if name in changed:
            reasons.append(f"{name}_changed")
            asked.append(f"that its {name} is {changed[name]} instead of {job[name]}")
    return statements.event(connection, job_id, state, reasons[0], f"{_who(by)} asked {' and '.join(asked)}", at)


def retry(connection: Connection, job_id: str, by: str | None, at: float) -> Event | None:
    """See `Journal.retry`."""
    job = statements.find(connection, job_id)
    state = JobState(job["state"])
    if state is JobState.SUCCEEDED:
        raise Unfit(job_id, state.value, f"has ended as {state}; there is nothing to try again, {_mend(state)}")
    if not state.is_terminal:
        if job["desired"] == Desired.CANCEL:
            raise Unfit(job_id, state.value, f"is {state} and being cancelled; wait until it has ended, then retry it")
        return None
    # A new try has all its restarts: what was charged before is what its owner has looked at and mended.
    before = rows.progress(job["progress"])
    values = {
        "desired": Desired.RUN.value,
        "retried_after": job["attempt"],
        "worker_id": None,
        "progress": statements.progress_json(replace(before, ledger=before.ledger.waits(at))),
    }
    message = f"{_who(by)} asked that it is tried again"
    return statements.change(connection, job_id, JobState.PENDING, "retry", message, at, values)


def _refuse_nonsense(job: RowMapping, desired: Desired | None) -> None:
    state, before = JobState(job["state"]), Desired(job["desired"])
    if desired is None or (desired is Desired.CANCEL and state is JobState.CANCELLED):
        return
    verb = {Desired.RUN: "resumed", Desired.PAUSE: "paused", Desired.CANCEL: "cancelled"}[desired]
    if state.is_terminal:
        raise Unfit(job["id"], state.value, f"has ended as {state} and cannot be {verb}; {_mend(state)}")
    if before is Desired.CANCEL and desired is not Desired.CANCEL:
        problem = f"is {state} and being cancelled, it cannot be {verb}; wait until it has ended, then retry it"
        raise Unfit(job["id"], state.value, problem)


def _mend(state: JobState) -> str:
    return "submit it again to train it anew" if state is JobState.SUCCEEDED else "retry it first"


def _who(by: str | None) -> str:
    return by if by is not None else "somebody on this machine"


def _priority(value: int | None) -> int | None:
    if value is not None and not MIN_PRIORITY <= value <= MAX_PRIORITY:
        raise JournalError(f"priority is {value}; it should be {MIN_PRIORITY} to {MAX_PRIORITY}")
    return value


def _queue(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(NAME_PATTERN, value):
        raise JournalError(
            f"queue is {value[:80]!r}; it should be 1 to 63 lowercase letters, digits and dashes, beginning and ending "
            "with a letter or digit"
        )
    return value
