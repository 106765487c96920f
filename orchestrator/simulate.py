"""`python -m orchestrator.simulate`: the service's own policies on a simulated cluster, in figures and a picture.

Three questions: with all jobs there at time 0, how near is the makespan to the lower bound; with jobs that keep coming,
how long do they wait and how busy are devices, for micro-batches of 1, 4 and 16 rows, against one job per device; and
where all queues want more than there is, and one of them sends nothing but high priorities, does each get its share.
The speed of a simulated device is stated in `simulation/speed.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from orchestrator.decision import (
    duration,
)
from orchestrator.simulation.compare import Comparison, compare
from orchestrator.simulation.history import (
    Conditions,
)
from orchestrator.simulation.workload import Workload


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate, print, draw."""
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__)
    parser.add_argument("--jobs", type=int, default=4000, help="in each workload")
    parser.add_argument("--devices", type=int, default=40)
    parser.add_argument("--load", type=float, default=0.6, help="of arriving jobs, as a share of full packs' speed")
    parser.add_argument("--spot-hours", type=float, default=100.0, help="mean hours until a device is lost; 0: never")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("burst", "arrivals", "contended"), help="one of the questions")
    parser.add_argument("--no-baseline", action="store_true", help="leave one job per device out")
    parser.add_argument("--plot", type=Path, help="PNG to write")
    parser.add_argument("--json", action="store_true", help="one object a workload on stdout")
    asked = parser.parse_args(arguments)
    done: list[Comparison] = []
    for name, workload, conditions in _workloads(asked):
        started = time.process_time()
        # One job per device knows no queues: nothing to compare where shares are the question.
        with_baseline = not asked.no_baseline and workload.all_high_in is None
        one = compare(name, workload, conditions, with_baseline=with_baseline)
        done.append(one)
        seconds = time.process_time() - started
        print(json.dumps({**one.to_json(), "cpu_seconds": round(seconds, 1)}) if asked.json else _said(one, seconds))
        sys.stdout.flush()
    if asked.plot is not None:
        from orchestrator.simulation.picture import draw

        draw(done, asked.plot)
        print(f"picture in {asked.plot}", file=sys.stderr)


def _workloads(asked: argparse.Namespace) -> list[tuple[str, Workload, Conditions]]:
    quiet = Conditions(num_devices=asked.devices, seed=asked.seed)
    spot = Conditions(num_devices=asked.devices, seed=asked.seed, lost_after_seconds=3600.0 * asked.spot_hours or None)
    found = []
    if asked.only in (None, "burst"):
        # Nothing fails here: the bound knows of no failures.
        workload = Workload(num_jobs=asked.jobs, micro_batch=None, failures=0.0, seed=asked.seed)
        found.append(("all at time 0", workload, quiet))
    if asked.only in (None, "arrivals"):
        for rows in (1, 4, 16):
            workload = Workload(num_jobs=asked.jobs, micro_batch=rows, load=asked.load, seed=asked.seed)
            found.append((f"arriving, micro-batch {rows}", workload, spot))
    if asked.only in (None, "contended"):
        # Long enough for several windows.
        workload = Workload(
            num_jobs=3 * asked.jobs, micro_batch=None, load=1.8, all_high_in="students", seed=asked.seed
        )
        found.append(("contended, one queue all high priority", workload, spot))
    return found


def _said(one: Comparison, cpu_seconds: float) -> str:
    packed, alone = one.packed, one.alone
    lines = [f"{one.name}: {packed.jobs:,} jobs, {packed.decisions:,} decisions, {cpu_seconds:.0f} s of processor time"]
    if one.bound_seconds is not None:
        ratio = packed.makespan_seconds / one.bound_seconds
        lines.append(f"  makespan {duration(packed.makespan_seconds)}, {ratio:.3f} of the lower bound")
    for name, figures in (("packed", packed), ("one job per device", alone)):
        if figures is not None:
            lines.append(
                f"  {name}: makespan {duration(figures.makespan_seconds)}, waiting p50 "
                f"{duration(figures.wait_p50_seconds)} p95 {duration(figures.wait_p95_seconds)}, devices busy "
                f"{figures.busy:.2f}, of full packs' speed {figures.effective:.2f}"
            )
    shortfall = "no such window" if packed.largest_shortfall is None else f"{packed.largest_shortfall:.1%}"
    jain = "none" if packed.jain is None else f"{packed.jain:.4f}"
    lines.append(
        f"  preemptions {packed.preemptions}, devices lost {packed.devices_lost}, failures {packed.failures}; Jain "
        f"{jain}, largest shortfall {shortfall}; longest wait {duration(packed.longest_wait_seconds)}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
