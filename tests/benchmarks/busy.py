"""How much of its speed a packed step keeps beside a busy process: `python -m tests.benchmarks.busy`.

Quiet and busy phases take turns. The busy process spins on one core; the step may use all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from orchestrator.clusters.host import quiet_libraries
from tests.benchmarks.engine import Packed
from tests.benchmarks.peaks import num_cores
from tests.benchmarks.rows import Feed, num_tokens, real_inputs
from tests.benchmarks.setting import Inputs, Setting, parse_dtypes, parse_rows

LEAST = 0.4
"""The share of its speed that a step must keep on two cores."""
_SPIN = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); print('spinning', flush=True)\nwhile True: pass"


@contextmanager
def competitor() -> Iterator[None]:
    """A process that keeps the last of this process's cores busy."""
    core = max(os.sched_getaffinity(0))
    process = subprocess.Popen([sys.executable, "-c", _SPIN, str(core)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.communicate()


def measure(setting: Setting, repeats: int, steps: int) -> dict[str, Any]:
    """Tokens a second in each phase, and the median ratio of the busy phases to the quiet ones before them."""
    feed, packed = Feed(setting), Packed(setting)

    def phase() -> float:
        tokens, seconds = 0, 0.0
        for _ in range(steps):
            rows = feed.next()
            tokens += num_tokens(rows)
            seconds += packed.step(rows)
        return tokens / seconds

    packed.step(feed.next())
    quiet, busy = [], []
    for _ in range(repeats):
        quiet.append(phase())
        with competitor():
            busy.append(phase())
    packed.close()
    return {
        "jobs": setting.num_jobs,
        "batch_size": setting.batch_size,
        "dtype": setting.dtype,
        "repeats": repeats,
        "steps": steps,
        "cores": num_cores(),
        "quiet_tokens_per_second": statistics.median(quiet),
        "busy_tokens_per_second": statistics.median(busy),
        "busy_over_quiet": statistics.median(loud / still for loud, still in zip(busy, quiet, strict=True)),
    }


def describe(result: dict[str, Any]) -> str:
    """For people, with the verdict."""
    ratio = result["busy_over_quiet"]
    return (
        f"{result['dtype']} {result['jobs']}x{result['batch_size']} on {result['cores']} core(s): quiet "
        f"{result['quiet_tokens_per_second']:.0f} tokens/s, beside a busy process "
        f"{result['busy_tokens_per_second']:.0f}; keeps {ratio:.2f} of its speed "
        f"(at least {LEAST:.2f}: {'holds' if ratio >= LEAST else 'MISSED'})"
    )


def main(arguments: list[str] | None = None, inputs: Inputs | None = None) -> None:
    """Measure one or more rows."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.busy")
    parser.add_argument("--rows", default="16x1", help="jobs x rows of a micro-batch")
    parser.add_argument("--dtype", default="fp32", help="fp32,bf16")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of a quiet and a busy phase")
    parser.add_argument("--steps", type=int, default=4, help="steps of a phase")
    parser.add_argument("--json", action="store_true", help="one object per line and row")
    options = parser.parse_args(arguments)
    quiet_libraries()
    inputs = inputs or real_inputs()
    for dtype in parse_dtypes(options.dtype):
        for num_jobs, batch_size in parse_rows(options.rows):
            setting = Setting(inputs=inputs, num_jobs=num_jobs, batch_size=batch_size, dtype=dtype)
            result = measure(setting, options.repeats, options.steps)
            print(json.dumps(result) if options.json else describe(result), flush=True)


if __name__ == "__main__":
    main()
