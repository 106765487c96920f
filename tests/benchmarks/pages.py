"""What the web pages cost: `python -m tests.benchmarks.pages`.

50,000 jobs in a real journal; a real Chromium opens the page of jobs and filters it; then so many clients do what an
open overview does, its stream of events and its polling, while the service's own process time is read. No scheduler
runs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import httpx
from playwright.sync_api import expect

from jobs.records import JobState
from orchestrator.api.app import build_app
from orchestrator.api.server import HttpServer
from orchestrator.api.service import PREFIX
from orchestrator.journal import Journal
from tests.benchmarks.api import submit
from tests.benchmarks.open_pages import POLLS, open_pages
from tests.web.browsing import open_browser, visit

_REQUESTS = 500
EVENT_SECONDS = 5.0
"""Between two jobs that change their state: after an event open pages ask again."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=50_000)
    parser.add_argument("--pages", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="loraloom-bench-") as folder:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=_serve, args=(folder, options.jobs, theirs))
        process.start()
        url = ours.recv()
        found: dict[str, object] = {"jobs": options.jobs, "load_average": os.getloadavg()[0]}
        found |= _browse(url, options.repeats)
        found["request_milliseconds"] = _request_milliseconds(url, ours)
        found |= _open_pages(url, options.pages, options.seconds, ours)
        ours.send("stop")
        process.join()
    print(json.dumps(found, indent=2))


def _serve(folder: str, jobs: int, orders: Connection) -> None:
    """The service, in a process of its own; each `cpu` is answered with its process seconds, each `change` obeyed."""
    root = Path(folder)
    with Journal(root / "journal.db") as journal:
        submit(journal, jobs, at=lambda _: time.time())
        for number in range(0, jobs, 200):
            job = f"job-{number}"
            journal.start_attempt(job, worker_id=f"w{number % 8}", reason="placed", message="placed", at=time.time())
            if number % 1600:
                journal.change(
                    job, attempt=None, state=JobState.FAILED, reason="bench", message="ended", at=time.time()
                )
        with HttpServer(build_app(journal, lambda: None, data_dir=root), port=0) as server:
            orders.send(server.url)
            number = 1
            while (order := orders.recv()) != "stop":
                if order == "change":
                    journal.change(
                        f"job-{number}", attempt=None, state=JobState.CANCELLED, reason="x", message="x", at=time.time()
                    )
                    number += 200
                orders.send(time.process_time())


def _browse(url: str, repeats: int) -> dict[str, float]:
    opened, filtered = [], []
    with open_browser() as browser:
        for _ in range(repeats):
            with visit(browser, url) as seen:
                began = time.perf_counter()
                page = seen.go("/ui/jobs")
                expect(page.locator("main tbody tr")).to_have_count(50)
                opened.append(time.perf_counter() - began)
                began = time.perf_counter()
                page.get_by_label("Name or id").fill("job-4999")
                expect(page.locator("main tbody tr")).to_have_count(11)
                filtered.append(time.perf_counter() - began)
                seen.check()
    return {
        "jobs_page_median_seconds": round(statistics.median(opened), 2),
        "jobs_page_worst_seconds": round(max(opened), 2),
        "filter_median_seconds": round(statistics.median(filtered), 2),
        "filter_worst_seconds": round(max(filtered), 2),
    }


def _request_milliseconds(url: str, orders: Connection) -> dict[str, float]:
    """Processor time of the service for one request of each kind, asked for again and again within the second."""
    found = {}
    with httpx.Client(base_url=url + PREFIX, timeout=60, trust_env=False) as http:
        for path in POLLS:
            http.get(path).raise_for_status()
            orders.send("cpu")
            before = orders.recv()
            for _ in range(_REQUESTS):
                http.get(path).raise_for_status()
            orders.send("cpu")
            found[path] = round((orders.recv() - before) / _REQUESTS * 1000, 2)
    return found


def _open_pages(url: str, pages: int, seconds: float, orders: Connection) -> dict[str, float]:
    orders.send("cpu")
    before, began = orders.recv(), time.monotonic()
    with open_pages(url, pages) as seen:
        while time.monotonic() - began < seconds:
            time.sleep(EVENT_SECONDS)
            orders.send("change")
            orders.recv()
    orders.send("cpu")
    used, wall = orders.recv() - before, time.monotonic() - began
    return {
        "open_pages": pages,
        "requests_per_second": round(seen.num_requests / wall, 1),
        "core_seconds_per_second": round(used / wall, 3),
    }


if __name__ == "__main__":
    main()
