"""Submitting and checking specs."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from jobs.errors import Problem, SpecError
from jobs.loading import LoadedSpec, load_text
from jobs.spec import JobSpec
from orchestrator.api.local_paths import LocalPaths
from orchestrator.api.models import Submitted, SubmittedJob, Validated
from orchestrator.api.openapi import SPEC_BODY, problems
from orchestrator.api.problems import ApiError, invalid_spec
from orchestrator.api.service import PREFIX, CallerOf, Service, require_queue
from orchestrator.api.tokens import Caller
from orchestrator.journal import Submission, SubmissionKey

_JSON = frozenset({"application/json"})
_YAML = frozenset({"application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"})

Overrides = Annotated[
    list[str],
    Query(
        alias="set",
        default_factory=list,
        max_length=100,
        description="`dotted.field=value`, set in every document; repeatable",
    ),
]
Directory = Annotated[
    str | None,
    Query(
        max_length=4096,
        pattern=r"^/[^\x00]*$",
        description="Absolute folder that relative paths of files in the specs are below",
    ),
]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[!-~]+$",
        description="Chosen by the client. The same key with the same body is the same submission, however often "
        "it is sent",
    ),
]


def routes(service: Service) -> APIRouter:
    """`POST /jobs` and `POST /jobs:validate`."""
    router = APIRouter(prefix=PREFIX, tags=["jobs"])
    rules = LocalPaths(own=service.data_dir.resolve(), roots=service.roots)

    @router.post(
        "/jobs",
        status_code=201,
        responses=problems(403, 408, 413, 415, 507),
        openapi_extra=SPEC_BODY,
        summary="Submit one or more specs",
    )
    async def submit(
        request: Request, response: Response, caller: CallerOf, set_: Overrides, directory: Directory = None,
        key: Key = None,
    ) -> Submitted:  # fmt: skip
        """Take in the jobs of all documents, sweeps expanded, or none. Once this has answered they are never lost."""
        body = await request.body()
        file = _file(request)

        def take() -> tuple[Submitted, bool]:
            named = _key(key, caller, body, set_, directory)
            before = service.reader.submission(named) if named is not None else None
            if before is not None:
                # Known already: it is not held against the caller that, say, a root has moved since.
                jobs = [service.reader.job(job_id) for job_id in before]
                items = [_item(job.id, job.name, job.queue, job.priority, job.sweep_id) for job in jobs if job]
                return Submitted(jobs=items), True
            loaded = _load(body, file, set_, service.limits.jobs_per_request)
            specs = _settle(rules, loaded, directory)
            for queue in {spec.scheduling.queue for spec in specs}:
                require_queue(caller, queue)
            sweeps = {one.sweep: f"sweep-{secrets.token_hex(6)}" for one in loaded if one.sweep is not None}
            submissions = [
                Submission(
                    spec=spec, owner=caller.name, sweep_id=sweeps.get(one.sweep) if one.sweep is not None else None
                )
                for one, spec in zip(loaded, specs, strict=True)
            ]
            ids = service.journal.submit(submissions, at=service.now(), key=named)
            items = [
                _item(job_id, one.spec.name, one.spec.scheduling.queue, one.spec.scheduling.priority, one.sweep_id)
                for job_id, one in zip(ids, submissions, strict=True)
            ]
            return Submitted(jobs=items), False

        submitted, is_known = await run_in_threadpool(take)
        if is_known:
            response.headers["Idempotent-Replayed"] = "true"
        else:
            service.wake()
        return submitted

    @router.post(
        "/jobs:validate",
        responses=problems(408, 413, 415),
        openapi_extra=SPEC_BODY,
        summary="Check specs without submitting them",
    )
    async def validate(request: Request, set_: Overrides, directory: Directory = None) -> Validated:
        """The specs, defaults filled in and sweeps expanded. Bases and data are looked at after submission."""
        body = await request.body()
        file = _file(request)

        def check() -> list[dict[str, Any]]:
            loaded = _load(body, file, set_, service.limits.jobs_per_request)
            return [spec.model_dump(mode="json") for spec in _settle(rules, loaded, directory)]

        return Validated(specs=await run_in_threadpool(check))

    return router


def _file(request: Request) -> str:
    """A name for the body, by which the loader knows JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in _JSON:
        return "body.json"
    if not kind or kind in _YAML:
        return "body"
    raise ApiError(415, "wrong-media-type", "send specs as `Content-Type: application/yaml` or `application/json`")


def _load(body: bytes, file: str, overrides: list[str], most: int) -> list[LoadedSpec]:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        problem = Problem(message=f"not UTF-8: byte 0x{body[error.start]:02X}; send UTF-8", line=line)
        raise invalid_spec(SpecError([problem])) from error
    try:
        loaded = load_text(text, file=file, overrides=overrides)
    except SpecError as error:
        raise _without_file(error) from error
    if len(loaded) > most:
        raise ApiError(422, "too-many-jobs", f"{len(loaded):,} jobs; one submission may come to {most:,}")
    return loaded


def _settle(rules: LocalPaths, loaded: list[LoadedSpec], directory: str | None) -> list[JobSpec]:
    try:
        return rules.settle(loaded, directory=directory)
    except SpecError as error:
        raise _without_file(error) from error


def _without_file(error: SpecError) -> ApiError:
    """The body has no name that the caller would know."""
    own = ("body", "body.json")
    problems = [
        problem.at(file=None, line=problem.line) if problem.file in own else problem for problem in error.problems
    ]
    return invalid_spec(SpecError(problems))


def _key(
    key: str | None, caller: Caller, body: bytes, overrides: list[str], directory: str | None
) -> SubmissionKey | None:
    if key is None:
        return None
    # All that decides what is submitted.
    whole = b"\0".join([body, *(text.encode("utf-8", "surrogateescape") for text in (directory or "", *overrides))])
    return SubmissionKey.of(key, whole, owner=caller.name)


def _item(job_id: str, name: str, queue: str, priority: int, sweep_id: str | None) -> SubmittedJob:
    return SubmittedJob(id=job_id, name=name, queue=queue, priority=priority, sweep_id=sweep_id)
