"""SIGINT and SIGTERM while jobs train: the first one asks, a second one or the end of the grace breaks off."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

GRACE_SECONDS = 30.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal ends the run. Not an `Exception`, so that nothing takes it for an error to be handled."""

    def __init__(self, number: int, told: str = "") -> None:
        super().__init__(number, told)
        self.number = number
        """Of the signal."""
        self.told = told
        """What became of the jobs, for the user."""


class Interruption:
    """Takes the two signals over while it is entered. For the main thread."""

    def __init__(self, *, grace_seconds: float = GRACE_SECONDS) -> None:
        self.grace_seconds = grace_seconds
        self.requested: int | None = None
        """Number of the first signal."""
        self.breaks_off: Callable[[], bool] = lambda: True
        """Whether the first signal is to raise at once, because nothing that it breaks off needs to be finished."""
        self.is_urgent = False
        """Whether a second signal has come, or the grace is over."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (*_SIGNALS, signal.SIGALRM):
            self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        if self.requested is not None:
            self.is_urgent = True
            raise Interrupted(self.requested)
        if number == signal.SIGALRM:
            return
        self.requested = number
        signal.setitimer(signal.ITIMER_REAL, self.grace_seconds)
        if self.breaks_off():
            raise Interrupted(number)
