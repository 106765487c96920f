"""The door: who may come in at all, under which name of ours, and from which page."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.api.address import Address
from orchestrator.api.problems import ApiError
from orchestrator.api.tokens import Caller, Tokens

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/", "/ui"})
"""Answered without a token: they say nothing but that the service lives, to whoever restarts it, or are the page that
asks a person for the token."""
_OPEN_BELOW = "/ui/"

_SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_CONTENT_POLICY = "default-src 'none'; frame-ancestors 'none'"
"""Nothing under /api is a page; whatever a browser takes it for, it runs no script and loads nothing."""


class Authentication:
    """Refuses foreign Host and Origin headers and missing tokens; puts the `Caller` into the request's state."""

    def __init__(self, app: ASGIApp, *, address: Address, tokens: Tokens | None) -> None:
        self._app = app
        self._address = address
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith("/api/"):
                    headers.setdefault("Content-Security-Policy", _CONTENT_POLICY)
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            caller = self._admit(scope["path"], Headers(scope=scope))
        except ApiError as error:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": str(error.status)})
                return
            await error(scope, receive, guarded)
            return
        scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, guarded)

    def _admit(self, path: str, headers: Headers) -> Caller:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._address.is_ours(hosts[0]):
            raise ApiError(
                421,
                "wrong-host",
                "the Host header does not name this service; address it by its own name, or give that name to "
                "`loraloom serve --name`",
            )
        origin = headers.get("origin")
        if origin is not None and not _same_origin(origin, hosts[0]):
            raise ApiError(403, "wrong-origin", "a page of another origin may not call this service")
        if self._tokens is None:
            return Caller()
        kind, _, token = headers.get("authorization", "").partition(" ")
        caller = self._tokens.caller(token.strip()) if kind.lower() == "bearer" else None
        if caller is not None:
            return caller
        if path in OPEN_PATHS or path.startswith(_OPEN_BELOW):
            return Caller(queues=frozenset(), reads_own=True)
        challenge = 'Bearer realm="loraloom"' + (', error="invalid_token"' if token else "")
        detail = "the token is not known here" if token else "a token is needed"
        raise ApiError(
            401,
            "unauthorised",
            f"{detail}: send `Authorization: Bearer …` (clients read LORALOOM_TOKEN)",
            headers={"WWW-Authenticate": challenge},
        )


def _same_origin(origin: str, host: str) -> bool:
    """Whether a page comes from where the request goes to. A proxy may have changed http to https, so both pass."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()
