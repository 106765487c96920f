"""What another job costs in memory: `python -m tests.benchmarks.memory`.

The same 32 rows in one pack, as one job of 32 rows and as 32 jobs of one row, each in a fresh process: the difference
is what 31 adapters take beyond the tokens. And a PEFT process with one of those jobs, of which one would need 32.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

from orchestrator.clusters.host import quiet_libraries
from tests.benchmarks.child import Child
from tests.benchmarks.peaks import engine_peak, num_cores, peft_peak
from tests.benchmarks.peft_jobs import PeftSequential
from tests.benchmarks.rows import real_inputs
from tests.benchmarks.setting import Inputs, Setting, parse_dtypes

NUM_ROWS = 32
MOST_PER_ADAPTER = 1.10
"""Another job may take this many times the bytes of its weights, gradients and moments."""
MOST_OF_PEFT = 1 / 8
"""All jobs together may take this share of as many PEFT processes."""
_STATES = 4
"""Weights, gradients and AdamW's two moments."""
_ADAPTER_ITEMSIZE = 4


def measure(inputs: Inputs, dtype: str, repeats: int, num_rows: int = NUM_ROWS) -> dict[str, Any]:
    """Medians over the repeats."""

    def setting(num_jobs: int) -> Setting:
        return Setting(inputs=inputs, num_jobs=num_jobs, batch_size=num_rows // num_jobs, dtype=dtype, pinned=True)

    many, one, peft = [], [], []
    for _ in range(repeats):
        many.append(engine_peak("packed", setting(num_rows)).peak_bytes)
        one.append(engine_peak("packed", setting(1)).peak_bytes)
        peft.append(peft_peak(setting(num_rows)).peak_bytes)
    adapter_bytes = _adapter_parameters(setting(1)) * _ADAPTER_ITEMSIZE * _STATES
    more = statistics.median(large - small for large, small in zip(many, one, strict=True))
    result = {
        "dtype": dtype,
        "rows": num_rows,
        "repeats": repeats,
        "adapter_bytes": adapter_bytes,
        "many_jobs_peak_bytes": int(statistics.median(many)),
        "one_job_peak_bytes": int(statistics.median(one)),
        "peft_process_peak_bytes": int(statistics.median(peft)),
        "more_bytes": int(more),
        "more_over_adapters": more / ((num_rows - 1) * adapter_bytes),
        "many_over_peft_processes": statistics.median(many) / (num_rows * statistics.median(peft)),
    }
    result["holds"] = (
        result["more_over_adapters"] <= MOST_PER_ADAPTER and result["many_over_peft_processes"] <= MOST_OF_PEFT
    )
    return result


def describe(result: dict[str, Any]) -> str:
    """For people, with both verdicts."""

    def mib(name: str) -> str:
        return f"{result[name] / 2**20:,.0f} MiB"

    def verdict(ratio: float, most: float) -> str:
        return f"{ratio:.3f}, at most {most:.3f}: {'holds' if ratio <= most else 'MISSED'}"

    rows = result["rows"]
    return "\n".join(
        [
            f"{result['dtype']}: peak with {rows} jobs of one row {mib('many_jobs_peak_bytes')}, "
            f"with one job of the same {rows} rows {mib('one_job_peak_bytes')}",
            f"  {mib('more_bytes')} more, by {rows - 1} adapters of {mib('adapter_bytes')}: "
            f"{verdict(result['more_over_adapters'], MOST_PER_ADAPTER)}",
            f"  {rows} jobs by {rows} PEFT processes of {mib('peft_process_peak_bytes')}: "
            f"{verdict(result['many_over_peft_processes'], MOST_OF_PEFT)}",
        ]
    )


def _adapter_parameters(setting: Setting) -> int:
    """As PEFT counts them, so that the measure does not come from what it measures."""
    child = Child(PeftSequential, setting, num_threads=num_cores())
    try:
        child.wait_ready()
        child.ask_attribute("adapter_parameters")
        return child.answer()
    finally:
        child.close()


def main() -> None:
    """Measure in every dtype."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.memory")
    parser.add_argument("--dtype", default="fp32", help="fp32,bf16")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one object per line")
    options = parser.parse_args()
    quiet_libraries()
    inputs = real_inputs()
    for dtype in parse_dtypes(options.dtype):
        result = measure(inputs, dtype, options.repeats)
        print(json.dumps(result) if options.json else describe(result), flush=True)


if __name__ == "__main__":
    main()
