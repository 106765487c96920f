"""For whoever restarts the service, and for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dashboards.metric_table import BY_NAME
from orchestrator.api.operator_models import Health
from orchestrator.api.service import CallerOf, require_reading_all

NotReady = Callable[[], str | None]
"""Why the service takes no requests now; `None` when it does."""


def routes(*, version: str, not_ready: NotReady, registry: CollectorRegistry) -> APIRouter:
    """`/healthz`, `/readyz` and `/metrics`."""
    router = APIRouter(tags=["service"])

    @router.get("/healthz")
    async def healthz() -> Health:
        """The process answers."""
        return Health(status="ok", version=version)

    @router.get("/readyz", responses={503: {"model": Health, "description": "Not ready"}})
    def readyz(response: Response) -> Health:
        """The service takes requests: its journal can be read, and it is not being stopped."""
        why = not_ready()
        if why is None:
            return Health(status="ok", version=version)
        response.status_code = 503
        return Health(status="not_ready", detail=why, version=version)

    @router.get("/metrics", response_class=PlainTextResponse)
    def metrics(caller: CallerOf) -> Response:
        """Every figure of the service, in the text format of Prometheus; of all queues, for those who see them."""
        require_reading_all(caller)
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return router


class RequestTimes:
    """Measures every request. Times are by route, never by path: there are as many paths as jobs."""

    def __init__(self, app: ASGIApp, *, registry: CollectorRegistry) -> None:
        self._app = app
        metric = BY_NAME["http_request_duration_seconds"]
        self._seconds = Histogram(
            metric.full_name, metric.help, metric.labels, registry=registry, buckets=metric.buckets
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                route: BaseRoute | None = scope.get("route")
                path = getattr(route, "path", "none")
                method = scope["method"] if scope["method"] in _METHODS else "other"
                self._seconds.labels(method, path, str(message["status"])).observe(time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, timed)


_METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"})
