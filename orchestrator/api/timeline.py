"""What the web pages ask for beside single jobs: who shared what and when, which sweeps there are, who asks."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Response

from orchestrator.api.operator_models import CallerItem, SweepItem, SweepListing, Timeline, TimelineSpan
from orchestrator.api.service import PREFIX, CallerOf, Service
from orchestrator.api.shared_answers import SharedAnswers

_KEEP_SECONDS = 2.0
_MOST_SPANS = 1000
_MOST_SWEEPS = 200
_LONGEST_SECONDS = 7 * 24 * 3600


def routes(service: Service) -> APIRouter:
    """`/timeline`, `/sweeps` and `/caller`."""
    router = APIRouter(prefix=PREFIX)
    timelines = SharedAnswers[bytes](keep_seconds=_KEEP_SECONDS)
    listings = SharedAnswers[bytes](keep_seconds=_KEEP_SECONDS)

    @router.get("/timeline", response_model=Timeline, tags=["cluster"], summary="Which jobs were on which worker")
    async def timeline(
        caller: CallerOf,
        seconds: Annotated[int, Query(ge=60, le=_LONGEST_SECONDS, description="How far to look back")] = 3600,
    ) -> Response:
        """Attempts of the last while, the newest first. May be two seconds old."""

        def make() -> Timeline:
            until = service.now()
            found = service.reader.spans(since=until - seconds, limit=_MOST_SPANS + 1, queues=caller.readable)
            return Timeline(
                since_unix_seconds=until - seconds,
                until_unix_seconds=until,
                spans=[TimelineSpan(**asdict(span)) for span in found[:_MOST_SPANS]],
                is_whole=len(found) <= _MOST_SPANS,
            )

        return await timelines.respond((seconds, caller.readable), make)

    @router.get("/sweeps", response_model=SweepListing, tags=["jobs"], summary="Sweeps")
    async def sweeps(caller: CallerOf) -> Response:
        """Those that were submitted last, the newest first. May be two seconds old."""

        def make() -> SweepListing:
            return SweepListing(
                sweeps=[
                    SweepItem(
                        id=one.id,
                        name=one.first_name.rpartition("-")[0] or one.first_name,
                        submitted_unix_seconds=one.submitted_unix_seconds,
                        states=one.states,
                    )
                    for one in service.reader.sweeps(limit=_MOST_SWEEPS, queues=caller.readable)
                ]
            )

        return await listings.respond(caller.readable, make)

    @router.get("/caller", tags=["service"], summary="Who asks")
    async def caller(caller: CallerOf) -> CallerItem:
        """The name of the token, the queues that its bearer may act in, and whose jobs they see."""
        return CallerItem(
            name=caller.name,
            queues=None if caller.queues is None else sorted(caller.queues),
            read="own" if caller.reads_own else "all",
        )

    return router
