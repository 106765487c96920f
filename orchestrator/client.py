"""A Loraloom service from Python.

with Client() as client:
    [job] = client.submit(Path("job.yaml").read_text()).jobs
    for event in client.follow(job.id):
        print(event.state, event.message)
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, TypeAdapter

from jobs.records import JobState
from jobs.view import ClusterView
from orchestrator.api.models import (
    ArtifactFile,
    ArtifactListing,
    CheckpointListing,
    EventItem,
    EventPage,
    JobDetail,
    JobItem,
    JobPage,
    MetricItem,
    MetricPage,
    Submitted,
    SweepDetail,
    Validated,
)
from orchestrator.api.operator_models import Health, PruneOrder, PrunePlan, QueueListing, WorkerListing
from orchestrator.http_transport import (
    NotFoundError,
    RefusedError,
    ServiceError,
    Transport,
    UnauthorisedError,
    UnreachableError,
)

__all__ = [
    "Client",
    "NotFoundError",
    "RefusedError",
    "ServiceError",
    "UnauthorisedError",
    "UnreachableError",
]

DEFAULT_URL = "http://127.0.0.1:8400"
_API = "/api/v1"
_PAGE = 500
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class LogPart:
    """A piece of a log."""

    content: bytes
    end: int
    """Position after it in the whole log: where the next piece begins."""


class Client:
    """Every call of the API, typed. Safe to share between threads; close it when done."""

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        timeout_seconds: float = 30.0,
        patience_seconds: float = 10.0,
    ) -> None:
        """Address a service; nothing is sent yet.

        Args:
            url: `None` takes LORALOOM_URL, and without it this machine's default.
            token: `None` takes LORALOOM_TOKEN, if there is one.
            timeout_seconds: For each answer.
            patience_seconds: How long to try again while nothing answers, as during a restart.

        Raises:
            ServiceError: The URL is none.
        """
        url = url if url is not None else os.environ.get("LORALOOM_URL") or DEFAULT_URL
        token = token if token is not None else os.environ.get("LORALOOM_TOKEN") or None
        self._http = Transport(url, token, timeout_seconds=timeout_seconds, patience_seconds=patience_seconds)
        self.url = self._http.url

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(
        self,
        specs: str | Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        overrides: Sequence[str] = (),
        directory: Path | str | None = None,
        key: str | None = None,
        is_json: bool = False,
    ) -> Submitted:
        """Submit jobs, all or none.

        Args:
            specs: YAML as in a spec file, or one job or several as plain data.
            overrides: `dotted.field=value`, set in every job.
            directory: What relative paths of files in the specs are relative to; `None`: the current one.
            key: With the same key and the same specs it is the same submission, however often it is made. One is made
                up where there is none, so that a lost answer does not submit twice.
            is_json: Whether a text is JSON, which may be a list of jobs.

        Raises:
            SpecError: What is wrong with the specs.
            RefusedError: The key was used for something else, or it is too much at once.
        """
        headers = {"Idempotency-Key": key if key is not None else secrets.token_hex(16)}
        return self._post_specs("/jobs", specs, overrides, directory, is_json, headers, Submitted)

    def validate(
        self,
        specs: str | Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        overrides: Sequence[str] = (),
        directory: Path | str | None = None,
        is_json: bool = False,
    ) -> Validated:
        """Check specs without submitting them; see `submit`.

        Raises:
            SpecError: What is wrong with the specs.
        """
        return self._post_specs("/jobs:validate", specs, overrides, directory, is_json, {}, Validated)

    def page(self, *, after: str | None = None, limit: int = 100, **which: Any) -> JobPage:
        """A part of a list of jobs; see `jobs` for what narrows it."""
        parameters = {name: value for name, value in {"after": after, "limit": limit, **which}.items() if value}
        return self._get("/jobs", JobPage, params=parameters)

    def jobs(
        self,
        *,
        state: Collection[JobState] = (),
        label: Collection[str] = (),
        q: str | None = None,
        queue: str | None = None,
        owner: str | None = None,
        sweep: str | None = None,
        sort: str = "-submitted",
        limit: int | None = None,
    ) -> Iterator[JobItem]:
        """Jobs, fetched in parts as they are asked for.

        Args:
            state: One of these.
            label: `key=value`, all of them.
            q: Somewhere in the name or id.
            queue: In this queue.
            owner: Submitted with the token of this name.
            sweep: Of this sweep.
            sort: submitted, ended, name, state or priority; `-` for the other way round.
            limit: So many at most.
        """
        which = {"state": [one.value for one in state], "label": list(label), "q": q, "queue": queue, "owner": owner}
        after, left = None, limit
        while left is None or left > 0:
            size = _PAGE if left is None else min(left, _PAGE)
            page = self.page(after=after, limit=size, sweep=sweep, sort=sort, **which)
            yield from page.jobs
            after, left = page.after, None if left is None else left - len(page.jobs)
            if after is None:
                return

    def job(self, job: str) -> JobDetail:
        """One job, by its id or by a name that it alone bears."""
        return self._get(_path(job), JobDetail)

    def cancel(self, job: str) -> JobDetail:
        """Ask that a job ends."""
        return self._post(_path(job, "cancel"), JobDetail)

    def pause(self, job: str) -> JobDetail:
        """Ask that a job is saved and gives its place away."""
        return self._post(_path(job, "pause"), JobDetail)

    def resume(self, job: str) -> JobDetail:
        """Ask that a paused job goes on."""
        return self._post(_path(job, "resume"), JobDetail)

    def retry(self, job: str) -> JobDetail:
        """Ask that a job that failed or was cancelled is tried again."""
        return self._post(_path(job, "retry"), JobDetail)

    def change(self, job: str, *, priority: int | None = None, queue: str | None = None) -> JobDetail:
        """Change a job's priority or queue."""
        values = {name: value for name, value in (("priority", priority), ("queue", queue)) if value is not None}
        return JobDetail.model_validate(self._http.request("PATCH", _API + _path(job), json=values).json())

    def events(self, job: str | None = None, *, after: int = 0) -> Iterator[EventItem]:
        """What has happened so far, to one job or to all, oldest first."""
        path = "/events" if job is None else _path(job, "events")
        while True:
            page = self._get(path, EventPage, params={"after": after, "limit": _PAGE})
            yield from page.events
            after = page.after
            if len(page.events) < _PAGE:
                return

    def follow(self, job: str | None = None, *, after: int | None = None) -> Iterator[EventItem]:
        """What has happened to a job and what happens, without end; or, without a job, what happens to all of them.

        A service that goes away is waited for, and no event is missed or told twice.

        Args:
            job: Id or name.
            after: Sequence of the last event that is known.
        """
        return (event for event in self._followed(job, after) if event is not None)

    def wait(self, jobs: Collection[str], *, after: int = 0) -> Iterator[EventItem | JobDetail]:
        """Follow jobs to their ends.

        Args:
            jobs: Ids.
            after: Sequence of the last event that is known.

        Yields:
            What has happened to them and what happens, and each job once it has ended.
        """
        seen = dict.fromkeys(jobs, after)
        for event in self._followed(next(iter(seen)) if len(seen) == 1 else None, after or None):
            if event is None:
                # What happened before the stream stood.
                for job_id in list(seen):
                    yield from self._caught_up(job_id, seen)
            elif event.sequence > seen.get(event.job_id, event.sequence):
                seen[event.job_id] = event.sequence
                yield event
                if event.state.is_terminal:
                    yield from self._caught_up(event.job_id, seen)
            if not seen:
                return

    def _caught_up(self, job_id: str, seen: dict[str, int]) -> Iterator[EventItem | JobDetail]:
        """What has happened to a job and was not told yet; and the job, no longer among those, if it has ended."""
        while True:
            # In this order all events of an end that is seen here come before it.
            job = self.job(job_id)
            new = list(self.events(job_id, after=seen[job_id]))
            yield from new
            if new:
                seen[job_id] = new[-1].sequence
            if job.state.is_terminal:
                del seen[job_id]
                yield job
                return
            if not any(event.state.is_terminal for event in new):
                return

    def metrics(self, job: str) -> Iterator[MetricItem]:
        """Losses and rates of a job so far, in order of steps."""
        after = -1
        while True:
            page = self._get(_path(job, "metrics"), MetricPage, params={"after_step": after, "limit": 5000})
            yield from page.metrics
            if len(page.metrics) < 5000:
                return
            after = page.after_step

    def log(self, job: str, *, tail: int | None = None) -> str:
        """The log of a job, or its last lines."""
        parameters = {} if tail is None else {"tail": tail}
        return self._http.request("GET", _API + _path(job, "logs"), params=parameters).text

    def log_from(self, job: str, first: int) -> LogPart:
        """What the log of a job has from a byte on; negative counts from its end, and means all if there is less."""
        header = f"bytes={first}-" if first >= 0 else f"bytes={first}"
        try:
            response = self._http.request("GET", _API + _path(job, "logs"), headers={"Range": header})
        except RefusedError as error:
            if error.status != 416:
                raise
            return LogPart(content=b"", end=max(first, 0))
        place = re.fullmatch(r"bytes (\d+)-(\d+)/\d+", response.headers.get("content-range", ""))
        end = int(place[2]) + 1 if place is not None else len(response.content)
        return LogPart(content=response.content, end=end)

    def checkpoints(self, job: str) -> CheckpointListing:
        """Checkpoints of a job."""
        return self._get(_path(job, "checkpoints"), CheckpointListing)

    def artifacts(self, job: str) -> ArtifactListing:
        """Files of a job's published adapter."""
        return self._get(_path(job, "artifacts"), ArtifactListing)

    def artifact_chunks(self, job: str, file: ArtifactFile) -> Iterator[bytes]:
        """The bytes of one file, as they come.

        Raises:
            ServiceError: They are not what was published.
        """
        digest, size = hashlib.sha256(), 0
        with self._http.stream(_API + _path(job, "artifacts", file.name)) as response:
            for chunk in response.iter_bytes():
                digest.update(chunk)
                size += len(chunk)
                yield chunk
        if (digest.hexdigest(), size) != (file.sha256, file.size_bytes):
            raise ServiceError(f"{file.name} of {job} is not what was published: its sha256 is {digest.hexdigest()}")

    def sweep(self, sweep_id: str) -> SweepDetail:
        """The jobs of a sweep, and how they differ."""
        return self._get(f"/sweeps/{quote(sweep_id, safe='')}", SweepDetail)

    def cluster(self) -> ClusterView:
        """Nodes, devices and workers, and who shares what."""
        return TypeAdapter(ClusterView).validate_json(self._http.request("GET", f"{_API}/cluster").content)

    def workers(self) -> WorkerListing:
        """Workers alone."""
        return self._get("/workers", WorkerListing)

    def queues(self) -> QueueListing:
        """Queues, and what is in them."""
        return self._get("/queues", QueueListing)

    def prune(self, order: PruneOrder) -> PrunePlan:
        """Remove old checkpoints and ended jobs, or say what would go."""
        return self._post("/prune", PrunePlan, json=order.model_dump(mode="json", exclude_none=True))

    def ready(self) -> Health:
        """Whether the service is ready.

        Raises:
            ServiceError: It does not answer, or not as a service does.
        """
        return Health.model_validate_json(self._http.request("GET", "/readyz").content)

    def _followed(self, job: str | None, after: int | None) -> Iterator[EventItem | None]:
        path = "/stream" if job is None else _path(job, "stream")
        for data in self._http.frames(_API + path, after):
            yield None if data is None else EventItem.model_validate(data)

    def _get(self, path: str, model: type[M], **options: Any) -> M:
        return model.model_validate_json(self._http.request("GET", _API + path, **options).content)

    def _post(self, path: str, model: type[M], **options: Any) -> M:
        return model.model_validate_json(self._http.request("POST", _API + path, **options).content)

    def _post_specs(
        self,
        path: str,
        specs: str | Mapping[str, Any] | Sequence[Mapping[str, Any]],
        overrides: Sequence[str],
        directory: Path | str | None,
        is_json: bool,
        headers: Mapping[str, str],
        model: type[M],
    ) -> M:
        text = specs if isinstance(specs, str) else json.dumps(specs, ensure_ascii=False)
        kind = "application/json" if is_json or not isinstance(specs, str) else "application/yaml"
        where = Path.cwd() if directory is None else Path(directory).absolute()
        return self._post(
            path,
            model,
            content=text.encode("utf-8", "surrogatepass"),
            params={"set": list(overrides), "directory": str(where)},
            headers={"Content-Type": kind, **headers},
        )


def _path(job: str, *below: str) -> str:
    return "/".join(["/jobs", *(quote(part, safe="") for part in (job, *below))])
