"""Tokens a second of packed training against PEFT and against the floor: `python -m tests.benchmarks.throughput`.

- peft_sequential: `peft` + `torch.optim.AdamW`, job after job in one process, batches padded as a data collator does.
- peft_processes: the same in processes side by side, as many as memory takes.
- packed: this project's worker.
- floor: the frozen base alone, forward and backward for the inputs, packed rows, logits at labels: no adapter at all.

Every repeat takes the next rows of every job through all of them in rotating order; ratios are taken within a repeat
and the median is printed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from orchestrator.clusters.host import quiet_libraries
from tests.benchmarks import spread
from tests.benchmarks.alternating import alternate
from tests.benchmarks.contenders import NAMES, RATIOS, ForProcesses, opened
from tests.benchmarks.engine import Packed
from tests.benchmarks.peaks import engine_peak, peft_peak
from tests.benchmarks.peft_jobs import OPTIMIZERS
from tests.benchmarks.peft_processes import PeftProcesses
from tests.benchmarks.process_memory import Peak, available_bytes
from tests.benchmarks.profile import profile_step
from tests.benchmarks.rows import Feed, real_inputs
from tests.benchmarks.setting import Inputs, Setting, parse_dtypes, parse_rows

Result = dict[str, Any]
"""One line of the output, as JSON has it. What was not measured is `None`."""


def main(arguments: Sequence[str] | None = None, inputs: Inputs | None = None) -> int:
    """Measure every row in every dtype, a line each."""
    options = _parser().parse_args(arguments)
    try:
        rows, dtypes = parse_rows(options.rows), parse_dtypes(options.dtype)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    quiet_libraries()
    inputs = inputs or real_inputs()
    if options.spread:
        for dtype in dtypes:
            result = spread.measure(inputs, dtype, options.repeats)
            print(json.dumps(result) if options.json else spread.describe(result), flush=True)
        return 0
    results = []
    for dtype in dtypes:
        for num_jobs, batch_size in rows:
            setting = Setting(inputs=inputs, num_jobs=num_jobs, batch_size=batch_size, dtype=dtype)
            results.append(
                measure(
                    setting,
                    options.repeats,
                    optimizer=options.peft_optimizer,
                    processes=not options.skip_processes,
                    memory=not options.skip_memory,
                )
            )
            print(json.dumps(results[-1]) if options.json else describe(results[-1]), flush=True)
    if options.plot:
        # Imported where it is used: matplotlib takes seconds.
        from tests.benchmarks.plot import draw

        draw(results, options.plot)
    return 0


def measure(
    setting: Setting, repeats: int, *, optimizer: str = "fused", processes: bool = True, memory: bool = True
) -> Result:
    """One row of the benchmark: medians over the repeats, after a warm-up of each contender.

    Args:
        setting: Jobs, rows, dtype.
        repeats: Steps of every contender that count.
        optimizer: Of the PEFT contenders, a key of `peft_jobs.OPTIMIZERS`.
        processes: Whether PEFT processes side by side take part.
        memory: Whether peaks are measured, each in a fresh process.
    """
    free_bytes = available_bytes()
    peaks: dict[str, Peak] = {}
    if memory or processes:
        peaks["peft_sequential"] = peft_peak(setting, optimizer)
    if memory:
        peaks |= {name: engine_peak(name, setting) for name in ("packed", "floor")}
    room = (
        ForProcesses(process_bytes=peaks["peft_sequential"].peak_bytes, empty_bytes=free_bytes) if processes else None
    )
    feed = Feed(setting)
    with opened(setting, optimizer=optimizer, processes=room) as contenders:
        timings = alternate(list(contenders.values()), feed, repeats)
        side_by_side = contenders.get("peft_processes")
        num_processes, num_waves = 0, None
        if isinstance(side_by_side, PeftProcesses):
            num_processes, num_waves = side_by_side.num_processes, side_by_side.num_waves
            # The events of a profile take gigabytes where operations are many.
            side_by_side.close()
        packed = contenders["packed"]
        assert isinstance(packed, Packed)
        profile = profile_step(lambda: packed.step(feed.next()), packed.base.vocab_size, repeats=1)

    measured = timings.seconds.keys()
    result: Result = {
        "model": setting.inputs.model.name,
        "jobs": setting.num_jobs,
        "batch_size": setting.batch_size,
        "dtype": setting.dtype,
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "mean_row_tokens": round(timings.mean_row_tokens, 2),
        "mean_row_labels": round(timings.mean_row_labels, 2),
        "peft_optimizer": f"AdamW, {optimizer}",
        "peft_processes_at_once": num_processes or None,
        "peft_processes_waves": num_waves,
    }
    for name in dict.fromkeys((*NAMES, *measured)):
        result[f"{name}_tokens_per_second"] = timings.tokens_per_second(name) if name in measured else None
    for ratio, (ours, theirs) in RATIOS.items():
        both = ours in measured and theirs in measured
        result[ratio] = timings.speedup(ours, theirs) if both else None
    for name in NAMES:
        peak = peaks.get(name)
        result[f"{name}_peak_bytes"] = peak.peak_bytes if peak else None
        result[f"{name}_resident_bytes"] = peak.resident_bytes if peak else None
    if num_processes:
        # All at their peaks at a time, as they would have to fit.
        one = peaks["peft_sequential"]
        result["peft_processes_peak_bytes"] = num_processes * one.peak_bytes
        result["peft_processes_resident_bytes"] = num_processes * one.resident_bytes
    result["share_of_time"] = {part: round(share, 4) for part, share in profile.shares.items()}
    return result


def describe(result: Result) -> str:
    """A row for people."""
    rate = {name: result[f"{name}_tokens_per_second"] for name in NAMES}
    lines = [
        f"{result['dtype']} {result['jobs']}x{result['batch_size']}: "
        f"{result['mean_row_tokens']:.1f} tokens and {result['mean_row_labels']:.1f} labels a row",
        f"  tokens/s   packed {rate['packed']:.0f}, PEFT job after job {rate['peft_sequential']:.0f}"
        + (f", PEFT processes {rate['peft_processes']:.0f}" if rate["peft_processes"] else "")
        + f", floor {rate['floor']:.0f} (in lanes {rate['lane_floor']:.0f})",
        f"  ratios     packed/PEFT {result['packed_over_peft']:.2f}"
        + (
            f", packed/PEFT processes {result['packed_over_peft_processes']:.2f} "
            f"({result['peft_processes_at_once']} at once, {result['peft_processes_waves']} wave(s))"
            if rate["peft_processes"]
            else ""
        )
        + f", packed/floor {result['packed_over_floor']:.2f} (in lanes {result['packed_over_lane_floor']:.2f}), "
        f"floor/PEFT {result['floor_over_peft']:.2f}",
    ]
    peaks = {name: result[f"{name}_peak_bytes"] for name in NAMES if result[f"{name}_peak_bytes"]}
    if peaks:
        lines.append(
            "  peak MiB   " + ", ".join(f"{name.replace('_', ' ')} {peak / 2**20:,.0f}" for name, peak in peaks.items())
        )
    shares = ", ".join(f"{part.replace('_', ' ')} {share:.0%}" for part, share in result["share_of_time"].items())
    lines.append(f"  time       {shares}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.throughput")
    parser.add_argument("--rows", default="1x8,4x4,8x1,8x4,16x1,32x1", help="jobs x rows of a micro-batch")
    parser.add_argument("--dtype", default="fp32", help="fp32,bf16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one object per line and row")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the ratios")
    parser.add_argument("--skip-processes", action="store_true", help="no PEFT processes side by side")
    parser.add_argument("--skip-memory", action="store_true", help="no peak memory")
    parser.add_argument("--spread", action="store_true", help="instead: the same rows over 32 adapters and over 4")
    parser.add_argument(
        "--peft-optimizer",
        choices=OPTIMIZERS,
        default="fused",
        help="PEFT's AdamW: fused, as transformers' Trainer has it, or plain, as torch's constructor has it",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
