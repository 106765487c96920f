"""How soon jobs step again when their worker is killed: `python -m tests.benchmarks.recovery`.

`loraloom run` trains SmolLM2 jobs with real Ray; the worker is killed with -9, again and again. Measured is the time
from the signal to the first line that tells of a step of a job that was resumed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

from tests.benchmarks.endless import endless_jobs
from tests.faults.runs import STEP, Run
from tests.nursery import Nursery
from tests.real_inputs import require

_JOBS = 4


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=5)
    options = parser.parse_args()
    require()
    with tempfile.TemporaryDirectory(prefix="loraloom-bench-") as folder, closing(Nursery()) as nursery:
        specs = Path(folder) / "jobs.yaml"
        specs.write_text(endless_jobs(_JOBS, save_steps=5, logging_steps=1))
        run = Run(nursery, specs, Path(folder) / "run", options=("--workers", "1"))
        run.start()
        seconds = []
        for _ in range(options.kills):
            assert run.wait_until_told(STEP, times=run.count_told(STEP) + 2 * _JOBS), run.told()
            [worker] = run.worker_pids()
            resumed = run.count_told("resumed")
            began = time.monotonic()
            os.kill(worker, signal.SIGKILL)
            assert run.wait_until_told("resumed", times=resumed + 1), run.told()
            assert run.wait_until_told(STEP, times=run.count_told(STEP) + 1), run.told()
            seconds.append(round(time.monotonic() - began, 1))
        run.signal(signal.SIGTERM)
        run.wait()
    print(json.dumps({"jobs": _JOBS, "seconds": seconds, "median": statistics.median(seconds)}))


if __name__ == "__main__":
    main()
