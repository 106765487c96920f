"""Values given on the command line: `--set training.learning_rate=2e-4`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.errors import Problem
from jobs.field_names import UnknownFieldError, resolve
from jobs.field_paths import FieldPath, shown_key
from jobs.schema import JobDocument
from jobs.shown import shown_value
from jobs.sources import COMMAND_LINE, too_large
from jobs.yaml_source import MAX_BYTES, read_documents


@dataclass(frozen=True, kw_only=True)
class Override:
    """One value to be set in every document."""

    path: FieldPath
    value: Any


def read_overrides(texts: Sequence[str]) -> tuple[list[Override], list[Problem]]:
    """What `dotted.field=value` texts set, the values read as YAML, and what is wrong with them."""
    overrides: list[Override] = []
    problems: list[Problem] = []
    for text in texts:
        read = _read(text)
        if isinstance(read, Override):
            overrides.append(read)
        else:
            problems.append(read)
    return overrides, problems


def _read(text: str) -> Override | Problem:
    name, equals, value_text = text.partition("=")
    name = name.strip()

    def problem(message: str) -> Problem:
        value = shown_value(value_text) if equals else None
        return Problem(field=shown_key(name), value=value, message=f"{COMMAND_LINE}: {message}")

    if not equals:
        return problem(f"has no value: write {COMMAND_LINE} field=value")
    try:
        path = resolve(name, JobDocument)
    except UnknownFieldError as error:
        return problem(str(error))
    if len(value_text) > MAX_BYTES:
        return problem(too_large("").message)
    documents, problems = read_documents(value_text, file=COMMAND_LINE)
    if problems:
        return problem(problems[0].message)
    if len(documents) > 1:
        return problem("should be one value")
    return Override(path=path, value=documents[0].value if documents else None)
