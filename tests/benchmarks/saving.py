"""What checkpoints cost those who train: `python -m tests.benchmarks.saving`.

Two workers take turns on the same rows, one that saves every job every so many steps and one that saves nothing. A turn
is two such intervals, begun in the middle of one: both times that saves fall due, there are steps left for them to be
written beside, as in a run that goes on. What is still under way at the end of a turn is waited for and counted.
Processor time of the process, its writing thread included, is told beside the clock's: other work on the machine
disturbs it less. Then one job is saved a few times by itself, for what its copy and its writing take.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from orchestrator.clusters.host import quiet_libraries
from tests.benchmarks.engine import Packed
from tests.benchmarks.rows import Feed, real_inputs
from tests.benchmarks.setting import Setting, parse_rows
from tests.workers.snapshots import IDENTITY, SURROUNDINGS
from workers.capture import capture
from workers.checkpoint import save

_INTERVALS = 2
_SAVES = 7


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="8x4", help="jobs x rows of a micro-batch")
    parser.add_argument("--save-steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    try:
        rows = parse_rows(options.rows)
    except ValueError as error:
        parser.error(str(error))
    quiet_libraries()
    for num_jobs, batch_size in rows:
        setting = Setting(inputs=real_inputs(), num_jobs=num_jobs, batch_size=batch_size, dtype="fp32")
        print(json.dumps(measure(setting, options.save_steps, options.repeats)), flush=True)


def measure(setting: Setting, save_steps: int, repeats: int) -> dict[str, object]:
    """Seconds of a turn of each, and what saving adds."""
    saving, plain = Packed(setting, save_steps=save_steps), Packed(setting)
    feeds = {saving: Feed(setting), plain: Feed(setting)}
    seconds: dict[Packed, list[float]] = {saving: [], plain: []}
    processor: dict[Packed, list[float]] = {saving: [], plain: []}
    for contender in (plain, saving):
        for _ in range(save_steps + save_steps // 2):
            contender.step(feeds[contender].next())
        contender.settle()
    for number in range(repeats):
        for contender in (plain, saving) if number % 2 == 0 else (saving, plain):
            took, used = turn(contender, feeds[contender], save_steps)
            seconds[contender].append(took)
            processor[contender].append(used)
    alone = _alone(saving)
    for contender in (plain, saving):
        contender.close()
    return {
        "rows": setting.name,
        "save_steps": save_steps,
        "plain_seconds": [round(one, 2) for one in seconds[plain]],
        "saving_seconds": [round(one, 2) for one in seconds[saving]],
        "cost": _more(seconds[saving], seconds[plain]),
        "cost_in_processor_time": _more(processor[saving], processor[plain]),
    } | alone


def _alone(contender: Packed) -> dict[str, object]:
    """Medians of a job's saves: seconds that training is held up for, and core-seconds of the thread that writes."""
    run = next(iter(contender.worker.runs().values()))
    copying, writing, snapshot_bytes = [], [], 0
    for _ in range(_SAVES):
        began = time.perf_counter()
        snapshot = capture(run, identity=IDENTITY, surroundings=SURROUNDINGS, peft_config={})
        copying.append(time.perf_counter() - began)
        with tempfile.TemporaryDirectory() as folder:
            began = time.thread_time()
            save(snapshot, Path(folder))
            writing.append(time.thread_time() - began)
        snapshot_bytes = snapshot.tensor_bytes
    return {
        "snapshot_bytes": snapshot_bytes,
        "copying_seconds": round(statistics.median(copying), 4),
        "writing_core_seconds": round(statistics.median(writing), 4),
    }


def _more(those: Sequence[float], than: Sequence[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(those, than, strict=True)) - 1, 4)


def turn(contender: Packed, feed: Feed, save_steps: int) -> tuple[float, float]:
    """Seconds and core-seconds of two intervals, with all that was begun to be written in them."""
    began, used = time.perf_counter(), time.process_time()
    for _ in range(_INTERVALS * save_steps):
        contender.step(feed.next())
    contender.settle()
    return time.perf_counter() - began, time.process_time() - used


if __name__ == "__main__":
    main()
