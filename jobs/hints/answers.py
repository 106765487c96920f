"""The answer to a key of another tool: the fields to write here, or why there is nothing to write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What to do about one key and its value."""

    fields: tuple[tuple[str, Any], ...] = ()
    """Dotted fields that do the same, each with the value to write; `datasets[].x` is `x` of a data set."""
    note: str = ""
    """A sentence for people, begun small: why, what differs, or why nothing is to be written."""
    needless: bool = False
    """Nothing is lost when the line is deleted: what it asks for is so anyway, or changes no result."""


Rule = Callable[[object, Mapping[str, object]], Answer]
"""(value, the keys beside it) -> answer. Takes any value that YAML can hold."""


def same(field: str, note: str = "") -> Rule:
    """The field of ours that does the same with the same values."""
    return lambda value, _beside: Answer(fields=((field, value),), note=note)


def fixed(field: str, value: object, note: str = "") -> Rule:
    """A field with this value, whatever was written."""
    return lambda _value, _beside: Answer(fields=((field, value),), note=note)


def needless(note: str) -> Rule:
    """Nothing has to be written."""
    return lambda _value, _beside: Answer(note=note, needless=True)


def lost(note: str) -> Rule:
    """Nothing here does it."""
    return lambda _value, _beside: Answer(note=note)


def switch(on: Rule, off: Rule) -> Rule:
    """One answer for values that ask for something, another for false, null, 0, "no" and the empty list or block."""
    return lambda value, beside: (off if _is_off(value) else on)(value, beside)


def choice(rules: Mapping[str, Rule], otherwise: Rule) -> Rule:
    """An answer by the value's own text."""
    return lambda value, beside: rules.get(str(value).lower(), otherwise)(value, beside)


OFF = needless("it is off here anyway")
"""For a switch that is off."""


def _is_off(value: object) -> bool:
    return value in (None, False, 0, "", "no", "none", "None", "false", "off") or value == [] or value == {}
