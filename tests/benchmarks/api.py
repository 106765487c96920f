"""How fast the API takes jobs in and lists them: `python -m tests.benchmarks.api`.

A real server, a real journal on this machine's disk, each request over HTTP: what a user waits for. No scheduler runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from jobs.records import JobState
from jobs.spec import JobSpec
from orchestrator.api.app import build_app
from orchestrator.api.server import HttpServer
from orchestrator.api.service import PREFIX
from orchestrator.journal import Journal, Submission

ENDS = (JobState.FAILED, JobState.CANCELLED)
LISTS = {
    "newest": {},
    "pending": {"state": "PENDING"},
    "failed, by end": {"state": "FAILED", "sort": "-ended"},
    "label": {"label": "team=a", "sort": "name"},
    "text": {"q": "job-499"},
    "queue, by priority": {"queue": "night", "sort": "-priority"},
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--submissions", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=50_000)
    parser.add_argument("--requests", type=int, default=100, help="of each kind of list")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="loraloom-bench-") as folder:
        found = submissions(Path(folder) / "submit", options.submissions, options.clients)
        found |= lists(Path(folder) / "list", options.jobs, options.requests)
    print(json.dumps(found, indent=2))


def submissions(folder: Path, count: int, clients: int) -> dict[str, float]:
    """So many submissions of one job each, by several clients at once."""
    folder.mkdir()
    journal = Journal(folder / "journal.db")
    with HttpServer(build_app(journal, lambda: None, data_dir=folder), port=0) as server:

        def submit(client: int) -> list[float]:
            seconds = []
            with httpx.Client(base_url=server.url + PREFIX, timeout=60, trust_env=False) as http:
                for number in range(client, count, clients):
                    body = spec(number).model_dump_json()
                    key = {"Idempotency-Key": f"key-{number}", "Content-Type": "application/json"}
                    began = time.perf_counter()
                    http.post("/jobs", content=body, headers=key).raise_for_status()
                    seconds.append(time.perf_counter() - began)
            return seconds

        began = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            each = [one for found in pool.map(submit, range(clients)) for one in found]
        total = time.perf_counter() - began
    journal.close()
    return {
        "submissions": count,
        "submissions_total_seconds": round(total, 2),
        "submission_p50_milliseconds": _milliseconds(each, 0.5),
        "submission_p95_milliseconds": _milliseconds(each, 0.95),
    }


def lists(folder: Path, jobs: int, requests: int) -> dict[str, float]:
    """Parts of a hundred of the list of so many jobs, and single ones."""
    folder.mkdir()
    journal = Journal(folder / "journal.db")
    _fill(journal, jobs)
    found: dict[str, float] = {"jobs": jobs}
    with (
        HttpServer(build_app(journal, lambda: None, data_dir=folder), port=0) as server,
        httpx.Client(base_url=server.url + PREFIX, timeout=60, trust_env=False) as http,
    ):
        for name, which in LISTS.items():
            # Each goes on after the one before, as somebody does who reads on.
            after: list[str | None] = [None]

            def page(which: dict[str, str] = which, after: list[str | None] = after) -> None:
                more = {} if after[0] is None else {"after": after[0]}
                answer = http.get("/jobs", params={"limit": 100, **which, **more}).raise_for_status().json()
                assert answer["jobs"]
                after[0] = answer["after"]

            found[f"GET /jobs ({name}) p95_milliseconds"] = _measured(page, requests)
        found["GET /jobs/{id} p95_milliseconds"] = _measured(
            lambda: http.get("/jobs/job-17").raise_for_status(), requests
        )
        found["GET /queues p95_milliseconds"] = _measured(lambda: http.get("/queues").raise_for_status(), requests)
    journal.close()
    return found


def spec(number: int) -> JobSpec:
    """A job."""
    return JobSpec.model_validate(
        {
            "name": f"job-{number}",
            "labels": {"team": "abcd"[number % 4]},
            "model": {"model_name_or_path": "org/base"},
            "datasets": [{"path": "/data/rows.jsonl"}],
            "scheduling": {"priority": number % 5, "queue": ("default", "night")[number % 2]},
        }
    )


def submit(journal: Journal, jobs: int, at: Callable[[int], float] = float) -> None:
    """Put so many jobs into a journal, some thousands at a time; `at` gives the time of a part by its first number."""
    for first in range(0, jobs, 5000):
        numbers = range(first, min(first + 5000, jobs))
        journal.submit([Submission(spec=spec(number)) for number in numbers], at=at(first))


def _fill(journal: Journal, jobs: int) -> None:
    submit(journal, jobs)
    # One in fifty has ended: each is a transaction of its own.
    for number in range(0, jobs, 50):
        state = ENDS[number // 50 % 2]
        journal.change(f"job-{number}", attempt=None, state=state, reason="bench", message="ended", at=float(number))


def _measured(call: Callable[[], object], count: int) -> float:
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return _milliseconds(seconds, 0.95)


def _milliseconds(seconds: list[float], quantile: float) -> float:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return round(1000 * cuts[round(100 * quantile) - 1], 1)


if __name__ == "__main__":
    main()
