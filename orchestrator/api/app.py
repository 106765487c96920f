"""The whole API as one application."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from jobs.errors import LoraloomError
from jobs.view import ClusterView
from orchestrator.api import cluster as cluster_routes
from orchestrator.api import (
    events_stream,
    files,
    health,
    jobs_read,
    openapi,
    pages,
    problems,
    pruning,
    steering,
    submitting,
    timeline,
)
from orchestrator.api.address import Address
from orchestrator.api.authentication import Authentication
from orchestrator.api.health import RequestTimes
from orchestrator.api.limits import BodyLimit, Limits
from orchestrator.api.service import Service
from orchestrator.api.streams import EventHub
from orchestrator.api.tokens import Tokens
from orchestrator.job_files import JobFiles
from orchestrator.journal import Journal, JournalReader


def build_app(
    journal: Journal,
    wake: Callable[[], None],
    *,
    data_dir: Path,
    address: Address = Address(),  # noqa: B008
    tokens: Tokens | None = None,
    roots: Sequence[Path] | None = None,
    cluster: Callable[[], ClusterView | None] = lambda: None,
    not_ready: Callable[[], str | None] = lambda: None,
    registry: CollectorRegistry | None = None,
    log_path: Callable[[str], Path] | None = None,
    job_files: JobFiles | None = None,
    limits: Limits = Limits(),  # noqa: B008
    now: Callable[[], float] = time.time,
) -> FastAPI:
    """The API over a journal. Imports neither torch nor ray, and touches nothing of the scheduler's.

    Args:
        journal: Open for writing, shared with the scheduler: each call is one transaction, from any thread.
        wake: Tells the scheduler that intent has changed; called from any thread, must not wait.
        data_dir: Of the service: `logs/<job id>.log`, `checkpoints/<job id>/`, `artifacts/`.
        address: Where the service listens and what it may be called.
        tokens: Who may call; `None` lets everybody of this machine.
        roots: Folders that local files of specs must lie in; `None` for anywhere but `data_dir`.
        cluster: The scheduler's latest view, from any thread.
        not_ready: Why no requests should come now, such as that the service is being stopped; `None` else.
        registry: Shown at `/metrics`; the times of requests are added to it.
        log_path: Where a job's log is, by its id.
        job_files: Checkpoints and adapters; those in `data_dir` where not given.
        limits: Caps on what one request may ask for.
        now: Seconds since the epoch.

    Raises:
        LoraloomError: The address is public and there are no tokens.
    """
    address.require_tokens(tokens is not None)
    registry = registry if registry is not None else CollectorRegistry()
    reader = JournalReader(journal.path)
    service = Service(
        journal=journal,
        reader=reader,
        wake=wake,
        data_dir=data_dir,
        roots=None if roots is None else tuple(root.resolve() for root in roots),
        cluster=cluster,
        log_path=log_path or (lambda job_id: data_dir / "logs" / f"{job_id}.log"),
        files=job_files or JobFiles(data_dir),
        now=now,
        limits=limits,
    )
    pruning.finish_deletions(service)
    hub = EventHub(reader, limits, lambda: journal.num_told)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        hub.close()
        reader.close()

    number = version("loraloom")
    app = FastAPI(
        title="Loraloom",
        version=number,
        description="Train many LoRA adapters at once on shared base models.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.hub = hub
    problems.install(app)
    openapi.install(app, has_tokens=tokens is not None)
    for router in (
        submitting.routes(service),
        jobs_read.routes(service),
        steering.routes(service),
        files.routes(service),
        events_stream.routes(service, hub),
        cluster_routes.routes(service),
        pruning.routes(service),
        timeline.routes(service),
    ):
        app.include_router(router, responses=openapi.problems(*openapi.ALWAYS))
    app.include_router(
        health.routes(version=number, not_ready=lambda: not_ready() or _unreadable(reader), registry=registry),
        responses=openapi.problems(401, 403, 421),
    )
    app.include_router(pages.routes())
    # The one that is added last is met first.
    app.add_middleware(BodyLimit, limits=limits)
    app.add_middleware(Authentication, address=address, tokens=tokens)
    app.add_middleware(RequestTimes, registry=registry)
    return app


def _unreadable(reader: JournalReader) -> str | None:
    """Whether the journal cannot be read. Whoever asks may be anybody: paths and errors are for the log."""
    try:
        reader.last_sequence()
    except LoraloomError:
        return "its journal cannot be read"
    return None
