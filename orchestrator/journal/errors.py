"""Why the journal does not take a change, or cannot tell what is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.errors import LoraloomError

_MOST_NAMED = 8
"""Ids named in a message of one line."""


class JournalError(LoraloomError):
    """The journal does not take a change: it would contradict what stands there. Nothing was changed."""


class StaleAttempt(JournalError):
    """An attempt that is not the job's current one, or has ended, wanted to change something. Nothing was changed."""

    def __init__(self, job_id: str, attempt: int, current: int) -> None:
        state = "has ended" if attempt == current else f"was replaced by attempt {current}"
        super().__init__(f"attempt {attempt} of job {job_id} {state} and may change nothing any more")
        self.job_id = job_id
        self.attempt = attempt
        self.current = current

    def __reduce__(self) -> tuple[type[StaleAttempt], tuple[str, int, int]]:
        return type(self), (self.job_id, self.attempt, self.current)


class NoSuchJob(JournalError):
    """There is no job of that id or name."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"there is no job {job_id}")
        self.job_id = job_id

    def __reduce__(self) -> tuple[type[NoSuchJob], tuple[str]]:
        return type(self), (self.job_id,)


class AmbiguousName(JournalError):
    """Several jobs bear a name."""

    def __init__(self, name: str, job_ids: Sequence[str]) -> None:
        more = f" and {len(job_ids) - _MOST_NAMED} more" if len(job_ids) > _MOST_NAMED else ""
        shown = ", ".join(job_ids[:_MOST_NAMED])
        super().__init__(f"{len(job_ids)} jobs bear the name {name}; say which by its id: {shown}{more}")
        self.name = name
        self.job_ids = tuple(job_ids)
        """Latest first."""

    def __reduce__(self) -> tuple[type[AmbiguousName], tuple[str, tuple[str, ...]]]:
        return type(self), (self.name, self.job_ids)


class KeyConflict(JournalError):
    """An idempotency key was used before, with something else to submit. Nothing was submitted."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f"the idempotency key {key!r} was used before, with another body; "
            "send the same body to get its jobs, or another key to submit this one"
        )
        self.key = key

    def __reduce__(self) -> tuple[type[KeyConflict], tuple[str]]:
        return type(self), (self.key,)


class Unfit(JournalError):
    """What a job's owner asks for makes no sense in the state that the job is in. Nothing was changed."""

    def __init__(self, job_id: str, state: str, problem: str) -> None:
        super().__init__(f"job {job_id} {problem}")
        self.job_id = job_id
        self.state = state
        self.problem = problem

    def __reduce__(self) -> tuple[type[Unfit], tuple[str, str, str]]:
        return type(self), (self.job_id, self.state, self.problem)


class BadCursor(LoraloomError):
    """A cursor is not one that a page of this list, in this order, has ended with."""

    def __init__(self, cursor: str) -> None:
        shown = cursor if len(cursor) <= 80 else f"{cursor[:80]}…"
        super().__init__(
            f"after is {shown!r}, which no page of this list ends with; leave it out to begin at the first"
        )
        self.cursor = cursor

    def __reduce__(self) -> tuple[type[BadCursor], tuple[str]]:
        return type(self), (self.cursor,)
