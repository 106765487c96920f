"""`/stream`: events as they happen, for browsers and for `loraloom submit --wait`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse

from orchestrator.api.openapi import problems
from orchestrator.api.service import PREFIX, CallerOf, JobId, Service
from orchestrator.api.streams import EventHub
from orchestrator.api.tokens import Caller

_MAX_SEQUENCE = 2**63 - 1
_EVENT = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "description": "Sequence of the event"},
        "event": {"const": "job"},
        "data": {"type": "string", "contentMediaType": "application/json", "description": "An `EventItem`"},
    },
    "required": ["id", "event", "data"],
}
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Each event with its sequence as `id`, `job` as its kind, and the event as JSON. A comment now "
        "and then says that the stream lives. It may end at any time: come back with `Last-Event-ID`",
        "content": {"text/event-stream": {"schema": _EVENT}},
    }
}

Seen = Annotated[
    str | None,
    Header(alias="Last-Event-ID", max_length=40, description="Sequence of the last event seen; a number"),
]
After = Annotated[int | None, Query(ge=0, le=_MAX_SEQUENCE, description="The same, for a first request")]


def routes(service: Service, hub: EventHub) -> APIRouter:
    """`/jobs/{id}/stream` and `/stream`."""
    router = APIRouter(prefix=PREFIX, tags=["events"])

    @router.get(
        "/jobs/{job_id}/stream",
        response_class=StreamingResponse,
        responses={**_STREAM, **problems(404, 409)},
        summary="Events of a job as they happen",
    )
    def of_job(job_id: JobId, caller: CallerOf, last_event_id: Seen = None, after: After = None) -> StreamingResponse:
        """From the job's first event on, or from the one after the last that was seen."""
        job = service.reader.job(job_id, queues=caller.readable)
        return _stream(hub, job.id, _seen(last_event_id, after if after is not None else 0), caller)

    @router.get(
        "/stream", response_class=StreamingResponse, responses=_STREAM, summary="Events of all jobs as they happen"
    )
    def of_all(caller: CallerOf, last_event_id: Seen = None, after: After = None) -> StreamingResponse:
        """From now on, or from the one after the last that was seen."""
        return _stream(hub, None, _seen(last_event_id, after), caller)

    return router


def _seen(header: str | None, after: int | None) -> int | None:
    """A header that is no number is what a browser sends that has seen nothing of ours."""
    if header is not None and header.isdecimal() and header.isascii() and int(header) <= _MAX_SEQUENCE:
        return int(header)
    return after


def _stream(hub: EventHub, job_id: str | None, after: int | None, caller: Caller) -> StreamingResponse:
    # Proxies that gather what they pass on would hold events back.
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(
        hub.follow(job_id, after, queues=caller.readable), media_type="text/event-stream", headers=headers
    )
