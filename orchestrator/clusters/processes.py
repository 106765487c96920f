"""Processes of this machine as /proc has them."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process, told from a later one of the same number by when it was started."""

    pid: int
    started: str
    """In the kernel's ticks since boot."""


def descendants(pid: int) -> list[Process]:
    """All that live below a process."""
    children: dict[int, list[Process]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (found := _read(int(folder.name))) is not None:
            parent, process = found
            children.setdefault(parent, []).append(process)
    below: list[Process] = []
    parents = [pid]
    while parents:
        for child in children.get(parents.pop(), []):
            below.append(child)
            parents.append(child.pid)
    return below


def kill_if_same(process: Process) -> None:
    """Kill it, if it still lives; never a later process of its number."""
    found = _read(process.pid)
    if found is not None and found[1] == process:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def _read(pid: int) -> tuple[int, Process] | None:
    """Parent and identity; see proc(5). The name, which may hold anything, stands in brackets before them."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]), Process(pid=pid, started=fields[19])
