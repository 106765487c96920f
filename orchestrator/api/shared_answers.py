"""Answers that many ask for at once and that may be a moment old: made once for all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

from fastapi import Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

Answer = TypeVar("Answer")


class SharedAnswers(Generic[Answer]):
    """Keeps an answer for a moment; however many ask the same meanwhile, the journal is asked once."""

    def __init__(self, *, keep_seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        """Nothing is known yet.

        Args:
            keep_seconds: How old an answer may be.
            now: Monotonic seconds.
        """
        self._keep_seconds = keep_seconds
        self._now = now
        self._lock = threading.Lock()
        self._known: dict[Hashable, tuple[float, Future[Answer]]] = {}

    def get(self, key: Hashable, make: Callable[[], Answer]) -> Answer:
        """The answer to a question, made anew if it is too old. An error goes to all who wait, and is not kept.

        Who asks for something else does not wait.
        """
        with self._lock:
            at = self._now()
            self._known = {one: entry for one, entry in self._known.items() if at - entry[0] < self._keep_seconds}
            if key in self._known:
                mine, theirs = None, self._known[key][1]
            else:
                mine = theirs = Future[Answer]()
                self._known[key] = (at, mine)
        if mine is not None:
            try:
                mine.set_result(make())
            except BaseException as error:
                with self._lock:
                    if self._known.get(key) == (at, mine):
                        del self._known[key]
                mine.set_exception(error)
        return theirs.result()

    def known(self, key: Hashable) -> Answer | None:
        """The answer, where there is one that is not too old; never waits."""
        with self._lock:
            at, answer = self._known.get(key, (float("-inf"), None))
        if answer is None or self._now() - at >= self._keep_seconds or not answer.done() or answer.exception():
            return None
        return answer.result()

    async def respond(self: SharedAnswers[bytes], key: Hashable, make: Callable[[], BaseModel]) -> Response:
        """The answer as JSON, written out once for all who ask; made in a thread, and from there on without one."""
        content = self.known(key)
        if content is None:
            content = await run_in_threadpool(self.get, key, lambda: make().model_dump_json().encode())
        return Response(content, media_type="application/json")
