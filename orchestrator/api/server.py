"""The API on a socket, in a thread of its own beside the scheduler's."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Self

import uvicorn
from fastapi import FastAPI

from jobs.errors import LoraloomError
from orchestrator.api.streams import EventHub

_BACKLOG = 2048
_STOP_SECONDS = 5
_IDLE_SECONDS = 75
"""A connection that nobody asks anything on is kept so long; a page asks more often."""


class _Server(uvicorn.Server):
    """Ends the streams first, which would otherwise be waited for."""

    def __init__(self, config: uvicorn.Config, hub: EventHub) -> None:
        super().__init__(config)
        self._hub = hub

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._hub.close()
        await super().shutdown(sockets)


class HttpServer:
    """Serves an app from `start` to `stop`. The address is taken at once: whoever holds this has it."""

    def __init__(self, app: FastAPI, host: str = "127.0.0.1", port: int = 8400) -> None:
        """Bind, so that a port that is taken is told before anything else begins.

        Args:
            app: As `build_app` makes it.
            host: Name or address of an interface.
            port: 0 for any that is free.

        Raises:
            LoraloomError: Somebody else has the port, or there is no such interface.
        """
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(address)
        except OSError as error:
            raise LoraloomError(
                f"cannot listen at {host}:{port}: {error.strerror or error}; is another service running there? "
                "--port names another port"
            ) from error
        self.host, self.port = host, int(self._socket.getsockname()[1])
        config = uvicorn.Config(
            app,
            # Half the processor time of a request that the parser and the loop in Python take.
            http="httptools",
            loop="uvloop",
            log_level="warning",
            access_log=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=_STOP_SECONDS,
            server_header=False,
            proxy_headers=False,
            ws="none",
        )
        self._server = _Server(config, app.state.hub)
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._failed: BaseException | None = None

    @property
    def url(self) -> str:
        """For clients on this machine."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def start(self) -> None:
        """Answer requests from now on.

        Raises:
            LoraloomError: The server could not begin.
        """
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise LoraloomError(f"the HTTP server could not begin: {self._failed}") from self._failed
            self._thread.join(timeout=0.01)

    def stop(self) -> None:
        """Answer what has been asked, end all streams, and let go of the address."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(timeout=2 * _STOP_SECONDS)
        self._socket.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        except BaseException as error:
            self._failed = error
