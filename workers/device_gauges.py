"""What a device can do and how it stands: its matrix rate, measured once, and on CUDA its memory and utilization."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import cache
from typing import Any

import torch

_TRIES = 5
_MOST_SECONDS = 0.5
"""After so long no larger matrices are tried."""
_SMALLEST = 256
_LARGEST = {"cpu": 1024, "cuda": 8192}
"""Sides of the largest matrices that are tried."""
_MUCH_SLOWER = 2.0
"""Times that are worth telling people of."""
_READ_SECONDS = 1.0
"""Between two questions to the driver, which takes its time to answer."""


@cache
def matrix_flops_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a product of two square matrices: the best of some.

    With all the threads that torch has here, and the best of all tries, since others may be at work on the machine;
    takes some tenths of a second. What a step's products are measured against is what this very device does, not what
    a data sheet says. Measured once in a process, however many workers it has: it is the device's.
    """
    side, best, began = _SMALLEST, 0.0, time.perf_counter()
    largest = _LARGEST.get(device.type, _LARGEST["cpu"])
    while True:
        # Of a generator of its own: jobs' draws must not depend on it. Not of ones, which a GPU multiplies faster.
        generator = torch.Generator(device).manual_seed(0)
        left = torch.rand(side, side, dtype=torch.float32, device=device, generator=generator).to(dtype)
        out = left @ left
        seconds = min(_timed(left, out) for _ in range(_TRIES))
        best = max(best, 2.0 * side**3 / seconds)
        if side >= largest or time.perf_counter() - began >= _MOST_SECONDS:
            return best
        side *= 2


def dtype_note(device: torch.device, dtype: torch.dtype) -> str | None:
    """What people should know of a base's dtype on this device: that its products are much slower than in float32.

    So they are on processors without units for 16-bit numbers, by some dozens of times, and `model.dtype: auto` chooses
    such a dtype for most models. GPUs all have the units, and nothing is measured there.
    """
    if device.type != "cpu" or dtype not in (torch.bfloat16, torch.float16):
        return None
    times = matrix_flops_per_second(device, torch.float32) / matrix_flops_per_second(device, dtype)
    if times < _MUCH_SLOWER:
        return None
    name = str(dtype).removeprefix("torch.")
    return f"{name} is {times:.0f} times as slow as float32 on this processor: set model.dtype to float32"


def _timed(left: torch.Tensor, out: torch.Tensor) -> float:
    _finish(left.device)
    began = time.perf_counter()
    torch.matmul(left, left, out=out)
    _finish(left.device)
    return max(time.perf_counter() - began, 1e-9)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class DeviceGauges:
    """Reads a GPU now and then. On a CPU there is nothing to read."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._nvml: Any = None
        self._read_at = 0.0
        self._utilization: float | None = None
        self._handle: Any = None
        if device.type == "cuda":
            # nvidia-ml-py is an extra: without it, or without rights to ask, utilization is not known.
            with suppress(Exception):
                import pynvml  # pyright: ignore[reportMissingImports]

                pynvml.nvmlInit()
                uuid = torch.cuda.get_device_properties(device).uuid
                self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode())
                self._nvml = pynvml

    @property
    def memory_bytes(self) -> int | None:
        """Held by torch's allocator on the GPU, its cache included."""
        return torch.cuda.memory_reserved(self._device) if self._device.type == "cuda" else None

    @property
    def utilization(self) -> float | None:
        """Share of the last while in which a kernel ran on the GPU, whoever's it was, by NVML: 0 to 1."""
        if self._handle is not None and time.monotonic() - self._read_at >= _READ_SECONDS:
            self._read_at, self._utilization = time.monotonic(), None
            with suppress(Exception):
                self._utilization = self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu / 100
        return self._utilization
