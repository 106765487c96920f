"""What those who look on cost those who train: `python -m tests.benchmarks.watching`.

A real `loraloom serve` with a Ray of its own trains eight jobs together on SmolLM2, confined to one core of this
machine with all of its processes. By turns nobody looks, 50 overviews are open, and `/metrics` is scraped every second;
whoever looks runs on another core. Compared is the time of a pack on the worker's own clock. What the service takes of
one core is half of that of two.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.benchmarks.endless import endless_jobs
from tests.benchmarks.open_pages import open_pages
from tests.orchestrator.served import Served, states, submit
from tests.real_inputs import require

_JOBS = 8
_SCRAPE_SECONDS = 1.0
_SHIPPED_SCRAPE_SECONDS = 15.0
_FAMILY = "loraloom_step_duration_seconds"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=30.0, help="of a phase")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    require()
    first, second, *_ = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="loraloom-bench-") as folder:
        os.sched_setaffinity(0, {first})
        served = Served(Path(folder) / "data", "--workers", "1")
        try:
            client = served.start()
            os.sched_setaffinity(0, {second})
            specs = Path(folder) / "jobs.yaml"
            specs.write_text(endless_jobs(_JOBS, save_steps=1000, logging_steps=10))
            submit(client, specs)
            served.until(lambda: _packs(served.url)[0] > 20, "all train")
            ways: dict[str, Callable[[], object]] = {
                "quiet": nullcontext,
                "pages": lambda: open_pages(served.url, options.pages, cpu=second),
                "scraped": lambda: _scraped(served.url),
            }
            times: dict[str, list[float]] = {name: [] for name in ways}
            cores: dict[str, list[float]] = {name: [] for name in ways}
            for number in range(options.repeats):
                for name in list(ways) if number % 2 == 0 else reversed(list(ways)):
                    with ways[name]():  # type: ignore[attr-defined]
                        before, began = _cpu_seconds(served), time.monotonic()
                        times[name].append(_pack_seconds(served.url, options.seconds))
                        cores[name].append((_cpu_seconds(served) - before) / (time.monotonic() - began))
            assert len(states(client)) == _JOBS
        finally:
            served.close()
    print(json.dumps(_result(times, cores, options.pages), indent=2))


def _packs(url: str) -> tuple[float, float]:
    """Packs that the worker has run, and the seconds that they took."""
    text = httpx.get(f"{url}/metrics", timeout=60, trust_env=False).text
    found = {
        sample.name.removeprefix(_FAMILY): sample.value
        for family in text_string_to_metric_families(text)
        if family.name == _FAMILY
        for sample in family.samples
    }
    return found.get("_count", 0.0), found.get("_sum", 0.0)


def _pack_seconds(url: str, seconds: float) -> float:
    """Of a pack in the mean, over a phase."""
    count, total = _packs(url)
    time.sleep(seconds)
    now_count, now_total = _packs(url)
    return (now_total - total) / (now_count - count)


def _cpu_seconds(served: Served) -> float:
    """Processor time that the service has taken; workers and Ray are processes of their own."""
    assert served.process is not None
    times = psutil.Process(served.process.pid).cpu_times()
    return times.user + times.system


@contextmanager
def _scraped(url: str) -> Iterator[None]:
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(_SCRAPE_SECONDS):
            _packs(url)

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _result(
    times: Mapping[str, Sequence[float]], cores: Mapping[str, Sequence[float]], pages: int
) -> dict[str, object]:
    """Shares of training throughput; each phase against the quiet one of its own round."""

    def lost(name: str) -> float:
        return 1 - statistics.median(quiet / one for quiet, one in zip(times["quiet"], times[name], strict=True))

    return {
        "pack_seconds": {name: [round(one, 4) for one in found] for name, found in times.items()},
        "core_seconds_per_second_of_the_service": {
            name: round(statistics.median(found), 4) for name, found in cores.items()
        },
        "pages": pages,
        "lost_to_pages_on_one_core": round(lost("pages"), 4),
        "lost_to_a_scrape_every_second_on_one_core": round(lost("scraped"), 4),
        "lost_to_scrapes_as_shipped_on_one_core": round(lost("scraped") * _SCRAPE_SECONDS / _SHIPPED_SCRAPE_SECONDS, 5),
    }


if __name__ == "__main__":
    main()
