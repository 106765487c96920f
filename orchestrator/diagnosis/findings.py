"""What a look at one thing has come to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    what: str
    """A word or two."""
    level: Level
    message: str
    """What was found."""
    mend: str | None = None
    """What to do about it; always there unless it is ok."""


def ok(what: str, message: str) -> Finding:
    """As it should be."""
    return Finding(what=what, level="ok", message=message)


def warning(what: str, message: str, mend: str) -> Finding:
    """Works, but not as well as it could, or not for long."""
    return Finding(what=what, level="warning", message=message, mend=mend)


def problem(what: str, message: str, mend: str) -> Finding:
    """Will not work."""
    return Finding(what=what, level="problem", message=message, mend=mend)
