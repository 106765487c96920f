"""How a value from a document is printed in a message: on one line, short, nothing unprintable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

LONGEST_VALUE = 80


def shown_value(value: object) -> str:
    """A value, at most 80 characters; the work done is bounded whatever the value's size."""
    text = _shown(value, LONGEST_VALUE)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def _shown(value: object, room: int) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return repr(value[: room + 1])
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value).items()
        return _joined("{", (f"{_key(key)}: {_shown(item, room)}" for key, item in pairs), "}", room)
    if isinstance(value, list | tuple):
        return _joined("[", (_shown(item, room) for item in cast("list[object]", value)), "]", room)
    return repr(value)


def _key(key: object) -> str:
    text = str(key)[: LONGEST_VALUE + 1]
    return text if text.isprintable() else repr(text)


def _joined(begin: str, parts: Iterator[str], end: str, room: int) -> str:
    text = begin
    for index, part in enumerate(parts):
        text += f", {part}" if index else part
        if len(text) > room:
            return text
    return text + end
