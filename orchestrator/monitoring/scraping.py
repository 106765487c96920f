"""A port that Prometheus scrapes, for a process that serves nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server

from jobs.errors import LoraloomError


@contextmanager
def scraped(registry: CollectorRegistry, port: int) -> Iterator[None]:
    """Answer on a port of the loopback while the block runs.

    Raises:
        LoraloomError: The port is not free.
    """
    try:
        server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    except OSError as error:
        raise LoraloomError(f"--metrics-port {port} cannot be used: {error.strerror}; name another") from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
