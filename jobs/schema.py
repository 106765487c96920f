"""The document that users write, which is a job spec that may carry a sweep, and its published JSON Schema."""

from __future__ import annotations

from typing import Any

from jobs.spec import JobSpec
from jobs.sweep import SweepSpec


class JobDocument(JobSpec):
    """A Loraloom job: one LoRA adapter to be trained on a frozen base model. A sweep makes it many jobs."""

    sweep: SweepSpec | None = None
    """Turns this document into many jobs that differ in the fields named here."""


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of one job document.

    What it cannot express, such as fields that clash or features not supported yet, `loraloom validate` answers.
    """
    schema = JobDocument.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Loraloom job"}
