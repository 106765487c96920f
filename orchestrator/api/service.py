"""What handlers work with: one journal to read, one to write intent into, and whom to wake."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request
from fastapi import Path as PathParameter

from jobs.field_types import NAME_PATTERN
from jobs.view import ClusterView
from orchestrator.api.limits import Limits
from orchestrator.api.problems import ApiError
from orchestrator.api.tokens import Caller
from orchestrator.job_files import JobFiles
from orchestrator.journal import Journal, JournalReader

PREFIX = "/api/v1"
"""Before every path of the API."""

_ID = rf"^{NAME_PATTERN}(\.[0-9]{{1,18}})?$"

JobId = Annotated[str, PathParameter(description="Id of a job, or a name that one job alone bears", pattern=_ID)]
"""As it stands in a path. It is looked up in the journal and never made into the path of a file."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """The rest of the service, as the API sees it."""

    journal: Journal
    """Shared with the scheduler; SQLite lets one transaction in at a time."""
    reader: JournalReader
    """Of the API alone: reading waits for nobody."""
    wake: Callable[[], None]
    """Tells the scheduler, from any thread, that there is something to do."""
    data_dir: Path
    """With `logs`, `checkpoints` and `artifacts`; nothing that a spec names may lie in it."""
    roots: tuple[Path, ...] | None
    """Where local files that specs name must lie; `None` for anywhere but `data_dir`."""
    cluster: Callable[[], ClusterView | None]
    """What the scheduler last published."""
    log_path: Callable[[str], Path]
    """Where the log of a job is, by its id."""
    files: JobFiles
    """Checkpoints and published adapters."""
    now: Callable[[], float]
    """Seconds since the epoch."""
    limits: Limits = field(default_factory=Limits)


def caller(request: Request) -> Caller:
    """Who makes the request."""
    return request.state.caller


CallerOf = Annotated[Caller, Depends(caller)]
"""Who makes the request, as a parameter of a handler."""


def require_queue(caller: Caller, queue: str) -> None:
    """Let only those through who may act in a queue.

    Raises:
        ApiError: The caller may not.
    """
    if not caller.may_use(queue):
        raise ApiError(403, "wrong-queue", f"the token {caller.name} has no right to act in the queue {queue}")


def require_reading_all(caller: Caller) -> None:
    """Let only those through who may see the jobs of every queue.

    Raises:
        ApiError: The caller may not.
    """
    if caller.readable is not None:
        raise ApiError(403, "wrong-queue", f"the token {caller.name} sees jobs of some queues only, and this is of all")


def require_all_queues(caller: Caller) -> None:
    """Let only those through who may act in every queue.

    Raises:
        ApiError: The caller may not.
    """
    if caller.queues is not None:
        raise ApiError(403, "wrong-queue", f"the token {caller.name} may act in some queues only, and this needs all")
