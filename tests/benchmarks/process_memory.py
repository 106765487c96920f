"""What Linux says of this process's memory, and how much of the machine's is free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class Peak:
    """A contender's memory over a few steps, in a process that does nothing else."""

    resident_bytes: int
    """Just before the steps: base loaded, adapters made where the contender makes them at once."""
    peak_bytes: int
    """The largest resident size during the steps."""


def reset_peak() -> None:
    """Let `VmHWM` start again at what is resident now (proc(5), clear_refs 5)."""
    CLEAR_REFS.write_text("5", encoding="ascii")


def resident_bytes() -> int:
    """Resident size now."""
    return _kib(STATUS, "VmRSS:") * 1024


def peak_bytes() -> int:
    """Largest resident size since the last reset."""
    return _kib(STATUS, "VmHWM:") * 1024


def available_bytes() -> int:
    """Memory that new processes may take: what the machine has free, or less inside a container with a limit."""
    free = _kib(Path("/proc/meminfo"), "MemAvailable:") * 1024
    try:
        limit = (CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((CGROUP / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return free
    return free if limit == "max" else max(0, min(free, int(limit) - used))


def _kib(file: Path, field: str) -> int:
    for line in file.read_text(encoding="ascii").splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise OSError(f"{file} has no line {field!r}; memory can only be read from Linux's /proc")
