"""Errors as `application/problem+json` (RFC 9457): what kind, what went wrong here, and for specs each problem."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from jobs.checkpoints import DiskFullError
from jobs.errors import LoraloomError, Problem, SpecError
from jobs.field_paths import shown_key
from jobs.shown import shown_value
from orchestrator.api.models import ProblemDocument, ProblemItem
from orchestrator.journal import AmbiguousName, BadCursor, JournalError, KeyConflict, NoSuchJob, Unfit

MEDIA_TYPE = "application/problem+json"
_SHOWN_ERRORS = 101
"""A spec file is answered with a hundred problems and a line that there may be more."""


class ApiError(Exception):
    """A request cannot be answered as it is; becomes a problem document."""

    def __init__(
        self, status: int, kind: str, detail: str, *, errors: Sequence[Problem] = (), headers: Mapping[str, str] = {}
    ) -> None:
        """State it.

        Args:
            status: HTTP status.
            kind: Code of it for machines, the last part of the document's `type`.
            detail: What is wrong here and what would be right.
            errors: Problems of a spec.
            headers: To send along.
        """
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers)

    def response(self) -> JSONResponse:
        """The problem document."""
        document = ProblemDocument(
            type=f"urn:loraloom:problem:{self.kind}",
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail,
            errors=[
                ProblemItem(
                    file=problem.file,
                    line=problem.line,
                    field=problem.field,
                    value=problem.value,
                    message=problem.message,
                )
                for problem in self.errors[:_SHOWN_ERRORS]
            ]
            if self.errors
            else None,
        )
        content = document.model_dump(mode="json", exclude_none=True)
        return JSONResponse(_encodable(content), self.status, headers=self.headers, media_type=MEDIA_TYPE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, from a middleware."""
        await self.response()(scope, receive, send)


def not_found(what: str) -> ApiError:
    """There is nothing of that name."""
    return ApiError(404, "not-found", what)


def invalid_spec(error: SpecError) -> ApiError:
    """A spec that is refused, with all that is wrong with it."""
    count = len(error.problems)
    detail = f"{count} {'problem' if count == 1 else 'problems'}; nothing was submitted"
    return ApiError(422, "invalid-spec", detail, errors=error.problems)


def install(app: FastAPI) -> None:
    """Answer every error of an app with a problem document."""

    @app.exception_handler(ApiError)
    async def _api(_request: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 400:
            return ApiError(422, "invalid-body", "the body cannot be read as JSON in UTF-8").response()
        kind, detail = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-"), str(error.detail)
        if error.status_code == 404:
            detail = f"there is nothing at {shown_key(request.url.path)}; /openapi.json lists what there is"
        elif error.status_code == 405:
            detail = f"{shown_key(request.method)} is not among the methods of {shown_key(request.url.path)}"
        return ApiError(error.status_code, kind, detail, headers=error.headers or {}).response()

    @app.exception_handler(RequestValidationError)
    async def _parameters(_request: Request, error: RequestValidationError) -> JSONResponse:
        found = [_parameter(one) for one in error.errors()]
        detail = "; ".join(f"{one.field}: {one.message}" for one in found[:3])
        return ApiError(422, "invalid-parameters", detail, errors=found).response()

    @app.exception_handler(DiskFullError)
    async def _disk(_request: Request, error: DiskFullError) -> JSONResponse:
        return ApiError(507, "disk-full", str(error)).response()

    for kind, (status, code) in _JOURNAL.items():
        app.exception_handler(kind)(_answer(status, code))

    @app.exception_handler(LoraloomError)
    async def _own(_request: Request, error: LoraloomError) -> JSONResponse:
        return ApiError(503, "unavailable", str(error), headers={"Retry-After": "5"}).response()

    @app.exception_handler(Exception)
    async def _unexpected(_request: Request, _error: Exception) -> JSONResponse:
        # What happened goes into the server's own log, not to whoever asked.
        return ApiError(500, "internal", "an error of the service itself; its log has the traceback").response()


_JOURNAL: Mapping[type[LoraloomError], tuple[int, str]] = {
    NoSuchJob: (404, "not-found"),
    AmbiguousName: (409, "ambiguous-name"),
    Unfit: (409, "unfit"),
    KeyConflict: (422, "key-conflict"),
    BadCursor: (422, "bad-cursor"),
    JournalError: (409, "conflict"),
}
"""Status and code of what the journal does not take. Of an error's classes, the nearest counts."""


def _answer(status: int, code: str) -> Callable[[Request, Exception], Awaitable[JSONResponse]]:
    async def handler(_request: Request, error: Exception) -> JSONResponse:
        return ApiError(status, code, str(error)).response()

    return handler


def _parameter(error: Mapping[str, Any]) -> Problem:
    place = [str(step) for step in error["loc"][1:] or error["loc"]]
    return Problem(
        field=shown_key(".".join(place)), value=shown_value(error.get("input")), message=str(error["msg"]).lower()
    )


def _encodable(value: Any) -> Any:
    """The same with lone surrogates, which UTF-8 cannot hold, replaced."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {key: _encodable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    return value
