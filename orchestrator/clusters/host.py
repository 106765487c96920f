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
from workers.memory_meter import USABLE, device_bytes, rounded_down


def host_devices(num_workers: int, *, num_cpus: int | None = None) -> list[Device]:
    """This machine's GPUs, or `num_workers` equal shares of its CPUs and memory where it has none.

    Memory is what is free now, whoever holds the rest.
    """
    cpus = num_cpus or os.cpu_count() or 1
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return [
            Device(
                id=f"cuda-{index}",
                kind="cuda",
                memory_bytes=rounded_down(torch.cuda.mem_get_info(index)[0] * USABLE - PROCESS_BYTES),
                num_cpus=max(1, cpus // count),
                index=index,
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
            memory_bytes=rounded_down(free_bytes * USABLE / num_workers - PROCESS_BYTES),
            num_cpus=max(1, num_cpus // num_workers),
        )
        for index in range(num_workers)
    ]


def limit_memory(device: Device) -> None:
    """Keep this process's allocator within its part of the one GPU that it sees, or its cache starves the others.

    What is limited is what the allocator reserves: the worker's memory and what the estimates do not see.
    """
    if device.kind == "cuda" and device.is_shared:
        total_bytes = torch.cuda.mem_get_info(0)[1]
        torch.cuda.set_per_process_memory_fraction(min(1.0, device.memory_bytes / USABLE / total_bytes), 0)


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
