"""What one machine has to offer, and how to keep libraries quiet on it."""

from __future__ import annotations

import logging
import os
import warnings

import torch

from orchestrator.snapshot import (
    Device,
)
from workers.memory import PROCESS_BYTES
from workers.memory_meter import device_bytes

_USABLE = 0.9
"""Share of free memory that workers may take; the rest is for what the estimates do not see."""
_ROUNDED_TO_BYTES = 256 * 2**20
"""Free memory varies by the minute; rounded, two runs on a quiet machine see the same."""


def host_devices(num_workers: int, *, num_cpus: int | None = None) -> list[Device]:
    """This machine's GPUs, or `num_workers` equal shares of its CPUs and memory where it has none."""
    cpus = num_cpus or os.cpu_count() or 1
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return [
            Device(
                id=f"cuda-{index}",
                kind="cuda",
                memory_bytes=_rounded(torch.cuda.get_device_properties(index).total_memory * _USABLE - PROCESS_BYTES),
                num_cpus=max(1, cpus // count),
            )
            for index in range(count)
        ]
    return cpu_devices(num_workers, num_cpus=cpus, free_bytes=device_bytes(torch.device("cpu")))


def cpu_devices(num_workers: int, *, num_cpus: int, free_bytes: int) -> list[Device]:
    """Equal shares of a machine's CPUs and of its free memory."""
    return [
        Device(
            id=f"cpu-{index}",
            kind="cpu",
            memory_bytes=_rounded(free_bytes * _USABLE / num_workers - PROCESS_BYTES),
            num_cpus=max(1, num_cpus // num_workers),
        )
        for index in range(num_workers)
    ]


def quiet_libraries() -> None:
    """No progress bars or advice from libraries: what they would say is in our own messages, once."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    import datasets
    import transformers

    for name in ("datasets", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def _rounded(num_bytes: float) -> int:
    return max(0, int(num_bytes // _ROUNDED_TO_BYTES * _ROUNDED_TO_BYTES))
