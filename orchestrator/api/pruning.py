"""Old checkpoints and ended jobs removed: first out of the journal, then from the disk or the store.

In that order what is listed is always there. What a crash leaves there in between, or what cannot be deleted, stands in
the journal as undeleted: it goes at the next start, or with the next prune.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from fastapi import APIRouter

from jobs.checkpoints import DiskFullError
from jobs.errors import StoreError, StoreUnavailableError
from orchestrator.api.openapi import problems
from orchestrator.api.operator_models import PrunedJob, PruneOrder, PrunePlan
from orchestrator.api.problems import ApiError
from orchestrator.api.service import PREFIX, CallerOf, Service, require_all_queues
from orchestrator.journal import EndedJob, UndeletedFiles
from workers.publishing import sweep

_AT_ONCE = 100
"""Jobs removed in one transaction: the scheduler writes between two."""


@dataclass
class Left:
    """What could not be deleted."""

    job_ids: set[str] = field(default_factory=set)
    problem: str | None = None
    """Of the first."""
    store_is_away: bool = False
    """Each further try would take as long as the first one did."""

    def add(self, files: UndeletedFiles, error: Exception | None = None) -> None:
        """One more, and what kept it."""
        self.job_ids.add(files.job_id)
        if self.problem is None and error is not None:
            self.problem = str(error)
        self.store_is_away |= isinstance(error, StoreUnavailableError)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What goes of one job."""

    job: EndedJob
    is_removed: bool
    folders: tuple[str, ...]
    """Checkpoints."""
    freed_bytes: int


def routes(service: Service) -> APIRouter:
    """`POST /prune`."""
    router = APIRouter(prefix=PREFIX, tags=["service"])

    @router.post("/prune", responses=problems(408, 413, 507), summary="Remove old checkpoints and ended jobs")
    def prune(order: PruneOrder, caller: CallerOf) -> PrunePlan:
        """What is too old or too large goes; jobs that have not ended are never touched."""
        require_all_queues(caller)
        bounds = (order.jobs_older_than_seconds, order.checkpoints_older_than_seconds, order.checkpoints_above_bytes)
        if all(bound is None for bound in bounds):
            raise ApiError(
                422,
                "invalid-parameters",
                "say what may go: jobs_older_than_seconds, checkpoints_older_than_seconds or checkpoints_above_bytes",
            )
        chosen = choose(service.reader.ended(), order, now=service.now())
        left = Left()
        if not order.dry_run:
            chosen, left = _carry_out(service, chosen, order)
        freed = {choice.job.id: 0 if choice.job.id in left.job_ids else choice.freed_bytes for choice in chosen}
        return PrunePlan(
            dry_run=order.dry_run,
            jobs=[
                PrunedJob(
                    id=choice.job.id,
                    name=choice.job.name,
                    state=choice.job.state,
                    ended_unix_seconds=choice.job.ended_unix_seconds,
                    is_removed=choice.is_removed,
                    checkpoints=len(choice.folders),
                    freed_bytes=freed[choice.job.id],
                )
                for choice in chosen
            ],
            freed_bytes=sum(freed.values()),
            undeleted=len(left.job_ids),
            problem=left.problem,
        )

    return router


def finish_deletions(service: Service) -> None:
    """Delete what a crash has left. For want of room in the journal it is tried again the next time.

    In a store the next prune does it: one that is away must not hold the start up.
    """
    for parent in ("checkpoints", "artifacts"):
        sweep(service.data_dir / parent)
    if service.files.storage_uri is None:
        with suppress(DiskFullError):
            _delete(service, service.reader.undeleted(), Left())


def choose(ended: Sequence[EndedJob], order: PruneOrder, *, now: float) -> list[Choice]:
    """What goes.

    Args:
        ended: Jobs that have ended, those that ended first before others.
        order: What may go.
        now: Seconds since the epoch.
    """
    left = sum(size for job in ended for size in job.checkpoints.values())
    chosen: list[Choice] = []
    for job in ended:
        age = now - (job.ended_unix_seconds or 0.0)
        removed = order.jobs_older_than_seconds is not None and age >= order.jobs_older_than_seconds
        old = order.checkpoints_older_than_seconds is not None and age >= order.checkpoints_older_than_seconds
        large = order.checkpoints_above_bytes is not None and left > order.checkpoints_above_bytes
        size = sum(job.checkpoints.values())
        if not removed and not ((old or large) and job.checkpoints):
            continue
        left -= size
        with_artifact = removed and order.artifacts
        chosen.append(
            Choice(
                job=job,
                is_removed=removed,
                folders=tuple(job.checkpoints),
                freed_bytes=size + (job.artifact_bytes if with_artifact else 0),
            )
        )
    return chosen


def _carry_out(service: Service, chosen: Sequence[Choice], order: PruneOrder) -> tuple[list[Choice], Left]:
    done: list[Choice] = []
    left = Left()
    for first in range(0, len(chosen), _AT_ONCE):
        part = chosen[first : first + _AT_ONCE]
        # A job may have been retried since it was chosen: the journal has the last word.
        gone = service.journal.remove_ended([one.job.id for one in part if one.is_removed], artifacts=order.artifacts)
        gone |= service.journal.strip_ended([one.job.id for one in part if not one.is_removed])
        done += [choice for choice in part if choice.job.id in gone]
    _delete(service, service.reader.undeleted(), left)
    return done, left


def _delete(service: Service, files: Sequence[UndeletedFiles], left: Left) -> None:
    """What cannot be deleted must not keep the rest from going; it is tried again the next time."""
    deleted: set[str] = set()
    for one in files:
        if left.store_is_away:
            left.add(one)
            continue
        try:
            _delete_one(service, one)
        except (OSError, StoreError) as error:
            left.add(one, error)
        else:
            deleted.add(one.job_id)
        if len(deleted) == _AT_ONCE:
            service.journal.deleted(deleted)
            deleted.clear()
    if deleted:
        service.journal.deleted(deleted)


def _delete_one(service: Service, files: UndeletedFiles) -> None:
    if not files.is_removed:
        service.files.delete(files.job_id, folders=files.folders)
        return
    for path in (service.log_path(files.job_id), service.data_dir / "metrics" / f"{files.job_id}.jsonl"):
        path.unlink(missing_ok=True)
    service.files.delete(files.job_id, artifact=files.artifact)
