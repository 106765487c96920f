"""Who takes part, and which ratios are formed.

A new contender is a name in `NAMES`, a line in `opened`, and its ratios in `RATIOS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.benchmarks.alternating import Contender
from tests.benchmarks.engine import Floor, Packed
from tests.benchmarks.peft_jobs import PeftSequential
from tests.benchmarks.peft_processes import PeftProcesses
from tests.benchmarks.setting import Setting

NAMES = ("peft_sequential", "peft_processes", "packed", "floor")

RATIOS = {
    "packed_over_peft": ("packed", "peft_sequential"),
    "packed_over_peft_processes": ("packed", "peft_processes"),
    "packed_over_floor": ("packed", "floor"),
    "floor_over_peft": ("floor", "peft_sequential"),
}
"""Name in the JSON: (how many times as fast is this, as that)."""


@contextmanager
def opened(setting: Setting, *, num_processes: int, optimizer: str) -> Iterator[dict[str, Contender]]:
    """All contenders, ready to step, by name; they are closed at the end of the block.

    Args:
        setting: What they run.
        num_processes: PEFT processes side by side; 0 leaves that contender out.
        optimizer: Of the PEFT contenders, a key of `peft_jobs.OPTIMIZERS`.
    """
    with ExitStack() as stack:
        contenders: dict[str, Contender] = {}

        def add(contender: Contender) -> None:
            stack.callback(contender.close)
            contenders[contender.name] = contender

        if num_processes:
            add(PeftProcesses(setting, num_processes, optimizer))
        add(PeftSequential(setting, optimizer=optimizer))
        packed = Packed(setting)
        add(packed)
        add(Floor(packed.base))
        yield contenders
