"""Server-sent events: one reader of the journal for all open streams, however many there are.

The journal's sequence number is the id of an event, so a client that was cut off names the last one it saw and misses
none. New events are kept in memory for a while; a stream that is further behind reads its own from the journal.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict

from anyio import to_thread

from jobs.errors import LoraloomError
from jobs.records import Event
from orchestrator.api.limits import Limits
from orchestrator.api.problems import ApiError
from orchestrator.journal import JournalReader

_POLL_SECONDS = 0.25
_KEPT = 4096
_PAGE = 500
_RETRY_MILLISECONDS = 2000


class EventHub:
    """Events of the journal, handed to all who follow. Lives on the event loop of the server."""

    def __init__(self, reader: JournalReader, limits: Limits, num_told: Callable[[], int]) -> None:
        """Nobody follows yet.

        Args:
            reader: Of the journal.
            limits: How many streams there may be, and how long each.
            num_told: Of the journal: changes whenever there is an event to read, and not before it can be read.
        """
        self._reader = reader
        self._num_told = num_told
        self._limits = limits
        self._recent: deque[Event] = deque(maxlen=_KEPT)
        self._from = 0
        """All events after this one, up to `_upto`, are in `_recent`."""
        self._upto = 0
        self._news = asyncio.Event()
        self._followers = 0
        self._poller: asyncio.Task[None] | None = None
        self._closed = False

    def close(self) -> None:
        """End all streams, as a server does that is about to stop; safe to call on the loop only."""
        self._closed = True
        self._news.set()

    def follow(
        self, job_id: str | None, after: int | None, *, queues: frozenset[str] | None = None
    ) -> AsyncIterator[bytes]:
        """What to send to one client, from its first byte to the end of the stream.

        Args:
            job_id: Events of one job only.
            after: Sequence of the last event that the client has; `None` for what happens from now on.
            queues: Events only of jobs that are in these when it happens or is told; `None` for all.

        Raises:
            ApiError: Too many streams are open.
        """
        if self._followers >= self._limits.streams:
            detail = f"{self._followers:,} streams are open already; ask for /events now and then instead"
            raise ApiError(503, "too-many-streams", detail, headers={"Retry-After": "30"})
        return self._frames(job_id, after, queues)

    async def _frames(
        self, job_id: str | None, after: int | None, queues: frozenset[str] | None
    ) -> AsyncIterator[bytes]:
        ends = asyncio.get_running_loop().time() + self._limits.stream_seconds
        self._followers += 1
        try:
            if self._poller is None or self._poller.done():
                await self._restart()
            seen = self._upto if after is None else after
            yield f"retry: {_RETRY_MILLISECONDS}\n\n".encode()
            while not self._closed:
                news = self._news
                events, seen, is_all = await self._after(seen, job_id, queues)
                if events:
                    yield b"".join(map(frame, events))
                if not is_all:
                    continue
                left = ends - asyncio.get_running_loop().time()
                if left <= 0:
                    return
                try:
                    async with asyncio.timeout(min(left, self._limits.heartbeat_seconds)):
                        await news.wait()
                except TimeoutError:
                    yield b": heartbeat\n\n"
        finally:
            self._followers -= 1

    async def _after(
        self, seen: int, job_id: str | None, queues: frozenset[str] | None
    ) -> tuple[list[Event], int, bool]:
        """Events after one, the sequence up to which these are all there are, and whether there are no more now."""
        if queues is not None:
            # Which queue a job is in now, the journal knows.
            upto = self._upto
            if seen >= upto:
                return [], seen, True
            page = await self._read(job_id, seen, queues)
            if len(page) == _PAGE:
                return list(page), page[-1].sequence, False
            return list(page), max(page[-1].sequence if page else 0, upto), True
        if seen >= self._from:
            upto = self._upto
            found: list[Event] = []
            # From the newest back, so that it costs what is new and not what is kept.
            for event in reversed(self._recent):
                if event.sequence <= seen:
                    break
                if job_id is None or event.job_id == job_id:
                    found.append(event)
            return found[::-1], max(seen, upto), True
        in_journal = self._from
        page = await self._read(job_id, seen, None)
        if len(page) == _PAGE:
            return list(page), page[-1].sequence, False
        # All that was in the journal has been read; what is later is in memory.
        return list(page), max(page[-1].sequence if page else 0, in_journal), False

    async def _read(self, job_id: str | None, after: int, queues: frozenset[str] | None) -> Sequence[Event]:
        return await to_thread.run_sync(lambda: self._reader.events(job_id, after=after, limit=_PAGE, queues=queues))

    async def _restart(self) -> None:
        """Begin to watch the journal; nothing is in memory yet."""
        self._upto = self._from = await to_thread.run_sync(self._reader.last_sequence)
        self._recent.clear()
        self._poller = asyncio.create_task(self._poll())

    async def _poll(self) -> None:
        """Fetch what is new while anybody follows."""
        read_at = None
        while self._followers > 0 and not self._closed:
            # Taken before the events are, so that what is told in between is read in the next turn.
            told = self._num_told()
            if told != read_at:
                try:
                    new = await to_thread.run_sync(lambda: self._reader.events(after=self._upto, limit=_KEPT))
                except LoraloomError:
                    # As while its disk is away: the next try is not far off.
                    pass
                else:
                    self._hand_out(new)
                    if len(new) == _KEPT:
                        continue
                    read_at = told
            await asyncio.sleep(_POLL_SECONDS)

    def _hand_out(self, new: Sequence[Event]) -> None:
        if not new:
            return
        overflow = len(self._recent) + len(new) - _KEPT
        if overflow > 0:
            kept = [*self._recent, *new]
            self._from = kept[overflow - 1].sequence
        self._recent.extend(new)
        self._upto = new[-1].sequence
        news, self._news = self._news, asyncio.Event()
        news.set()


def frame(event: Event) -> bytes:
    """One event as a client receives it; JSON has no line breaks of its own."""
    data = json.dumps(asdict(event), ensure_ascii=False)
    return f"id: {event.sequence}\nevent: job\ndata: {data}\n\n".encode("utf-8", "replace")
