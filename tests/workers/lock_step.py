"""Two threads that run one line at a time in an order that a seed decides, so that what a race does can be repeated.

Each line of the watched files is a point at which the other thread may go on. Locks and futures are played by ones
that let the other go on while they wait; what a future waits for is done at a point that the seed chooses.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from types import FrameType
from typing import Any

_MOST_POINTS = 200_000
_DEED, _CHANGE = 0.05, 0.2
"""How likely it is at a point that something waited for is done, and that the other thread goes on."""


class LockStep:
    """Runs threads of its own, one at a time."""

    def __init__(self, seed: int, files: Collection[str]) -> None:
        self.errors: list[BaseException] = []
        self._random = random.Random(seed)
        self._files = tuple(files)
        self._turns: dict[int, threading.Semaphore] = {}
        self._left: list[int] = []
        self._deeds: list[Callable[[], None]] = []
        self._points = 0
        self._is_doing = False

    def run(self, *bodies: Callable[[], None]) -> None:
        """Run the bodies until all have returned, and do what is still to be done."""
        threads = [threading.Thread(target=self._live, args=(number, body)) for number, body in enumerate(bodies)]
        self._left = list(range(len(bodies)))
        self._turns = {number: threading.Semaphore(0) for number in self._left}
        for thread in threads:
            thread.start()
        self._turns[self._random.choice(self._left)].release()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "the threads wait for each other"
        while self._deeds:
            self._do_next()

    def point(self) -> None:
        """Let another thread go on, or not."""
        number = self._number()
        if number is None:
            return
        self._points += 1
        if self._points > _MOST_POINTS:
            raise AssertionError("the threads wait for each other")
        if self._random.random() < _DEED:
            self._do_next()
        if self._random.random() < _CHANGE:
            self._pass(number)

    def later(self, deed: Callable[[], None]) -> None:
        """Do it at some point, in order."""
        self._deeds.append(deed)

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Let the others go on until it is so."""
        while not is_so():
            if self._number() is None:
                self._do_next()
            self.point()

    def _do_next(self) -> None:
        """One after the other: what is being done may come to points itself."""
        if self._deeds and not self._is_doing:
            self._is_doing = True
            try:
                self._deeds.pop(0)()
            finally:
                self._is_doing = False

    def _number(self) -> int | None:
        name = threading.current_thread().name
        return int(name.removeprefix("lock-step-")) if name.startswith("lock-step-") else None

    def _pass(self, number: int) -> None:
        chosen = self._random.choice(self._left)
        if chosen != number:
            self._turns[chosen].release()
            self._turns[number].acquire()

    def _live(self, number: int, body: Callable[[], None]) -> None:
        threading.current_thread().name = f"lock-step-{number}"
        self._turns[number].acquire()
        sys.settrace(self._trace)
        try:
            body()
        except BaseException as error:
            self.errors.append(error)
        finally:
            sys.settrace(None)
            self._left.remove(number)
            if self._left:
                self._turns[self._random.choice(self._left)].release()

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._line if frame.f_code.co_filename.endswith(self._files) else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self.point()
        return self._line


class PlayedLock:
    """A lock of a lock step."""

    def __init__(self, steps: LockStep) -> None:
        self._steps = steps
        self._is_held = False

    def __enter__(self) -> None:
        self._steps.wait_until(lambda: not self._is_held)
        self._is_held = True

    def __exit__(self, *error: object) -> None:
        self._is_held = False


class PlayedExecutor:
    """Runs what it is given in order, at points that the seed chooses."""

    def __init__(self, steps: LockStep, has_ended: Callable[[Future[Any]], None]) -> None:
        self._steps = steps
        self._has_ended = has_ended

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = _PlayedFuture(self._steps)
        future.add_done_callback(self._has_ended)
        self._steps.later(lambda: future.set_result(function(*arguments)))
        return future


class _PlayedFuture(Future[Any]):
    def __init__(self, steps: LockStep) -> None:
        super().__init__()
        self._steps = steps

    def result(self, timeout: float | None = None) -> Any:
        self._steps.wait_until(self.done)
        return super().result(0)
