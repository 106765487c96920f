"""Processes of this machine as /proc has them."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_DEAD = ("Z", "X")


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process, told from a later one of the same number by when it was started."""

    pid: int
    started: str
    """In the kernel's ticks since boot."""


@dataclass(frozen=True, kw_only=True)
class _Stat:
    process: Process
    parent: int
    session: int
    state: str


def boot_id() -> str:
    """Changes whenever the machine is started: ticks since boot mean nothing beyond that."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def find_process(pid: int) -> Process | None:
    """The process of that number, unless it is dead and only waited for by its parent."""
    found = _read(pid)
    return found.process if found is not None and found.state not in _DEAD else None


def is_running(process: Process) -> bool:
    """Whether that very process still runs."""
    return find_process(process.pid) == process


def descendants(pid: int) -> list[Process]:
    """All that live below a process."""
    children: dict[int, list[Process]] = {}
    for one in _all():
        children.setdefault(one.parent, []).append(one.process)
    below: list[Process] = []
    parents = [pid]
    while parents:
        for child in children.get(parents.pop(), []):
            below.append(child)
            parents.append(child.pid)
    return below


def session_members(pid: int) -> list[Process]:
    """All that run in the session that a process began, itself included; also when it is dead.

    The kernel gives the number to no other process as long as the session has a member.
    """
    return [one.process for one in _all() if one.session == pid and one.state not in _DEAD]


def started_with(argument: str) -> list[Process]:
    """Those of this user that have just this argument among theirs."""
    found = []
    for one in _all():
        with suppress(OSError):
            folder = Path(f"/proc/{one.process.pid}")
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
            if argument.encode() in arguments and folder.stat().st_uid == os.getuid():
                found.append(one.process)
    return found


def kill_if_same(process: Process) -> None:
    """Kill it, if it still lives; never a later process of its number."""
    found = _read(process.pid)
    if found is not None and found.process == process:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def _all() -> list[_Stat]:
    found = (_read(int(folder.name)) for folder in Path("/proc").iterdir() if folder.name.isdigit())
    return [one for one in found if one is not None]


def _read(pid: int) -> _Stat | None:
    """See proc(5). The name, which may hold anything, stands in brackets before the fields that we want."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return _Stat(
        process=Process(pid=pid, started=fields[19]), parent=int(fields[1]), session=int(fields[3]), state=fields[0]
    )
