"""A disk that fails on command: every call by which publishing touches it can be counted, refused, or be the last."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

CALLS = ("open", "write", "fsync", "close", "rename", "mkdir", "unlink", "rmdir")


class PowerCut(BaseException):
    """The process is dead. Not an `Exception`, so that nothing takes it for an error to be handled."""


class Disk:
    """Stands between `os` and the code under test."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.history: list[tuple[str, str]] = []
        """Calls and what they were about, in order."""
        self._names: dict[int, str] = {}
        self._fail: Callable[[int, str], bool] = lambda number, call: False
        self._error: Callable[[], BaseException] = PowerCut
        self._lasting = False
        self._dead = False
        for call in CALLS:
            patch.setattr(os, call, self._wrapped(call, getattr(os, call)))

    def fail_at(self, number: int, error: Callable[[], BaseException], *, lasting: bool = False) -> None:
        """Let the `number`-th call from now fail, and if `lasting` all that would need room after it too."""
        self.history.clear()
        self._fail = lambda at, call: at == number
        self._error, self._lasting, self._dead = error, lasting, False

    def heal(self) -> None:
        """No more failures."""
        self._fail = lambda number, call: False
        self._lasting = self._dead = False

    def _wrapped(self, call: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **more: Any) -> Any:
            number = len(self.history)
            about = self._about(args[0])
            self.history.append((call, about))
            if self._fail(number, call):
                self._dead = True
                if call == "write":
                    original(args[0], args[1][: len(args[1]) // 2])
                if call == "close":
                    original(*args)
                raise self._error()
            if self._dead and (self._error is PowerCut or (self._lasting and call in ("write", "fsync", "mkdir"))):
                if call == "close":
                    with suppress(OSError):  # closed by the call that failed
                        original(*args)
                raise self._error()
            result = original(*args, **more)
            if call == "open":
                self._names[result] = about
            return result

        return wrapped

    def _about(self, subject: Any) -> str:
        return self._names.get(subject, "?") if isinstance(subject, int) else os.fspath(subject)
