"""Values of one row: what they are called in messages, and JSON that stands in a text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


class RowError(Exception):
    """One row cannot be used; the caller adds which one."""


def kind(value: object) -> str:
    """A value as a message shows it: its type, and it itself, shortened."""
    if value is None:
        return "nothing (null)"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def scalar_text(value: object) -> str | None:
    """Text, or a number or boolean in the spelling of JSON; `None` for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return json.dumps(value)
    return None


def parsed(value: object) -> Any:
    """What a text of JSON says, for texts that hold a list or an object; anything else as it is."""
    if not isinstance(value, str) or not value.strip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def without_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    """An object without the keys that are null. Nested ones stay: null is a value of a call's arguments."""
    return {str(key): item for key, item in value.items() if item is not None}
