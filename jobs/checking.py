"""One document to one spec, or everything that is wrong with it in sentences for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from jobs.catalogue import block_in
from jobs.errors import Problem
from jobs.field_paths import FieldPath, enclosing, replaced, shown_key, shown_path
from jobs.hints.formats import introduction, looks_like
from jobs.schema import JobDocument
from jobs.shown import shown_value
from jobs.spec import JobSpec
from jobs.support import unsupported
from jobs.sweep import SweepSpec
from jobs.unknown_keys import is_needless, taken_by_namesake, unknown_key, without_lead

MAX_PROBLEMS = 100
"""Most problems told of one file: a file of nothing but mistakes is answered as fast as one with a few."""

_SENTENCES: dict[str, str] = {
    "missing": "required, but missing",
    "int_type": "should be a whole number",
    "int_from_float": "should be a whole number",
    "float_type": "should be a number",
    "finite_number": "should be a finite number",
    "bool_type": "should be true or false",
    "string_type": "should be text",
    "string_too_short": "should not be empty",
    "string_too_long": "should be at most {max_length} characters long",
    "string_unicode": "should be text that UTF-8 can hold",
    "greater_than": "should be greater than {gt}",
    "greater_than_equal": "should be at least {ge}",
    "less_than": "should be less than {lt}",
    "less_than_equal": "should be at most {le}",
    "literal_error": "should be {expected}",
    "tuple_type": "should be a list: one item a line, each after `- `, or [a, b]",
    "too_short": "should have at least {min_length} item(s)",
    "too_long": "should have at most {max_length} items",
    "dict_type": "should be a block of `key: value` lines",
    "mapping_type": "should be a block of `key: value` lines",
    "model_type": "should be a block of `key: value` lines",
    "model_attributes_type": "should be a block of `key: value` lines",
}
"""What is right, by the type of pydantic's error; the braces are filled from the error's context."""

_STAND_INS: dict[FieldPath, Any] = {
    ("name",): "stand-in",
    ("model",): {"model_name_or_path": "stand-in"},
    ("model", "model_name_or_path"): "stand-in",
    ("datasets",): [{"path": "stand-in"}],
}
"""Values for required fields while the rest of a faulty document is looked at."""

M = TypeVar("M", bound=BaseModel)


def check(document: Mapping[str, Any]) -> tuple[JobSpec | None, list[Problem]]:
    """The spec that a document, without sweep, is; or None and all that is wrong, placed by field alone."""
    spec, errors = _validated(JobSpec, document)
    problems = _of_another_tool(errors, document) or _problems(errors, document)
    clashes_left = not any(error["type"] == "clash" for error in errors)
    if errors and clashes_left and len(problems) < MAX_PROBLEMS:
        problems += _clashes_among_the_rest(document, errors)
    answered = {problem.field for problem in problems}
    problems += [problem for problem in unsupported(document) if problem.field not in answered]
    return (None if problems else spec), problems


def check_sweep(block: object) -> tuple[SweepSpec | None, list[Problem]]:
    """The sweep that the block of this name is; or None and all that is wrong with it."""
    sweep, errors = _validated(SweepSpec, block)
    return sweep, _problems([{**error, "loc": ("sweep", *error["loc"])} for error in errors], {"sweep": block})


def _validated(model: type[M], data: object) -> tuple[M | None, list[ErrorDetails]]:
    try:
        return model.model_validate(data), []
    except ValidationError as error:
        return None, error.errors(include_url=False)


def _clashes_among_the_rest(document: Mapping[str, Any], errors: list[ErrorDetails]) -> list[Problem]:
    """Clashes between fields that are right in themselves, which pydantic looks for only where all fields are."""
    faulty = {shown_path(_path(error, document)) for error in errors}
    rest: dict[str, Any] = dict(document)
    for error in errors:
        rest = _without(rest, _path(error, document))
    _, second = _validated(JobSpec, rest)
    found = [error for error in second if error["type"] == "clash"]
    return [
        problem
        for error, problem in zip(found, _problems(found, rest), strict=True)
        if not any(_overlap(field, bad) for field in error.get("ctx", {})["fields"] for bad in faulty)
    ]


def _overlap(a: str, b: str) -> bool:
    return a in enclosing(b) or b in enclosing(a)


def _without(document: dict[str, Any], path: FieldPath) -> dict[str, Any]:
    """The document without the value at a path, or with a stand-in where one is required."""
    # A list with a faulty item goes as a whole: its other items would change their places.
    for position, step in enumerate(path):
        if isinstance(step, int):
            path = path[:position]
            break
    if not path:
        return document
    try:
        changed = replaced(document, path, _STAND_INS.get(path))
        if path not in _STAND_INS:
            block = changed
            for step in path[:-1]:
                block = block[step]
            del block[path[-1]]
    except ValueError:
        # What encloses it has been set aside already.
        return document
    return changed


def _of_another_tool(errors: list[ErrorDetails], document: Mapping[str, Any]) -> list[Problem]:
    """What becomes of another tool's configuration, line by line, the lines that can simply go in one sentence."""
    tool = looks_like(document)
    if tool is None:
        return []
    unknown = [
        str(error["loc"][0]) for error in errors if error["type"] == "extra_forbidden" and len(error["loc"]) == 1
    ]
    gone = [key for key in unknown if is_needless((), key, document[key], document)]
    # Blocks that are missing are what the answers to the keys give.
    told = [
        error
        for error in errors
        if not (len(error["loc"]) == 1 and (error["loc"][0] in gone or error["type"] == "missing"))
    ]
    problems = [Problem(message=introduction(tool))]
    if "name" not in document:
        problems.append(Problem(field="name", message=_SENTENCES["missing"]))
    if gone:
        keys = ", ".join(shown_key(key) for key in gone)
        problems.append(
            Problem(message=f"these lines can be deleted, for they ask for nothing to be done here: {keys}")
        )
    return problems + _problems(told, document)


