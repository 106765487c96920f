"""After a restart of the service: which workers train on, and which attempts died with theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from jobs.records import JobState
from orchestrator.clusters import AdoptedWorker
from orchestrator.journal import Journal, JournaledJob
from orchestrator.lives import LOST

if TYPE_CHECKING:
    from orchestrator.decision import (
        NewWorker,
    )
    from orchestrator.roster import Unpublished


class Adopting(Protocol):
    """A cluster whose workers can outlive the scheduler."""

    def adopt(self, open_attempts: Mapping[str, Mapping[str, int]]) -> Sequence[AdoptedWorker]:
        """Take over workers that train one of these, by worker and job; end all others."""
        ...


def readopt(
    journal: Journal,
    cluster: Adopting,
    *,
    at: float,
    unpublished: Mapping[str, Unpublished] = MappingProxyType({}),
    adopt: Callable[[JournaledJob, list[str]], bool] = lambda _job, _notes: False,
    on_lost: Callable[[], None] = lambda: None,
) -> list[NewWorker]:
    """Take over the workers that live, and end the attempts of which none does.

    After it every open attempt has a worker, or has left an adapter to be published, and what waited for another try
    waits for a place; jobs that their owners have paused stay so. Nothing of a job with an open attempt may be swept
    away before: what its worker has written meanwhile, checkpoints and a staged adapter, it has yet to tell of.

    Args:
        journal: The truth.
        cluster: Joined, and not used yet.
        at: Seconds since the epoch, for events.
        unpublished: What attempts have made and left to be published: those need no worker any more.
        adopt: Called for each attempt whose worker is gone, with a list for what its job's owner should know: whether
            it had finished, and its job has SUCCEEDED with what it left.
        on_lost: Called for each attempt that died with its worker.
    """
    attempts: dict[str, dict[str, int]] = {}
    begun = journal.begun()
    for job in begun:
        if job.attempt_is_open and job.worker_id is not None:
            attempts.setdefault(job.worker_id, {})[job.id] = job.attempt
    adopted = cluster.adopt(attempts)
    living = {(job_id, attempt) for one in adopted for job_id, attempt in one.attempts.items()}
    living |= {(job_id, one.attempt) for job_id, one in unpublished.items()}
    for job in begun:
        if job.attempt_is_open and (job.id, job.attempt) not in living:
            notes: list[str] = []
            if adopt(job, notes):
                continue
            journal.end_attempt(
                job.id,
                attempt=job.attempt,
                state=JobState.PENDING,
                reason=LOST,
                message="; ".join([f"its worker {job.worker_id} was gone when the service came back", *notes]),
                at=at,
                progress=replace(job.progress, ledger=job.progress.ledger.lost().waits(at)),
            )
            on_lost()
        elif not job.attempt_is_open and job.state is JobState.RECOVERING:
            journal.change(
                job.id,
                attempt=None,
                state=JobState.PENDING,
                reason="restarted",
                message="waiting to be placed again",
                at=at,
            )
    return [one.worker for one in adopted]
