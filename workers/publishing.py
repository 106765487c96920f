"""Folders that appear whole and durable, or not at all, whatever moment the power fails at.

A folder is written under a temporary name in the same parent, flushed, and renamed. It is deleted the other way round:
renamed to a trash name first, so that half a folder never stands under a name that somebody might believe.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from jobs.checkpoints import DiskFullError

_TEMPORARY = ".tmp-"
_TRASH = ".trash-"
_CHUNK_BYTES = 8 * 2**20
"""Written and hashed at once: large enough to cost no time, small enough to let other threads run between two."""

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """What a file must be, as a manifest states it."""

    sha256: str
    size_bytes: int


@contextmanager
def published(target: Path, *, needed_bytes: int) -> Iterator[Path]:
    """A folder to write into, which stands at `target` once the block has ended without an error.

    Files in it must be flushed by whoever writes them, as `write_file` does. After an error nothing is left, neither
    at `target` nor beside it, unless the process itself dies: then `sweep` finds the rest.

    Args:
        target: Must not exist.
        needed_bytes: What the block is going to write, for the message when there is no room.

    Raises:
        DiskFullError: No room, at whatever step.
        FileExistsError: There is something at `target`.
    """
    try:
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "is published already", str(target))
        make_folder(target.parent)
        temporary = _beside(target, _TEMPORARY)
        os.mkdir(temporary)
        try:
            yield temporary
            fsync(temporary)
            os.rename(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        try:
            fsync(target.parent)
        except BaseException:
            # The caller is told that it failed, so it must not be there.
            with suppress(OSError):
                discard(target)
            raise
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        raise DiskFullError(target, needed_bytes=needed_bytes, free_bytes=free_bytes(target)) from error


def write_file(path: Path, chunks: Iterable[bytes | memoryview]) -> FileEntry:
    """Write a new file and flush it to disk; the hash is of what was meant, not of what can be read back."""
    digest = hashlib.sha256()
    size = 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for chunk in chunks:
            rest = memoryview(chunk).cast("B")
            while rest:
                written = os.write(descriptor, rest[:_CHUNK_BYTES])
                digest.update(rest[:written])
                size += written
                rest = rest[written:]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return FileEntry(sha256=digest.hexdigest(), size_bytes=size)


def make_folder(folder: Path) -> None:
    """Make a folder and the ones above it, each durable."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with suppress(FileExistsError):
        os.mkdir(folder)
    fsync(folder.parent)


def discard(target: Path) -> bool:
    """Take a folder away in one instant, then delete what was in it, which takes longer.

    Returns:
        Whether there was one. What cannot be deleted, `sweep` tries again.
    """
    trash = _beside(target, _TRASH)
    try:
        os.rename(target, trash)
    except FileNotFoundError:
        return False
    # Else a power cut could undo the rename and keep the deletions.
    fsync(target.parent)
    _delete(trash)
    return True


def sweep(parent: Path, *, known: Collection[str] | None = None, prefix: str = "") -> list[str]:
    """Delete what processes that died have left. Only for a time at which nobody writes here.

    Args:
        parent: Where folders are published; need not exist.
        known: Names of published folders that somebody knows of. What else stands here under `prefix` was published
            and then lost by its publisher, and goes too. `None`: published folders are left alone.
        prefix: What names of published folders begin with.

    Returns:
        Names of what was deleted.
    """
    if not parent.is_dir():
        return []
    swept = []
    for name in sorted(os.listdir(parent)):
        if name.startswith((_TEMPORARY, _TRASH)):
            _delete(parent / name)
        elif known is not None and name.startswith(prefix) and name not in known:
            discard(parent / name)
        else:
            continue
        swept.append(name)
    return swept


def move_aside(target: Path, into: str) -> Path | None:
    """Move a folder, whatever it is, into a folder of that name beside it, under a name that is free there.

    Returns:
        Where it is now, or `None` if there was nothing to move.
    """
    if not os.path.lexists(target):
        return None
    aside = target.parent / into
    make_folder(aside)
    moved, number = aside / target.name, 1
    while os.path.lexists(moved):
        moved, number = aside / f"{target.name}.{number}", number + 1
    os.rename(target, moved)
    fsync(aside)
    fsync(target.parent)
    return moved


def fsync(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_bytes(path: Path) -> int | None:
    """Bytes that this user may still write where `path` is or is to be; `None` where that cannot be found out."""
    for folder in (path, *path.parents):
        with suppress(OSError):
            return shutil.disk_usage(folder).free
    return None


def _beside(target: Path, prefix: str) -> Path:
    return target.parent / f"{prefix}{target.name}-{os.getpid()}-{secrets.token_hex(4)}"


def _delete(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)
