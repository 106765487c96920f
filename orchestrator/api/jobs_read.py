"""Looking at jobs: lists in the order and the parts that the database gives them, and one job with all it has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError

from jobs.records import JobState
from jobs.sweep import GOAL_LABEL, METRIC_LABEL, SweepMetric
from orchestrator.api.models import (
    AttemptItem,
    CheckpointItem,
    CheckpointListing,
    EventItem,
    EventPage,
    JobDetail,
    JobItem,
    JobPage,
    LedgerItem,
    MetricItem,
    MetricPage,
    Progress,
    SweepDetail,
    SweepJob,
)
from orchestrator.api.openapi import problems
from orchestrator.api.problems import ApiError, not_found
from orchestrator.api.service import PREFIX, CallerOf, JobId, Service
from orchestrator.api.shared_answers import SharedAnswers
from orchestrator.journal import Attempt, JobFilter, JobSummary, JournaledJob

_KEEP_SECONDS = 1.0
_MAX_SEQUENCE = 2**63 - 1

SortOrder = Literal[
    "submitted", "-submitted", "ended", "-ended", "name", "-name", "state", "-state", "priority", "-priority"
]
After = Annotated[int, Query(ge=0, le=_MAX_SEQUENCE, description="Sequence of the last event that is known already")]
Limit = Annotated[int, Query(ge=1, le=1000)]


def routes(service: Service) -> APIRouter:
    """`GET /jobs`, `/jobs/{id}` and what hangs below it, `/sweeps/{id}`."""
    router = APIRouter(prefix=PREFIX, tags=["jobs"])
    reader = service.reader
    lists = SharedAnswers[bytes](keep_seconds=_KEEP_SECONDS)

    @router.get("/jobs", response_model=JobPage, summary="List jobs")
    async def listed(
        request: Request,
        caller: CallerOf,
        state: Annotated[list[JobState], Query(default_factory=list, description="One of these; repeatable")],
        label: Annotated[list[str], Query(default_factory=list, max_length=16, description="`key=value`; repeatable")],
        q: Annotated[str | None, Query(max_length=200, description="Somewhere in the name or id")] = None,
        queue: Annotated[str | None, Query(max_length=63)] = None,
        owner: Annotated[str | None, Query(max_length=63)] = None,
        sweep: Annotated[str | None, Query(max_length=63)] = None,
        sort: Annotated[SortOrder, Query(description="`-` for the other way round")] = "-submitted",
        after: Annotated[str | None, Query(max_length=1000, description="Cursor, from the part before")] = None,
        limit: Limit = 100,
    ) -> Response:
        """A part of the jobs, filtered and sorted. Progress may be a second old."""
        which = JobFilter(
            states=frozenset(state),
            labels=_labels(label),
            text=q,
            queue=queue,
            owner=owner,
            sweep_id=sweep,
            sort=sort.removeprefix("-"),  # type: ignore[arg-type]
            descending=sort.startswith("-"),
            queues=caller.readable,
        )

        def make() -> JobPage:
            page, at = reader.page(which, after=after, limit=limit), service.now()
            return JobPage(jobs=[item(job, at) for job in page.items], after=page.after)

        # Many open pages ask the same. Whatever happened to a job is an event, so what is shared misses none.
        return await lists.respond((service.journal.num_told, request.url.query, caller.readable), make)

    @router.get("/jobs/{job_id}", responses=problems(404, 409), summary="One job with all that is known of it")
    def one(job_id: JobId, caller: CallerOf) -> JobDetail:
        """By its id, or by a name that it alone bears."""
        job = reader.job(job_id, queues=caller.readable)
        return detail(job, reader.attempts(job.id), service.now())

    @router.get("/jobs/{job_id}/events", responses=problems(404, 409), summary="What happened to a job")
    def events(job_id: JobId, caller: CallerOf, after: After = 0, limit: Limit = 200) -> EventPage:
        """A part of its events, oldest first."""
        job = reader.job(job_id, queues=caller.readable)
        found = [EventItem.model_validate(asdict(event)) for event in reader.events(job.id, after=after, limit=limit)]
        return EventPage(events=found, after=found[-1].sequence if found else after)

    @router.get("/events", summary="What happened to all jobs")
    def all_events(caller: CallerOf, after: After = 0, limit: Limit = 200) -> EventPage:
        """A part of all events, oldest first."""
        told = reader.events(after=after, limit=limit, queues=caller.readable)
        found = [EventItem.model_validate(asdict(event)) for event in told]
        return EventPage(events=found, after=found[-1].sequence if found else after)

    @router.get("/jobs/{job_id}/metrics", responses=problems(404, 409), summary="Losses and rates of a job")
    def metrics(
        job_id: JobId,
        caller: CallerOf,
        after_step: Annotated[int, Query(ge=-1, le=_MAX_SEQUENCE, description="Last step that is known already")] = -1,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 2000,
    ) -> MetricPage:
        """A part of its metrics, in order of steps."""
        job = reader.job(job_id, queues=caller.readable)
        points = reader.metrics(job.id, after_step=after_step, limit=limit)
        found = [MetricItem(step=point.step, kind=point.kind, values=dict(point.values)) for point in points]
        return MetricPage(metrics=found, after_step=found[-1].step if found else after_step)

    @router.get("/jobs/{job_id}/checkpoints", responses=problems(404, 409), summary="Checkpoints of a job")
    def checkpoints(job_id: JobId, caller: CallerOf) -> CheckpointListing:
        """Those to go on from, newest first, and those that were found bad."""
        job = reader.job(job_id, queues=caller.readable)
        good = [(record, None) for record in reader.checkpoints(job.id)]
        bad = [(one.record, one.problem) for one in reader.quarantined(job.id)]
        return CheckpointListing(
            checkpoints=[
                CheckpointItem(**{k: v for k, v in asdict(record).items() if k != "job_id"}, problem=problem)
                for record, problem in [*good, *bad]
            ]
        )

    @router.get("/sweeps/{sweep_id}", responses=problems(404), summary="The jobs of a sweep, and how they differ")
    def sweep(sweep_id: str, caller: CallerOf) -> SweepDetail:
        """All its jobs in order of submission, each with what it has in the fields that differ."""
        found = reader.sweep(sweep_id, queues=caller.readable)
        if not found:
            raise not_found("there is no sweep of that id")
        flat = [dict(_flat(job.spec)) for job in found]
        varies = _varying(flat)
        metric = _compared_by(found)
        values = {job.id: value for job in found if (value := getattr(job.progress, metric.name)) is not None}
        best = min if metric.direction == "minimize" else max
        return SweepDetail(
            id=sweep_id,
            metric=metric.name,
            goal=metric.direction,
            best=best(values, key=values.__getitem__) if values else None,
            states=dict(Counter(job.state for job in found)),
            varies=varies,
            jobs=[
                SweepJob(**_shared(job, service.now()), values={field: values.get(field) for field in varies})
                for job, values in zip(found, flat, strict=True)
            ],
        )

    return router


def _compared_by(jobs: Sequence[JobSummary]) -> SweepMetric:
    """What the jobs of a sweep bear as their metric, or what they have."""
    labels = jobs[0].labels
    has_eval = any(job.progress.eval_loss is not None for job in jobs)
    metric = SweepMetric(name="eval_loss" if has_eval else "train_loss")
    # They are labels like any other, which a job that is none of a sweep's may bear as it likes.
    with suppress(ValidationError):
        stated = {"name": labels.get(METRIC_LABEL, metric.name), "goal": labels.get(GOAL_LABEL)}
        metric = SweepMetric.model_validate(stated)
    return metric


def item(job: JobSummary, at: float) -> JobItem:
    """A job as a list shows it, as of a moment."""
    return JobItem(**_shared(job, at))


def detail(job: JournaledJob, attempts: tuple[Attempt, ...], at: float) -> JobDetail:
    """A job with all it has, as of a moment."""
    return JobDetail(
        **_shared(job, at),
        spec=dict(job.spec),
        spec_sha256=job.spec_sha256,
        estimate=None if job.estimate is None else dict(job.estimate),
        attempts=[AttemptItem(**{k: v for k, v in asdict(one).items() if k != "job_id"}) for one in attempts],
    )


def _shared(job: JobSummary, at: float) -> dict[str, Any]:
    progress = job.progress
    fields = {name: getattr(job, name) for name in JobItem.model_fields if name not in ("labels", "progress", "ledger")}
    return {
        **fields,
        "labels": dict(job.labels),
        "progress": Progress(**{name: getattr(progress, name) for name in Progress.model_fields}),
        "ledger": LedgerItem.model_validate(job.ledger.figures(at)),
    }


def _labels(texts: list[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ApiError(422, "invalid-parameters", f"label is {text[:80]!r}; write key=value")
        if labels.setdefault(key, value) != value:
            raise ApiError(422, "invalid-parameters", f"label {key[:80]!r} cannot have two values at once")
    return labels


def _flat(value: Any, field: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of a spec that is no block, by its dotted path."""
    if isinstance(value, Mapping) and (value or not field):
        for key, inner in value.items():
            yield from _flat(inner, f"{field}.{key}" if field else str(key))
    else:
        yield field, value


def _varying(jobs: list[dict[str, Any]]) -> list[str]:
    fields = dict.fromkeys(field for job in jobs for field in job if field != "name")
    return [field for field in fields if any(job.get(field) != jobs[0].get(field) for job in jobs)]
