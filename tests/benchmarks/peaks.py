"""Peak memory of each contender, every one in a fresh process: loaded, peak reset, a few steps, read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from tests.benchmarks.child import Batch, Child, bare
from tests.benchmarks.engine import Floor, Packed
from tests.benchmarks.peft_jobs import PeftSequential, padded_tokens
from tests.benchmarks.process_memory import Peak
from tests.benchmarks.rows import Feed
from tests.benchmarks.setting import Setting

STEPS = 3
"""The first allocates moments, the second has them all through its backward, the third is to spare."""
IN_ENGINE: dict[str, Callable[[Setting], Any]] = {"packed": Packed, "floor": Floor.alone}
"""Contenders that take all jobs of a setting at once, by name."""


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def engine_peak(name: str, setting: Setting) -> Peak:
    """Peak of a contender of `IN_ENGINE` over all jobs."""
    feed = Feed(setting)
    return _peak([feed.next() for _ in range(STEPS)], IN_ENGINE[name], setting)


def peft_peak(setting: Setting, optimizer: str = "fused") -> Peak:
    """Peak of one PEFT process: of all jobs, the one whose padded batches are largest.

    That is the peak of one process that runs job after job and drops each adapter when it is done, and what each of
    several processes side by side must have room for.
    """
    feed = Feed(setting)
    batches = [feed.next() for _ in range(STEPS)]
    largest = max(range(setting.num_jobs), key=lambda job: max(padded_tokens(batch[job]) for batch in batches))
    rows = [bare([batch[largest]]) for batch in batches]
    return _peak(rows, PeftSequential, setting, [setting.job_names[largest]], optimizer)


def _peak(batches: Sequence[Batch], factory: Callable[..., Any], *arguments: Any) -> Peak:
    child = Child(factory, *arguments, num_threads=num_cores())
    try:
        child.wait_ready()
        child.ask_peak(batches)
        return child.answer()
    finally:
        child.close()
