"""What checkpoints cost those who train: `python -m tests.benchmarks.saving`.

Two workers take turns on the same rows, one that saves every job every so many steps and one that saves nothing. A turn
is two such intervals; the one that saves has begun two saves of every job in it, and its turn ends when the last is on
the disk, so that no write falls into the other's turn. In a real run that overlaps with further steps: the cost shown
is the most that it can be.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

from orchestrator.clusters.host import quiet_libraries
from tests.benchmarks.engine import Packed
from tests.benchmarks.rows import Feed, real_inputs
from tests.benchmarks.setting import Setting, parse_rows

_INTERVALS = 2


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=parse_rows, default="8x4", help="jobs x rows of a micro-batch")
    parser.add_argument("--save-steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    quiet_libraries()
    for num_jobs, batch_size in options.rows:
        setting = Setting(inputs=real_inputs(), num_jobs=num_jobs, batch_size=batch_size, dtype="fp32")
        print(json.dumps(measure(setting, options.save_steps, options.repeats)), flush=True)


def measure(setting: Setting, save_steps: int, repeats: int) -> dict[str, object]:
    """Seconds of a turn of each, and what saving adds."""
    saving, plain = Packed(setting, save_steps=save_steps), Packed(setting)
    feeds = {saving: Feed(setting), plain: Feed(setting)}
    seconds: dict[Packed, list[float]] = {saving: [], plain: []}
    for contender in (plain, saving):
        turn(contender, feeds[contender], save_steps)
    for number in range(repeats):
        for contender in (plain, saving) if number % 2 == 0 else (saving, plain):
            seconds[contender].append(turn(contender, feeds[contender], save_steps))
    for contender in (plain, saving):
        contender.close()
    return {
        "rows": setting.name,
        "save_steps": save_steps,
        "plain_seconds": [round(one, 2) for one in seconds[plain]],
        "saving_seconds": [round(one, 2) for one in seconds[saving]],
        "cost": round(statistics.median(a / b for a, b in zip(seconds[saving], seconds[plain], strict=True)) - 1, 4),
    }


def turn(contender: Packed, feed: Feed, save_steps: int) -> float:
    """Seconds of two intervals, with all that was begun to be written in them."""
    began = time.perf_counter()
    for _ in range(_INTERVALS * save_steps):
        contender.step(feed.next())
    contender.settle()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
