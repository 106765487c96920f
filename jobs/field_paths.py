"""Where a value sits in a document: `("datasets", 0, "path")`, for people `datasets[0].path`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

FieldPath = tuple[str | int, ...]

_LONGEST_KEY = 80


def shown_key(key: str) -> str:
    """A key as it is printed: cut to a readable length, control characters escaped."""
    text = key if key.isprintable() else repr(key[: _LONGEST_KEY + 1])[1:-1]
    return text if len(text) <= _LONGEST_KEY else text[: _LONGEST_KEY - 1] + "…"


def extended(field: str, step: str | int) -> str:
    """The field below `field` that a key or an index leads to."""
    if isinstance(step, int):
        return f"{field}[{step}]"
    return f"{field}.{shown_key(step)}" if field else shown_key(step)


def shown_path(path: FieldPath) -> str:
    """A path as people write it."""
    field = ""
    for step in path:
        field = extended(field, step)
    return field


def enclosing(field: str) -> Iterator[str]:
    """The field itself, then what it lies in, from the nearest block to the whole document (the empty string)."""
    while field:
        yield field
        field = field[: max(field.rfind("."), field.rfind("["), 0)]
    yield ""


def replaced(document: object, path: FieldPath, value: object) -> Any:
    """A copy of a document with one value replaced, sharing all that lies off the path.

    Mappings on the way are made where they are missing; list items must exist.

    Raises:
        ValueError: something on the way is neither, with a sentence that says which.
    """
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(step, int):
        items = cast("list[object]", document) if isinstance(document, list) else []
        if step >= len(items):
            raise ValueError(f"there is no item [{step}]: the list has {len(items)}")
        return [*items[:step], replaced(items[step], rest, value), *items[step + 1 :]]
    if document is not None and not isinstance(document, Mapping):
        raise ValueError(f"there is no `{shown_key(step)}` to set: what it should lie in is not a block of keys")
    block = cast("Mapping[str, object]", document or {})
    return {**block, step: replaced(block.get(step), rest, value)}
