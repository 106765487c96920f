"""Who takes part, and which ratios are formed.

A new contender is a name in `NAMES`, a line in `opened`, and its ratios in `RATIOS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.benchmarks.alternating import Contender
from tests.benchmarks.engine import Floor, LaneFloor, Packed
from tests.benchmarks.peft_jobs import PeftSequential
from tests.benchmarks.peft_processes import PeftProcesses, at_once
from tests.benchmarks.process_memory import available_bytes
from tests.benchmarks.setting import Setting

NAMES = ("peft_sequential", "peft_processes", "packed", "floor", "lane_floor")

RATIOS = {
    "packed_over_peft": ("packed", "peft_sequential"),
    "packed_over_peft_processes": ("packed", "peft_processes"),
    "packed_over_floor": ("packed", "floor"),
    "packed_over_lane_floor": ("packed", "lane_floor"),
    "floor_over_peft": ("floor", "peft_sequential"),
}
"""Name in the JSON: (how many times as fast is this, as that)."""


@dataclass(frozen=True, kw_only=True)
class ForProcesses:
    """What decides how many PEFT processes run side by side."""

    process_bytes: int
    """Peak of one."""
    empty_bytes: int
    """Free memory before anything was loaded."""


@contextmanager
def opened(setting: Setting, *, optimizer: str, processes: ForProcesses | None) -> Iterator[dict[str, Contender]]:
    """All contenders, ready to step, by name; they are closed at the end of the block.

    Args:
        setting: What they run.
        optimizer: Of the PEFT contenders, a key of `peft_jobs.OPTIMIZERS`.
        processes: `None` leaves PEFT processes side by side out.
    """
    with ExitStack() as stack:
        contenders: dict[str, Contender] = {}

        def add(contender: Contender) -> None:
            stack.callback(contender.close)
            contenders[contender.name] = contender

        add(PeftSequential(setting, optimizer=optimizer))
        packed = Packed(setting)
        add(packed)
        add(Floor(packed.base))
        add(LaneFloor(packed.base))
        if processes:
            number = at_once(
                setting.num_jobs, processes.process_bytes, processes.empty_bytes, left_bytes=available_bytes()
            )
            add(PeftProcesses(setting, number, optimizer))
        yield contenders
