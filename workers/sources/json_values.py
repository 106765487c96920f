"""One row of JSON, its scalars as they are spelled.

`json.loads` gives `1.10` as 1.1, `1e5` as 100000.0, and the last of two values under one name. So the top level of a
row is taken apart here, and what stands between two commas is kept; lists and objects are given to `json`.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from workers.sources.rows import Row, UnreadableTextError, kind

_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UnreadableTextError(f"names `{twice}` twice in one object")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)
_LENIENT = json.JSONDecoder(parse_int=str)


def skip_space(text: str, position: int) -> int:
    """Where the next character stands that is no space of JSON."""
    found = _SPACE.match(text, position)
    assert found is not None
    return found.end()


def decode_row(text: str, start: int) -> tuple[Row, int]:
    """The object at `start`, and where it ends.

    Raises:
        json.JSONDecodeError: It is no JSON, or the text ends within it.
        UnreadableTextError: It is JSON and no row: not an object, a name twice, half a character.
    """
    try:
        if text[start : start + 1] == "{":
            row, end = _object(text, start)
        else:
            value, end = _DECODER.raw_decode(text, start)
            raise UnreadableTextError(f"should be an object with columns, found {kind(value)}")
    except RecursionError as error:
        raise UnreadableTextError("is nested too deeply") from error
    except json.JSONDecodeError:
        raise
    except UnreadableTextError:
        raise
    except ValueError as error:  # an integer of more digits than Python converts
        raise UnreadableTextError(f"cannot be read: {error}") from error
    if _SURROGATE.search(text, start, end):
        _require_whole_characters(row)
    return row, end


def _object(text: str, start: int) -> tuple[Row, int]:
    pairs: list[tuple[str, Any]] = []
    position = skip_space(text, start + 1)
    if text[position : position + 1] == "}":
        return {}, position + 1
    while True:
        if text[position : position + 1] != '"':
            raise json.JSONDecodeError("Expecting property name enclosed in double quotes", text, position)
        name, position = _DECODER.raw_decode(text, position)
        position = skip_space(text, position)
        if text[position : position + 1] != ":":
            raise json.JSONDecodeError("Expecting ':' delimiter", text, position)
        value, position = _value(text, skip_space(text, position + 1))
        pairs.append((name, value))
        position = skip_space(text, position)
        following = text[position : position + 1]
        if following == "}":
            return _unique(pairs), position + 1
        if following != ",":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
        position = skip_space(text, position + 1)


def _value(text: str, start: int) -> tuple[Any, int]:
    if number := _NUMBER.match(text, start):
        return number.group(), number.end()
    value, end = _DECODER.raw_decode(text, start)
    if isinstance(value, bool) or (isinstance(value, float) and math.isfinite(value)):
        return text[start:end], end
    return value, end


def _require_whole_characters(row: Row) -> None:
    """Half of a surrogate pair is no character: it has no UTF-8, and a tokenizer would put another one in its place."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as bad:
        raise UnreadableTextError(
            f"holds half a character, \\u{ord(bad.object[bad.start]):04x} without the other half of its pair"
        ) from bad


def skip_value(text: str, start: int) -> int | None:
    """Where the value at `start` ends that is no row; `None` where it is nested too deeply to be passed over."""
    try:
        return _LENIENT.raw_decode(text, start)[1]
    except RecursionError:
        return None


def decode_value(text: str) -> Any:
    """A JSON text as the value of a column: a scalar as it is spelled.

    Raises:
        ValueError: It is no JSON, or names something twice.
    """
    value, end = _value(text, skip_space(text, 0))
    if skip_space(text, end) != len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def decode_nested(text: str) -> Any:
    """A JSON text as a value inside of a list or object.

    Raises:
        ValueError: It is no JSON, or names something twice.
    """
    return _DECODER.decode(text)
