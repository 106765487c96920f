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

import yaml

from tests.faults.nursery import Nursery
from tests.faults.runs import STEP, Run
from tests.real_inputs import data_file, require, smollm2_dir

_JOBS = 4


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=5)
    options = parser.parse_args()
    require()
    with tempfile.TemporaryDirectory(prefix="loraloom-bench-") as folder, closing(Nursery()) as nursery:
        specs = Path(folder) / "jobs.yaml"
        specs.write_text(_specs())
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


def _specs() -> str:
    return yaml.safe_dump_all(
        {
            "name": f"job-{number}",
            "model": {"model_name_or_path": str(smollm2_dir()), "dtype": "float32"},
            "lora": {"r": 8, "target_modules": "all-linear"},
            "datasets": [{"path": str(data_file("trec-coarse.train.jsonl"))}],
            "training": {
                "max_steps": 100_000,
                "per_device_train_batch_size": 1,
                "save_steps": 5,
                "logging_steps": 1,
                "seed": number,
            },
        }
        for number in range(_JOBS)
    )


if __name__ == "__main__":
    main()
