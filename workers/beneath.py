"""Opening a file below a folder without following a link, so that nobody can put one there between look and open."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from functools import cache

_OPENAT2 = 437
"""On every architecture that Linux has; since 5.6."""
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x02, 0x04, 0x08
# A pipe without a writer would be waited for.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class _OpenHow(ctypes.Structure):
    """`struct open_how` of linux/openat2.h."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_beneath(folder: str, path: str) -> int:
    """A descriptor of a regular file, open for reading.

    Args:
        folder: Absolute, its links followed already.
        path: Relative to it, likewise. Where a part of it is a link now, the file is not opened.

    Raises:
        OSError: There is no such file; ELOOP or EXDEV where a link stands in the way; EINVAL for what is no file.
    """
    parent = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = _openat2(parent, path) if _has_openat2() else walk_beneath(parent, path)
    finally:
        os.close(parent)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a file")
    return descriptor


def walk_beneath(parent: int, path: str) -> int:
    """The same part by part, for kernels without `openat2`.

    Args:
        parent: Descriptor of the folder.
        path: Relative to it.
    """
    *folders, name = path.split("/")
    if any(part in ("", ".", "..") for part in (*folders, name)):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    opened: list[int] = []
    try:
        for folder in folders:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            parent = os.open(folder, flags, dir_fd=parent)
            opened.append(parent)
        return os.open(name, _FLAGS | os.O_NOFOLLOW, dir_fd=parent)
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _openat2(parent: int, path: str) -> int:
    how = _OpenHow(
        flags=_FLAGS, mode=0, resolve=_RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS
    )  # fmt: skip
    return _syscall(parent, os.fsencode(path), how)


def _syscall(parent: int, path: bytes, how: _OpenHow) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    while True:
        found = libc.syscall(
            ctypes.c_long(_OPENAT2),
            ctypes.c_int(parent),
            ctypes.c_char_p(path),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if found >= 0:
            return found
        number = ctypes.get_errno()
        # EAGAIN: something was renamed meanwhile, and the kernel could not tell whether it led out.
        if number not in (errno.EINTR, errno.EAGAIN):
            raise OSError(number, os.strerror(number))


@cache
def _has_openat2() -> bool:
    """Whether the kernel has it and lets us call it: older ones do not, and filters of containers hide it."""
    parent = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    how = _OpenHow(flags=os.O_PATH | os.O_CLOEXEC, mode=0, resolve=_RESOLVE_BENEATH)
    try:
        os.close(_syscall(parent, b".", how))
    except OSError:
        return False
    finally:
        os.close(parent)
    return True
