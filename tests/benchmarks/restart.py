"""How soon `loraloom serve` is back with a long queue: `python -m tests.benchmarks.restart`.

A real process on a journal of so many jobs that wait, each checked before; no device holds them, so that nothing is
trained and the first decision looks at all of them. Seconds from the start of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path

import httpx
from sqlalchemy import update

from jobs.records import BaseKey
from orchestrator.api.service import PREFIX
from orchestrator.journal import Journal
from orchestrator.journal.tables import jobs
from tests.benchmarks.api import submit
from tests.orchestrator.served import Served
from workers.estimate import Estimate
from workers.memory import BaseShape, Demand

_PATIENCE_SECONDS = 600.0
_LARGEST_GIB = "1000000"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="loraloom-bench-") as folder:
        data_dir = Path(folder) / "data"
        fill(data_dir, options.jobs)
        found = [restart(data_dir) for _ in range(options.repeats)]
    medians = {name: round(statistics.median(one[name] for one in found), 2) for name in found[0]}
    print(json.dumps({"jobs": options.jobs, "load_average": os.getloadavg()[0], **medians}, indent=2))


def fill(data_dir: Path, count: int) -> None:
    """A service that was stopped with so many jobs in its queue."""
    data_dir.mkdir()
    estimate = Estimate(
        base=BaseKey(model_name_or_path="org/base", revision=None, dtype="float32"),
        base_shape=BaseShape(num_parameters=2**45, itemsize=4, vocab_size=50_000, linear_features=500_000),
        demand=Demand(adapter_bytes=10**7, worst_tokens=4096, worst_labels=512),
        trainable_parameters=10**6,
        train_rows=1000,
        eval_rows=100,
        train_tokens=10**6,
        total_steps=1000,
        peak_bytes=2**48,
    )
    with Journal(data_dir / "journal.db") as journal:
        submit(journal, count, at=lambda _: time.time())
        with journal._writing() as connection:
            connection.execute(update(jobs).values(estimate=json.dumps(estimate.to_json())))


def restart(data_dir: Path) -> dict[str, float]:
    """Start the service, see what it answers when, and kill it."""
    options = ("--in-process", "--largest-device", _LARGEST_GIB)
    served = Served(data_dir, *options, patience_seconds=_PATIENCE_SECONDS)
    began = time.monotonic()
    try:
        served.start()
        found = {"listening_seconds": time.monotonic() - began}
        with httpx.Client(base_url=served.url, timeout=60, trust_env=False) as http:
            http.get(f"{PREFIX}/jobs").raise_for_status()
            found["first_list_seconds"] = time.monotonic() - began
            served.until(lambda: http.get("/readyz").status_code == 200, "it is ready")
            found["ready_seconds"] = time.monotonic() - began
            # There is a view of the cluster once the scheduler has made its first turn.
            served.until(lambda: http.get(f"{PREFIX}/cluster").json()["published_unix_seconds"], "it schedules")
            found["scheduling_seconds"] = time.monotonic() - began
        return found
    finally:
        served.end(signal.SIGKILL)


if __name__ == "__main__":
    main()
