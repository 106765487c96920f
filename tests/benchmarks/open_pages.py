"""Many open overviews of one service: clients that ask what `pages/overview.js` asks, when it asks."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection

import httpx

from orchestrator.api.service import PREFIX

POLLS = {
    # In seconds. All but the first change by events alone, or slowly.
    "/cluster": 4.0,
    "/jobs?state=RUNNING&state=STARTING&limit=200": 10.0,
    "/queues": 30.0,
    "/timeline?seconds=3600": 15.0,
    "/jobs?state=PENDING&state=RECOVERING&sort=-priority&limit=6": 60.0,
    "/jobs?state=FAILED&sort=-ended&limit=6": 60.0,
}
AFTER_EVENTS = [path for path in POLLS if path != "/cluster"]
GAP_SECONDS = 10.0
"""Between two requests for the same after events, at least."""


@dataclass
class Seen:
    """What came of pages that were open; complete once they are closed."""

    num_requests: int = 0


@contextmanager
def open_pages(url: str, pages: int, *, cpu: int | None = None) -> Iterator[Seen]:
    """Keep so many open, in a process of their own.

    Args:
        url: Of the service.
        pages: Number of clients.
        cpu: The only one that they may use; any where `None`.
    """
    ours, theirs = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_browse, args=(url, pages, cpu, theirs))
    process.start()
    seen = Seen()
    try:
        ours.recv()
        yield seen
        ours.send("close")
        seen.num_requests = ours.recv()
    finally:
        process.terminate()
        process.join()


def _browse(url: str, pages: int, cpu: int | None, orders: Connection) -> None:
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    opened = [_Page(url, number) for number in range(pages)]
    for page in opened:
        threading.Thread(target=page.live, daemon=True).start()
    orders.send("open")
    orders.recv()
    orders.send(sum(page.num_requests for page in opened))


@dataclass
class _Page:
    """One open overview: a stream in a thread, and every poll when it is due or an event has come."""

    url: str
    number: int
    num_requests: int = 0
    _news: threading.Event = field(default_factory=threading.Event)

    def live(self) -> None:
        # A browser keeps its connections for minutes.
        kept = httpx.Limits(keepalive_expiry=300)
        with httpx.Client(base_url=self.url + PREFIX, timeout=60, trust_env=False, limits=kept) as http:
            threading.Thread(target=self._follow, args=(http,), daemon=True).start()
            # Pages were not opened all at the same moment.
            due = {path: time.monotonic() + every * (self.number % 10) / 10 for path, every in POLLS.items()}
            asked = dict.fromkeys(POLLS, float("-inf"))
            while True:
                if self._news.is_set():
                    self._news.clear()
                    due |= {path: min(due[path], asked[path] + GAP_SECONDS) for path in AFTER_EVENTS}
                for path, at in due.items():
                    if time.monotonic() >= at:
                        asked[path] = time.monotonic()
                        http.get(path).raise_for_status()
                        self.num_requests += 1
                        due[path] = time.monotonic() + POLLS[path]
                time.sleep(0.2)

    def _follow(self, http: httpx.Client) -> None:
        with suppress(httpx.TransportError), http.stream("GET", "/stream") as stream:
            for line in stream.iter_lines():
                if line.startswith("event:"):
                    self._news.set()
