"""PEFT processes side by side, as many as memory takes, each with its share of the threads."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from tests.benchmarks.child import Child, bare
from tests.benchmarks.peaks import num_cores
from tests.benchmarks.peft_jobs import PeftSequential
from tests.benchmarks.setting import Setting, TokenRow

SHARE_OF_MEMORY = 0.8


def at_once(num_jobs: int, process_bytes: int, empty_bytes: int, left_bytes: int) -> int:
    """How many processes run side by side: at least one, and no more than there are jobs.

    Args:
        num_jobs: Jobs in all.
        process_bytes: Peak of one process.
        empty_bytes: Free memory before any contender is loaded; `SHARE_OF_MEMORY` of it may be taken.
        left_bytes: Free memory beside the other contenders, which stay loaded. It is a bound as well, since a machine
            out of memory ends the benchmark.
    """
    return max(1, min(num_jobs, min(int(SHARE_OF_MEMORY * empty_bytes), left_bytes) // process_bytes))


class PeftProcesses:
    """Jobs spread evenly over processes that stay alive; each has the base for itself.

    With more jobs than processes they run in waves: each process takes its next job when it is done with the last, and
    never waits for the others, which is kinder to it than a barrier after every wave.
    """

    name = "peft_processes"

    def __init__(self, setting: Setting, num_processes: int, optimizer: str = "fused") -> None:
        """Start all of them and wait until each has loaded the base."""
        self.num_processes = num_processes
        self.num_waves = math.ceil(setting.num_jobs / num_processes)
        threads = max(1, num_cores() // num_processes)
        names = setting.job_names
        self._children = [
            Child(PeftSequential, setting, names[first::num_processes], optimizer, num_threads=threads)
            for first in range(num_processes)
        ]
        try:
            for child in self._children:
                child.wait_ready()
        except RuntimeError:
            self.close()
            raise

    def step(self, rows_by_job: Sequence[Sequence[TokenRow]]) -> float:
        """Seconds until the last process has done a step of its last job."""
        rows = bare(rows_by_job)
        began = time.perf_counter()
        for first, child in enumerate(self._children):
            child.ask_step(rows[first :: self.num_processes])
        for child in self._children:
            child.answer()
        return time.perf_counter() - began

    def close(self) -> None:
        """End all processes."""
        for child in self._children:
            child.close()
