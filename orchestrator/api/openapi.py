"""What the OpenAPI document says beyond what FastAPI finds in the handlers: errors, bodies of specs, tokens."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from jobs.schema import JobDocument
from orchestrator.api.models import ProblemDocument

_REF = "#/components/schemas/"
_PROBLEM = {"application/problem+json": {"schema": {"$ref": f"{_REF}ProblemDocument"}}}
_DESCRIPTIONS = {
    401: "No token, or one that is not known",
    403: "A page of another origin, or a token without the right to act in this queue",
    404: "There is no such thing",
    405: "Not a method of this path",
    408: "The body did not arrive in time",
    409: "Makes no sense in the state that the job is in, or a name that several jobs bear",
    413: "The body is too large",
    415: "Neither YAML nor JSON",
    416: "The range is not within the file",
    421: "The Host header does not name this service",
    422: "Parameters or specs are refused; `errors` says which and why",
    503: "The journal cannot be read at the moment, or too much is asked for at once",
    507: "The disk is full",
}

ALWAYS = (401, 403, 421, 422, 503)
"""What any call may be answered with."""

SPEC_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One job or several: YAML documents, or JSON, one job or a list. `sweep` makes many of one.",
        "content": {
            "application/yaml": {"schema": {"$ref": f"{_REF}JobDocument"}},
            "application/json": {
                "schema": {
                    "anyOf": [
                        {"$ref": f"{_REF}JobDocument"},
                        {"type": "array", "items": {"$ref": f"{_REF}JobDocument"}, "minItems": 1},
                    ]
                }
            },
        },
    }
}
"""For handlers that read the body themselves, to keep the lines of what is in it."""


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a handler that may answer with these problems."""
    return {status: {"description": _DESCRIPTIONS[status], "content": _PROBLEM} for status in statuses}


def install(app: FastAPI, *, has_tokens: bool) -> None:
    """Have the app describe itself so."""

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            for model in (ProblemDocument, JobDocument):
                schema = model.model_json_schema(ref_template=f"{_REF}{{model}}")
                schemas |= schema.pop("$defs", {})
                schemas[model.__name__] = schema
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            if has_tokens:
                document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
                document["security"] = [{"token": []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]
