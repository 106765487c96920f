"""Memory, disk, clock and limits of this machine."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

from jobs.errors import LoraloomError
from orchestrator.diagnosis.findings import Finding, ok, problem, warning

_GIB = 2**30
_LITTLE_MEMORY_BYTES = 2 * _GIB
_LITTLE_DISK_BYTES, _VERY_LITTLE_DISK_BYTES = 10 * _GIB, _GIB
_OBJECT_STORE_BYTES = 100 * 2**20
"""What our Ray asks for."""
_FEW_FILES = 4096
_MOST_SKEW_SECONDS = 2.0
_RELEASED = datetime(2025, 1, 1).timestamp()
"""No clock that is right shows an earlier time."""


def memory() -> Iterator[Finding]:
    """Enough for a base model, counting the limit of a container."""
    values = {
        line.split(":")[0]: int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.split()[-1] == "kB"
    }
    total, available = values["MemTotal"], values["MemAvailable"]
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limit = int(Path(name).read_text())
        except (OSError, ValueError):
            continue
        if limit < total:
            total, available = limit, min(available, limit)
    told = f"{total / _GIB:.1f} GiB, {available / _GIB:.1f} GiB available"
    if available < _LITTLE_MEMORY_BYTES:
        yield warning("memory", f"{told}: too little for most bases", "end other processes, or use a larger machine")
    else:
        yield ok("memory", told)


def shared_memory() -> Iterator[Finding]:
    """Ray's object store lies in /dev/shm, and on disk where there is too little of it."""
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError as error:
        yield warning("shared memory", f"/dev/shm: {error.strerror}", "mount a tmpfs at /dev/shm for Ray")
        return
    told = f"{free / 2**20:,.0f} MiB free in /dev/shm"
    if free < _OBJECT_STORE_BYTES:
        mend = "give the container more, as with `docker run --shm-size=1g`"
        yield warning("shared memory", f"{told}, and Ray's object store wants 100 MiB", mend)
    else:
        yield ok("shared memory", told)


def disk(data_dir: Path) -> Iterator[Finding]:
    """There is room, one may write, and the file system can hold a journal."""
    folder = next((one for one in (data_dir, *data_dir.absolute().parents) if one.is_dir()), Path("/"))
    usage = shutil.disk_usage(folder)
    told = f"{usage.free / _GIB:,.1f} GiB of {usage.total / _GIB:,.1f} GiB free at {folder}"
    mend = "free some space, `loraloom prune`, or name another --data-dir"
    if usage.free < _VERY_LITTLE_DISK_BYTES:
        yield problem("disk", told, mend)
    elif usage.free < _LITTLE_DISK_BYTES:
        yield warning("disk", told, mend)
    else:
        yield ok("disk", told)
    statistics = os.statvfs(folder)
    if statistics.f_files and statistics.f_favail < 10_000:
        yield warning("inodes", f"{statistics.f_favail:,} left at {folder}", mend)
    try:
        with (
            tempfile.TemporaryDirectory(dir=folder, prefix=".loraloom-doctor-") as temporary,
            closing(sqlite3.connect(Path(temporary) / "try.db")) as connection,
        ):
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            connection.execute("CREATE TABLE try (x)")
    except OSError as error:
        yield problem("write", f"{folder} cannot be written: {error.strerror}", "change its owner or its mode")
        return
    except sqlite3.Error as error:
        yield problem("write", f"{folder} cannot hold a database: {error}", "use a local disk for --data-dir")
        return
    if mode != "wal":
        mend = "use a local disk for --data-dir"
        yield problem("write", f"{folder} cannot hold a journal: no write-ahead log there", mend)
    else:
        yield ok("write", f"{folder} can hold a journal")


def journal(data_dir: Path) -> Iterator[Finding]:
    """If there is one, it can be read."""
    from orchestrator.journal import JournalReader

    path = data_dir / "journal.db"
    if not path.exists():
        yield ok("journal", f"none at {path} yet")
        return
    try:
        with JournalReader(path) as reader:
            counts = reader.counts_by_state_and_queue()
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            answer = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except (LoraloomError, sqlite3.Error) as error:
        yield problem("journal", str(error), "restore it from a backup, or move it away to begin anew")
        return
    if answer != "ok":
        yield problem("journal", f"{path} is damaged: {answer}", "restore it from a backup")
    else:
        yield ok("journal", f"{path} is whole and has {sum(counts.values()):,} jobs")


def open_files() -> Iterator[Finding]:
    """Ray and open streams need many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _FEW_FILES:
        yield warning("open files", f"at most {soft} for each process", f"ulimit -n {min(hard, 65536)}")
    else:
        yield ok("open files", f"at most {soft:,} for each process")


def clock(data_dir: Path) -> Iterator[Finding]:
    """It shows a time that can be, and the one that the disk has."""
    now = time.time()
    if now < _RELEASED:
        shown = time.strftime("%Y-%m-%d", time.localtime(now))
        yield problem(
            "clock", f"it shows {shown}, which is long past", "set it, and start a time service such as chrony"
        )
        return
    folder = data_dir if data_dir.is_dir() else Path(tempfile.gettempdir())
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".loraloom-doctor-") as file:
            skew = os.fstat(file.fileno()).st_mtime - time.time()
    except OSError:
        skew = 0.0
    if abs(skew) > _MOST_SKEW_SECONDS:
        mend = "start a time service such as chrony on both machines"
        yield warning("clock", f"the disk at {folder} is {skew:+.1f} s from it", mend)
    else:
        yield ok("clock", time.strftime("%Y-%m-%d %H:%M:%S %z"))
