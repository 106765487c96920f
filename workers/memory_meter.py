"""What memory a device has, and what a pack took of it at its peak."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

import torch

from workers.host_memory import available_bytes

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
USABLE = 0.9
"""Share of free memory that workers may take; the rest is for what the estimates do not see."""
_STEP_BYTES = 256 * 2**20

_RESET_PEAK = "5"
"""Written to clear_refs it sets the peak (VmHWM) back to what is resident; see proc(5)."""


class PeakMeter:
    """Measures peaks: torch's own account on a GPU, the process's resident size on a CPU.

    Freed memory stays resident on a CPU as long as the C library keeps it for reuse, and would hide what a smaller pack
    takes. So it is given back before a measured pack, which costs that pack some tenths of a second; measure few.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)

    def begin(self) -> bool:
        """Start a measurement. False where this machine does not let us."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            return True
        if self._trim is not None:
            self._trim(0)
        try:
            _CLEAR_REFS.write_text(_RESET_PEAK, encoding="ascii")
        except OSError:
            return False
        return True

    def peak_bytes(self) -> int:
        """The most that was held since `begin`."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return _status_bytes("VmHWM")

    def held_bytes(self) -> int:
        """What is held now."""
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device)
        return _status_bytes("VmRSS")


def _status_bytes(field: str) -> int:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {field}")


def free_memory(device: torch.device) -> None:
    """Free what nobody can reach any more, and what torch's allocator keeps for reuse.

    Graphs and exceptions are parts of cycles at times, which only the collector finds.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def rounded_down(num_bytes: float) -> int:
    """Free memory varies by the minute; in steps of 256 MiB two runs on a quiet machine see the same."""
    return max(0, int(num_bytes // _STEP_BYTES * _STEP_BYTES))


def device_bytes(device: torch.device) -> int:
    """Bytes that may be used on a device: free memory on a GPU, memory this process may still take on a CPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_bytes()
