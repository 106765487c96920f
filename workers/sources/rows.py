"""What the readers of all formats give: rows, and rows that cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
"""Column name to value. Scalars are text as it stands in the file (`None` for null), but for a number that is not
finite, which stays a float; lists and dicts are JSON values."""


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row that cannot be read; those after it can."""

    message: str
    """File, number of the row and reason, for people."""


Outcomes = Iterator[Row | BadRow]


class UnreadableTextError(ValueError):
    """A piece of a row cannot be read, for the reason in the message."""


def place(shown: str, row: int, line: int) -> str:
    """`rows.csv: row 3 (line 5)`; the line only where it differs. Both count from 1."""
    return f"{shown}: row {row}" if row == line else f"{shown}: row {row} (line {line})"


def kind(value: object) -> str:
    """What a value is, in a word and its beginning."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