def _problems(errors: list[ErrorDetails], document: object) -> list[Problem]:
    told = [error for error in errors if not _only_follows(error)]
    return [_problem(error, document) for error in told[:MAX_PROBLEMS]]


def _only_follows(error: ErrorDetails) -> bool:
    # A list whose items are all refused counts as empty for pydantic; the items have their own errors.
    return error["type"] == "too_short" and bool(error["input"])


def _problem(error: ErrorDetails, document: object) -> Problem:
    path = _path(error, document)
    field, kind = shown_path(path), error["type"]
    if kind == "missing":
        return Problem(field=field, message=_SENTENCES["missing"])
    value = shown_value(error["input"])
    if kind == "extra_forbidden":
        beside = _at(document, path[:-1])
        message = unknown_key(path[:-1], str(path[-1]), root=JobDocument, value=error["input"], beside=beside)
        if looks_like(cast("Mapping[str, object]", document)) is not None:
            message = without_lead(message)
    elif error["input"] is None:
        message = "required, but empty" if path in _STAND_INS else _empty(path)
    else:
        message = _sentence(error)
        namesake = None if "[" in field else taken_by_namesake(field, error["input"])
        message += f"; did you mean `{namesake}`?" if namesake and kind != "clash" else ""
    return Problem(field=field, value=value, message=message)


def _empty(path: FieldPath) -> str:
    """The sentence for a field without a value, with the default that it would have."""
    block: type[BaseModel] | None = JobDocument
    for step in path[:-1]:
        field = block.model_fields.get(str(step)) if block is not None and not isinstance(step, int) else None
        block = block_in(field.annotation) if field is not None else block if isinstance(step, int) else None
    field = block.model_fields.get(str(path[-1])) if block is not None else None
    default = field.default if field is not None and isinstance(field.default, str | int | float) else None
    shown = f" (the default is {shown_value(default)})" if default is not None else ""
    return f"is empty: give it a value, or delete the line{shown}"


def _at(document: object, path: FieldPath) -> Mapping[str, object]:
    """The block at a path."""
    for step in path:
        document = cast("Mapping[str | int, object]", document)[step]
    return cast("Mapping[str, object]", document)


def _sentence(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    kind, value = error["type"], error["input"]
    if kind == "value_error":
        return str(context["error"])
    if kind == "clash":
        return str(context["message"])
    if kind == "string_type" and not isinstance(value, Mapping | list):
        return f'should be text: put it in quotes, "{shown_value(cast("object", value))}"'
    if kind not in _SENTENCES:
        return error["msg"][:1].lower() + error["msg"][1:]
    return _SENTENCES[kind].format_map(context)


def _path(error: ErrorDetails, document: object) -> FieldPath:
    """The error's place without the names that pydantic adds for branches of unions and for keys."""
    return tuple(_steps(error, document))


def _steps(error: ErrorDetails, document: object) -> Iterator[str | int]:
    location = error["loc"]
    for position, step in enumerate(location):
        if isinstance(document, Mapping) and step in document:
            document = cast("Mapping[str | int, object]", document)[step]
        elif isinstance(step, int) and isinstance(document, list) and step < len(cast("list[object]", document)):
            document = cast("list[object]", document)[step]
        elif error["type"] != "clash" and (error["type"] != "missing" or position < len(location) - 1):
            continue
        yield step
