"""The cluster and its queues, as the scheduler last published them."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic import RootModel

from jobs.records import JobState
from jobs.view import ClusterView
from orchestrator.api.operator_models import QueueItem, QueueListing, WorkerListing
from orchestrator.api.service import PREFIX, Service
from orchestrator.api.shared_answers import SharedAnswers

_KEEP_SECONDS = 1.0
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

    @router.get("/cluster", response_model=ClusterView, summary="Nodes, devices, workers, and who shares what")
    async def cluster() -> Response:
        """All of it, at one moment."""
        shown = view()
        return await views.respond(shown.published_unix_seconds, lambda: RootModel[ClusterView](shown))

    @router.get("/workers", summary="Workers alone")
    async def workers() -> WorkerListing:
        """With the split of their memory and the jobs that share them."""
        return WorkerListing(workers=list(view().workers))

    @router.get("/queues", response_model=QueueListing, summary="Queues")
    async def queues() -> Response:
        """Those that something was set for, and those that jobs were submitted to. Shares may be a second old."""
        return await listings.respond(service.journal.num_told, listing)

    def listing() -> QueueListing:
        states: dict[str, dict[JobState, int]] = {}
        for (state, queue), number in service.reader.counts_by_state_and_queue().items():
            states.setdefault(queue, {})[state] = number
        known = {queue.name: queue for queue in view().queues}
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
