"""The cluster and its queues, as the scheduler last published them."""

from __future__ import annotations

from dataclasses import replace

from fastapi import APIRouter, Response
from pydantic import RootModel

from jobs.records import JobState
from jobs.view import ClusterView, WorkerView
from orchestrator.api.operator_models import QueueItem, QueueListing, WorkerListing
from orchestrator.api.service import PREFIX, CallerOf, Service
from orchestrator.api.shared_answers import SharedAnswers
from orchestrator.api.tokens import Caller
from orchestrator.journal import JournalReader

_KEEP_SECONDS = 1.0
_OTHERS = "of another queue"
"""Instead of a base that only jobs train on which the caller does not see."""
_NOTHING_YET = ClusterView(
    published_unix_seconds=0.0,
    executor="not started yet",
    nodes=0,
    devices=0,
    devices_in_use=0,
    workers=(),
    queues=(),
    utilization=None,
    tokens_per_second=None,
)


def routes(service: Service) -> APIRouter:
    """`/cluster`, `/workers`, `/queues`."""
    router = APIRouter(prefix=PREFIX, tags=["cluster"])
    views = SharedAnswers[bytes](keep_seconds=_KEEP_SECONDS)
    listings = SharedAnswers[bytes](keep_seconds=_KEEP_SECONDS)

    def view() -> ClusterView:
        return service.cluster() or _NOTHING_YET

    def seen(shown: ClusterView, caller: Caller) -> ClusterView:
        return shown if caller.readable is None else _seen_from(caller.readable, shown, service.reader)

    @router.get("/cluster", response_model=ClusterView, summary="Nodes, devices, workers, and who shares what")
    async def cluster(caller: CallerOf) -> Response:
        """All of it, at one moment."""
        shown = view()
        key = (shown.published_unix_seconds, caller.readable)
        return await views.respond(key, lambda: RootModel[ClusterView](seen(shown, caller)))

    @router.get("/workers", summary="Workers alone")
    def workers(caller: CallerOf) -> WorkerListing:
        """With the split of their memory and the jobs that share them."""
        return WorkerListing(workers=list(seen(view(), caller).workers))

    @router.get("/queues", response_model=QueueListing, summary="Queues")
    async def queues(caller: CallerOf) -> Response:
        """Those that something was set for, and those that jobs were submitted to. Shares may be a second old."""
        return await listings.respond((service.journal.num_told, caller.readable), lambda: listing(caller.readable))

    def listing(readable: frozenset[str] | None) -> QueueListing:
        states: dict[str, dict[JobState, int]] = {}
        for (state, queue), number in service.reader.counts_by_state_and_queue(queues=readable).items():
            states.setdefault(queue, {})[state] = number
        known = {queue.name: queue for queue in view().queues if readable is None or queue.name in readable}
        found = []
        for name in sorted(states.keys() | known.keys()):
            queue = known.get(name)
            found.append(
                QueueItem(
                    name=name,
                    weight=queue.weight if queue else None,
                    quota=queue.quota if queue else None,
                    share=queue.share if queue else None,
                    states=states.get(name, {}),
                )
            )
        return QueueListing(queues=found)

    return router


def _seen_from(queues: frozenset[str], shown: ClusterView, reader: JournalReader) -> ClusterView:
    """The cluster for whoever sees the jobs of some queues: how full it is, and of others not by whom or what."""
    ids = reader.ids_in([one.job_id for worker in shown.workers for one in worker.sharers], queues)
    workers: list[WorkerView] = []
    for worker in shown.workers:
        theirs = tuple(one for one in worker.sharers if one.job_id in ids)
        workers.append(replace(worker, sharers=theirs, base=worker.base if theirs else _OTHERS))
    return replace(shown, workers=tuple(workers), queues=tuple(queue for queue in shown.queues if queue.name in queues))
