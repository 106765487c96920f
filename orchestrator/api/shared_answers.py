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
            at, mine, theirs = self._now(), None, self._kept(key)
            if theirs is None:
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
            kept = self._kept(key)
        return kept.result() if kept is not None and kept.done() and not kept.exception() else None

    async def respond(self: SharedAnswers[bytes], key: Hashable, make: Callable[[], BaseModel]) -> Response:
        """The answer as JSON, written out once for all who ask; made in a thread, and from there on without one."""
        content = self.known(key)
        if content is None:
            content = await run_in_threadpool(self.get, key, lambda: make().model_dump_json().encode())
        return Response(content, media_type="application/json")

    def _kept(self, key: Hashable) -> Future[Answer] | None:
        """The answer, or its promise, that is not too old; all that are go."""
        at = self._now()
        self._known = {one: entry for one, entry in self._known.items() if at - entry[0] < self._keep_seconds}
        return self._known[key][1] if key in self._known else None
