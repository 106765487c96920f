"""Where the time of a packed step goes: `python -m tests.benchmarks.profile --rows 16x1`.

Every operation's own time is given to a part by its name, by the shapes of a product, or by what it runs inside.
A named range of the engine (`torch.profiler.record_function`) that bears a part's name gives its operations to it.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity

from orchestrator.clusters.host import quiet_libraries
from tests.benchmarks.engine import Packed
from tests.benchmarks.rows import Feed, real_inputs
from tests.benchmarks.setting import RANK, Setting, parse_dtypes, parse_rows

PARTS = ("base_products", "adapter_products", "attention", "loss", "optimizer", "rest")

# Where the two factors of a product stand among an operation's inputs; what follows them may be an output.
_FACTORS = {
    "mm": 0, "bmm": 0, "_grouped_mm": 0, "grouped_mm": 0, "mv": 0, "addmm": 1, "addmm_": 1, "baddbmm": 1, "baddbmm_": 1,
}  # fmt: skip
_THIN = 4 * RANK
"""Modules that share an input may have their ranks side by side. No base product of a pack worth measuring is so thin:
its dimensions are the base's widths and the pack's tokens."""
_WORKING = 0.05
"""A thread counts as one that runs the step when its operations take this share of the time: torch's own helpers show
a handful of operations on threads that otherwise serve inside products."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One packed step, taken apart."""

    shares: dict[str, float]
    """By part. `rest` holds element-wise operations, Python between operations, and threads that wait."""
    milliseconds: dict[str, float]
    """By part, of one step, summed over threads."""
    rest: list[tuple[str, float]]
    """The largest operations of the rest with their milliseconds; `(no operation)` is Python and waiting."""
    num_threads: int
    """Threads that run operations of the step. Those that help inside one operation are not counted."""


def profile_step(step: Callable[[], Any], vocab_size: int, repeats: int = 2) -> Profile:
    """Run a step under torch's profiler and divide its time.

    The share of threads other than the caller's is seen as well; each counts for the whole time of the steps, so that
    waiting shows as rest. Recording slows small operations down: the shares of many tiny ones come out a little large.
    """
    # Without it only operations of threads that began inside the profiler are seen.
    every_thread = _ExperimentalConfig(profile_all_threads=True)
    with torch.profiler.profile(
        activities=[ProfilerActivity.CPU], record_shapes=True, experimental_config=every_thread
    ) as profiler:
        began = time.perf_counter()
        for _ in range(repeats):
            step()
        microseconds = (time.perf_counter() - began) * 1e6
    events = list(profiler.events() or ())
    spent: Counter[str] = Counter()
    rest: Counter[str] = Counter()
    by_thread: Counter[int] = Counter()
    for event in events:
        by_thread[event.thread] += event.self_cpu_time_total
        part = part_of(event, vocab_size)
        spent[part] += event.self_cpu_time_total
        if part == "rest":
            rest[event.name] += event.self_cpu_time_total
    num_threads = sum(own >= _WORKING * microseconds for own in by_thread.values())
    unseen = max(0.0, microseconds * num_threads - spent.total())
    spent["rest"] += unseen
    rest["(no operation)"] += unseen
    scale = 1e-3 / repeats
    return Profile(
        shares={part: spent[part] / spent.total() for part in PARTS},
        milliseconds={part: spent[part] * scale for part in PARTS},
        rest=[(name, time_spent * scale) for name, time_spent in rest.most_common(8)],
        num_threads=num_threads,
    )


def part_of(event: Any, vocab_size: int) -> str:
    """The part that an operation's own time belongs to: its own name and shapes decide, then those it runs inside."""
    while event is not None:
        part = _own_part(event.name, event.input_shapes or [], vocab_size)
        if part is not None:
            return part
        event = event.cpu_parent
    return "rest"


def _own_part(name: str, shapes: list[list[int]], vocab_size: int) -> str | None:
    if name in PARTS:
        return name
    kind = name.removeprefix("aten::")
    if kind in _FACTORS and name != kind:
        return _product(shapes[_FACTORS[kind] :][:2], vocab_size)
    lower = name.lower()
    if "log_softmax" in lower or "logsoftmax" in lower or "nll" in lower or "cross_entropy" in lower:
        return "loss"
    if "attention" in lower or kind in ("_softmax", "softmax", "_softmax_backward_data"):
        return "attention"
    if name.startswith("Optimizer.") or "adam" in lower or "vector_norm" in lower or kind.startswith("_foreach"):
        return "optimizer"
    if shapes and shapes[0]:
        # Logits are as wide as the vocabulary, and only flat buffers of whole adapters are wider.
        if shapes[0][-1] == vocab_size:
            return "loss"
        if shapes[0][-1] > vocab_size:
            return "optimizer"
    return None


def _product(factors: list[list[int]], vocab_size: int) -> str | None:
    if len(factors) < 2 or not all(factors):
        return None
    dimensions = [*factors[0][-2:], factors[1][-1]]
    if vocab_size in dimensions:
        return "loss"
    return "adapter_products" if min(dimensions) <= _THIN else "base_products"


def main() -> None:
    """Profile one or more rows."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.profile")
    parser.add_argument("--rows", default="16x1", help="jobs x rows of a micro-batch")
    parser.add_argument("--dtype", default="fp32", help="fp32,bf16")
    options = parser.parse_args()
    quiet_libraries()
    inputs = real_inputs()
    for dtype in parse_dtypes(options.dtype):
        for num_jobs, batch_size in parse_rows(options.rows):
            setting = Setting(inputs=inputs, num_jobs=num_jobs, batch_size=batch_size, dtype=dtype)
            feed, packed = Feed(setting), Packed(setting)
            for _ in range(2):
                packed.step(feed.next())
            profile = profile_step(lambda packed=packed, feed=feed: packed.step(feed.next()), packed.base.vocab_size)
            packed.close()
            print(f"{dtype} {setting.name}, operations on {profile.num_threads} thread(s):")
            for part, share in profile.shares.items():
                print(f"  {part.replace('_', ' '):<17} {share:6.1%} {profile.milliseconds[part]:8.1f} ms")
            for name, milliseconds in profile.rest:
                print(f"    of the rest: {milliseconds:8.1f} ms {name}")


if __name__ == "__main__":
    main()
