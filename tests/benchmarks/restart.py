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
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import update

from jobs.records import BaseKey
from orchestrator.api.service import PREFIX
from orchestrator.journal import Journal, Submission
from orchestrator.journal.tables import jobs
from tests.benchmarks.api import spec
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
        for first in range(0, count, 1000):
            batch = [Submission(spec=spec(number)) for number in range(first, min(first + 1000, count))]
            journal.submit(batch, at=time.time())
        with journal._writing() as connection:
            connection.execute(update(jobs).values(estimate=json.dumps(estimate.to_json())))


def restart(data_dir: Path) -> dict[str, float]:
    """Start the service, see what it answers when, and kill it."""
    began = time.monotonic()
    command = [sys.executable, "-m", "orchestrator.cli", "serve", "--in-process", "--port", "0"]
    command += ["--data-dir", str(data_dir), "--largest-device", _LARGEST_GIB]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    try:
        said = ""
        while "serving at " not in said:
            line = process.stdout.readline()
            assert line, said
            said += line.decode()
        found: dict[str, Any] = {"listening_seconds": time.monotonic() - began}
        url = said.split("serving at ")[1].split(",")[0]
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            http.get(f"{PREFIX}/jobs").raise_for_status()
            found["first_list_seconds"] = time.monotonic() - began
            _until(http, "/readyz", began)
            found["ready_seconds"] = time.monotonic() - began
            # There is a view of the cluster once the scheduler has made its first turn.
            while not http.get(f"{PREFIX}/cluster").json()["published_unix_seconds"]:
                assert time.monotonic() - began < _PATIENCE_SECONDS
                time.sleep(0.05)
            found["scheduling_seconds"] = time.monotonic() - began
        return found
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()


def _until(http: httpx.Client, path: str, began: float) -> None:
    while http.get(path).status_code != 200:
        assert time.monotonic() - began < _PATIENCE_SECONDS, path
        time.sleep(0.05)


if __name__ == "__main__":
    main()
