"""How well a worker foresees the memory of a pack: `python -m tests.benchmarks.memory_model`.

Random packs of unlike jobs run through a worker, which fits its figures to the first of them; of each later one the
peak is foretold and then measured.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from typing import Any

from orchestrator.clusters.host import quiet_libraries
from tests.benchmarks.engine import Packed
from tests.benchmarks.rows import real_inputs
from tests.benchmarks.setting import Setting
from workers.pack_runner import Member
from workers.rounds import load_of

MOST_ERROR = 0.10
"""Mean of |foretold / measured - 1|, and what a pack may exceed the bound that it was admitted by."""
NUM_JOBS = 16
BATCH_SIZE = 1


def measure(num_observed: int, num_foretold: int, seed: int) -> dict[str, Any]:
    """Run packs of random members of one worker, the first ones to learn from."""
    setting = Setting(inputs=real_inputs(), num_jobs=NUM_JOBS, batch_size=BATCH_SIZE, dtype="fp32")
    packed = Packed(setting, num_measured_packs=num_observed)
    worker, meter = packed.worker, packed.worker._rounds.meter
    loaded_bytes = meter.held_bytes()
    draw = random.Random(seed)
    worker._admit()
    runs = list(worker.runs().values())
    adapters = sum(run.demand.adapter_bytes for run in runs)
    errors, excesses = [], []
    for number in range(num_observed + num_foretold):
        members = []
        for run in draw.sample(runs, draw.randint(1, NUM_JOBS)):
            work = run.next_work()
            assert work is not None
            members.append(Member(run, work))
        load = load_of(members)
        assert load is not None
        beside = loaded_bytes + adapters
        foretold, bound = beside + worker._admission.fit.predict(load), beside + worker._admission.fit.bound(load)
        if number >= num_observed and not meter.begin():
            raise SystemExit("this machine does not let a process reset its own peak (/proc/self/clear_refs)")
        worker._rounds.run(members)
        if number >= num_observed:
            peak = meter.peak_bytes()
            errors.append(abs(foretold / peak - 1))
            excesses.append(peak / bound - 1)
    packed.close()
    result = {
        "observed": num_observed,
        "foretold": num_foretold,
        "seed": seed,
        "mean_absolute_error": statistics.mean(errors),
        "worst_error": max(errors),
        "worst_excess": max(excesses),
    }
    result["holds"] = result["mean_absolute_error"] <= MOST_ERROR and result["worst_excess"] <= MOST_ERROR
    return result


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.memory_model")
    parser.add_argument("--observed", type=int, default=20, help="packs that the worker learns from")
    parser.add_argument("--foretold", type=int, default=50, help="packs that are foretold and measured")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    quiet_libraries()
    result = measure(options.observed, options.foretold, options.seed)
    if options.json:
        print(json.dumps(result))
        return
    print(
        f"{result['foretold']} random packs after {result['observed']}: mean error of the foretold peak "
        f"{result['mean_absolute_error']:.1%}, worst {result['worst_error']:.1%}; most above the bound of admission "
        f"{max(0.0, result['worst_excess']):.1%} (at most {MOST_ERROR:.0%}: {'holds' if result['holds'] else 'missed'})"
    )


if __name__ == "__main__":
    main()
