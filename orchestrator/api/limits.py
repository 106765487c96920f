"""How much one request may ask for, and how long it may take to say it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs.sweep import MAX_RUNS
from jobs.yaml_source import MAX_BYTES
from orchestrator.api.problems import ApiError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Caps that keep one caller from taking the service away from the others."""

    body_bytes: int = MAX_BYTES
    """Largest body of a request: what a spec file may be."""
    body_seconds: float = 30.0
    """For the whole body to arrive."""
    jobs_per_request: int = MAX_RUNS
    """Most jobs that one submission may come to, sweeps expanded."""
    streams: int = 2000
    """Open streams of events."""
    stream_seconds: float = 3600.0
    """Life of a stream; clients come back with the last event they saw."""
    heartbeat_seconds: float = 15.0
    """Silence on a stream after which it says that it lives."""


class BodyLimit:
    """Reads a request's body before anything else does, up to the limit and no further."""

    def __init__(self, app: ASGIApp, *, limits: Limits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its whole body, or refuse it."""
        if scope["type"] != "http" or not _has_body(scope):
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                body = await self._read(scope, receive)
        except TimeoutError:
            await ApiError(408, "slow-body", "the body did not arrive in time", headers=_CLOSE)(scope, receive, send)
            return
        except ApiError as error:
            await error(scope, receive, send)
            return
        if body is None:
            return
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        await self._app(scope, replay, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body; `None` where the client has gone."""
        limit = self._limits.body_bytes
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdigit() and int(declared[:20]) > limit:
            raise _too_large(limit)
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)


_CLOSE = {"Connection": "close"}


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413,
        "too-large",
        f"a body may have {limit // 1024} KiB; submit in several requests, or let a sweep say what differs",
        headers=_CLOSE,
    )
