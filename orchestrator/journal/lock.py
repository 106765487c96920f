"""One process at a time, and the next one as soon as that one is dead, however it died."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import weakref
from contextlib import suppress
from functools import partial
from pathlib import Path

from jobs.errors import LoraloomError


class JournalLocked(LoraloomError):
    """Another process is writing the journal."""


class ProcessLock:
    """A lock on a file, held from construction until `release` or the end of the process.

    The file stays, since deleting it would let a third process lock a new file of that name beside a second one that
    waits on the old. What it says serves only the message to whoever comes second: the kernel holds the lock.
    """

    def __init__(self, path: Path) -> None:
        """Take the lock at once or not at all.

        Raises:
            JournalLocked: Somebody has it; says who.
            OSError: The file cannot be opened.
        """
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read(self._descriptor)
            os.close(self._descriptor)
            raise JournalLocked(
                f"{path.parent} is being written by {holder}; wait for it, stop it, or name another folder"
            ) from None
        # A full disk must not keep anybody from a lock that they have.
        with suppress(OSError):
            _write(self._descriptor)
        # A forked child has the lock as well, and would keep it after this process is dead.
        os.register_at_fork(after_in_child=partial(_close, weakref.ref(self)))

    def release(self) -> None:
        """Let go; twice is fine."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _close(reference: weakref.ref[ProcessLock]) -> None:
    lock = reference()
    if lock is not None:
        lock.release()


def _write(descriptor: int) -> None:
    holder = json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, holder, 0)


def _read(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {int(holder['pid'])} on {holder['host']!s}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
