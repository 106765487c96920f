"""Folders of files under one root that several machines can reach: uploaded whole, fetched whole, deleted whole.

An object store has no rename. There a folder is uploaded under a name that nobody used before, its manifest last, and
deleted the other way round, its manifest first; so what has no manifest is no folder. A file system can rename, and
gets the form of `workers.publishing`. In both, only a hash in the journal makes anybody believe what is there.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from jobs.artifacts import MANIFEST
from jobs.checkpoints import DiskFullError
from jobs.errors import StoreError, StoreUnavailableError
from workers import publishing
from workers.store_access import check_uri, is_in_process, local_folder, open_file_system
from workers.store_errors import Trouble, persist, told, trouble

MARKER = "loraloom-store.json"
"""Stands in the root from the first start of its owner on. Without it an empty listing says nothing: a share that is
not mounted, or a bucket that is not the right one, looks like a store in which everything is gone."""
MARKED_BAD = "QUARANTINED"
"""An object beside files that turned out bad and could not be moved."""

_FORMAT = 1
_CHUNK_BYTES = 8 * 2**20
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")

Result = TypeVar("Result")


class ObjectStore:
    """One root. Keys are paths below it, such as `checkpoints/job-1/step-000004.00-a1`. Callable from any thread.

    Every call tries again what may pass by itself, some seconds long, and raises

        StoreUnavailableError: It did not pass.
        StoreError: The store refuses, and the message says what has to be mended.
        LoraloomError: The URI cannot be used, or a package is missing; at the first call.
    """

    def __init__(self, uri: str, *, is_claimed: bool = True, sleep: Callable[[float], None] = time.sleep) -> None:
        """Name a root; nothing is asked of it yet.

        Args:
            uri: `file:///folder`, `s3://bucket/folder`, `gs://bucket/folder`; `memory://folder` in one process.
            is_claimed: Whether it has an owner who has marked it; not so a folder of this machine's.
            sleep: Waits between two tries.

        Raises:
            LoraloomError: The URI cannot be used.
        """
        self.uri = check_uri(uri)
        self._is_claimed = is_claimed
        self._sleep = sleep
        self._folder = local_folder(self.uri)
        """Of a file system."""
        self._opened: tuple[Any, str] | None = None
        self._begun: set[str] = set()
        """Keys whose upload has failed here, and may be gone on with."""

    def claim(self, owner: str) -> None:
        """Make the root a store of this owner's, or find that it is: for who starts first, before any worker.

        Args:
            owner: Tells services apart that must not share a root, for their jobs may have equal names.

        Raises:
            StoreError: It is another owner's.
        """
        if (folder := self._folder) is not None:
            self._trying("", lambda: publishing.make_folder(folder))
        try:
            found = json.loads(self._trying("", lambda: self._fs.cat_file(self._path(MARKER))))["owner"]
        except FileNotFoundError:
            marker = json.dumps({"format": _FORMAT, "owner": owner}).encode()
            with self._no_bucket():
                self._trying("", lambda: self._fs.pipe_file(self._path(MARKER), marker))
            return
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(self.uri, f"{MARKER} there cannot be read: {error}; name another root") from error
        if found != owner:
            raise StoreError(
                self.uri, f"is the store of {found}, not of {owner}; name a root of its own, such as a folder below it"
            )

    def require_claimed(self) -> None:
        """Make sure that this is the store and not a place where it would be.

        Raises:
            StoreError: It is not.
        """
        if not self._is_claimed:
            return
        try:
            self._trying("", lambda: self._fs.info(self._path(MARKER)))
        except FileNotFoundError as error:
            what = "is the share mounted here" if self._folder is not None else "are bucket and folder the right ones"
            raise StoreError(self.uri, f"there is no store ({MARKER} is missing); {what}?") from error

    def uri_of(self, key: str) -> str:
        """For people, and for the journal."""
        return f"{self.uri}/{key}" if key else self.uri

    def key_of(self, uri: str) -> str:
        """The key of something in this store.

        Raises:
            ValueError: It is not below the root.
        """
        key = uri.removeprefix(f"{self.uri}/")
        if key == uri:
            raise ValueError(f"{uri} is not below {self.uri}")
        self._path(key)
        return key

    def files(self, key: str) -> dict[str, int]:
        """Names and sizes in bytes of the files of a folder; none if there is no such folder.

        Raises:
            StoreError: Nor is there a store.
        """
        return {name: size for name, size, is_file in self._listed(key) if is_file}

    def folders(self, key: str) -> list[str]:
        """Names of the folders in a folder, sorted; what is being written or deleted is not among them."""
        return sorted(name for name, _, is_file in self._listed(key) if not is_file)

    def upload(self, folder: Path, key: str) -> None:
        """Copy a local folder of files, one of which is its manifest, to a key that nobody has used.

        After an error the key has no manifest, and may be tried again from here.

        Raises:
            DiskFullError: The store has no room.
            StoreError: Also when something is at the key already.
            OSError: The local folder cannot be read.
        """
        sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        if MANIFEST not in sizes:
            raise FileNotFoundError(errno.ENOENT, "has no manifest", str(folder))
        try:
            if self._folder is not None:
                # Else the copy would go under a share that is not mounted.
                self.require_claimed()
                self._trying(key, lambda: self._copy(folder, sizes, key))
            else:
                self._put(folder, sizes, key)
        except FileExistsError as error:
            raise StoreError(
                self.uri_of(key), "is there already, and not from here: do two services share this root?"
            ) from error
        except OSError as error:
            if trouble(error) is not Trouble.NO_ROOM:
                raise
            raise DiskFullError(self.uri_of(key), needed_bytes=sum(sizes.values()), free_bytes=None) from error

    def download(self, key: str, target: Path, *, size_bytes: int) -> None:
        """Copy a folder into a new local one, which appears whole or not at all. Nothing is verified but its size.

        Args:
            key: Of a folder.
            target: Must not exist.
            size_bytes: What its files together must have, so that nothing else is ever copied.

        Raises:
            FileNotFoundError: There is no such folder.
            ValueError: It is torn; the message says how.
            DiskFullError: No room for it here.
        """
        found = self.files(key)
        if not found:
            raise FileNotFoundError(errno.ENOENT, "is missing", self.uri_of(key))
        if MARKED_BAD in found:
            raise ValueError("was found bad before")
        if odd := [name for name in found if not _NAME.fullmatch(name)]:
            raise ValueError(f"holds {odd[0]!r}, which does not belong there")
        if sum(found.values()) != size_bytes:
            raise ValueError(f"has {sum(found.values())} bytes in {len(found)} files, not {size_bytes}")
        with publishing.published(target, needed_bytes=size_bytes) as temporary:
            for name, size in found.items():
                try:
                    self._trying(key, lambda name=name, size=size: self._get(key, name, temporary / name, size))
                except FileNotFoundError as error:
                    raise ValueError(f"{name} has gone") from error

    def delete(self, key: str) -> bool:
        """Delete a folder of files, so that at no moment half of it looks whole.

        Returns:
            Whether there was one.
        """
        if self._folder is not None:
            return self._trying(key, lambda: publishing.discard(self._local(key)))
        names = sorted(self.files(key), key=lambda name: (name != MANIFEST, name))
        for name in names:
            with suppress(FileNotFoundError):
                self._trying(key, lambda name=name: self._fs.rm_file(f"{self._path(key)}/{name}"))
        if is_in_process(self.uri):
            # Memory alone remembers folders in which there is nothing.
            with suppress(OSError):
                self._fs.rmdir(self._path(key))
        return bool(names)

    def delete_tree(self, key: str) -> None:
        """Delete a folder with the folders in it, such as those of bad checkpoints."""
        if self._folder is None:
            for name in self.folders(key):
                self.delete_tree(f"{key}/{name}")
        self.delete(key)

    def set_aside(self, key: str, into: str) -> str | None:
        """Move a folder, whatever it is, into a folder of that name beside it; where the store refuses, mark it.

        Returns:
            URI of where it is now; `None` where there was nothing, or where it stands marked.
        """
        if self._folder is not None:
            moved = self._trying(key, lambda: publishing.move_aside(self._local(key), into))
            return self.uri_of(str(moved.relative_to(self._folder))) if moved is not None else None
        names = list(self.files(key))
        if not names:
            return None
        parent, _, name = key.rpartition("/")
        aside, number = f"{parent}/{into}/{name}", 0
        while self.files(f"{aside}.{number}" if number else aside):
            number += 1
        aside = f"{aside}.{number}" if number else aside
        try:
            source, target = self._path(key), self._path(aside)
            for one in names:
                self._trying(key, lambda one=one: self._fs.cp_file(f"{source}/{one}", f"{target}/{one}"))
            self.delete(key)
        except (OSError, StoreError):
            self._trying(key, lambda: self._fs.pipe_file(self._path(key, MARKED_BAD), b""))
            return None
        return self.uri_of(aside)

    def sweep(self, key: str, *, known: Collection[str] | None = None, prefix: str = "") -> list[str]:
        """Delete what writers that died have left below a key. Only for a time at which nobody writes there.

        Args:
            key: Where folders are uploaded; need not exist.
            known: Names of folders that somebody knows of. What else is there under `prefix` goes. `None`: only what
                is half written, where that can be told.
            prefix: What names of uploaded folders begin with.

        Returns:
            Names of what was deleted.
        """
        if self._folder is not None:
            return self._trying(key, lambda: publishing.sweep(self._local(key), known=known, prefix=prefix))
        swept = []
        for name in self.folders(key):
            if not name.startswith(prefix):
                continue
            if name not in known if known is not None else MANIFEST not in self.files(f"{key}/{name}"):
                self.delete(f"{key}/{name}")
                swept.append(name)
        return swept

    def sha256(self, key: str, name: str) -> str:
        """Hex sha256 of a file as it is in the store now.

        Raises:
            FileNotFoundError: There is no such file.
        """

        def hashed() -> str:
            digest = hashlib.sha256()
            with self._open(key, name) as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    digest.update(chunk)
            return digest.hexdigest()

        return self._trying(key, hashed)

    def read(self, key: str, name: str, *, most_bytes: int) -> bytes:
        """A small file, whole.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is larger than `most_bytes`.
        """

        def read() -> bytes:
            with self._open(key, name) as stream:
                return stream.read(most_bytes + 1)

        content = self._trying(key, read)
        if len(content) > most_bytes:
            raise ValueError(f"{self.uri_of(key)}/{name} has more than {most_bytes} bytes")
        return content

    def open(self, key: str, name: str) -> BinaryIO:
        """A file to be read from its beginning; the caller closes it.

        Raises:
            FileNotFoundError: There is no such file.
        """
        return self._trying(key, lambda: self._open(key, name))

    @property
    def _fs(self) -> Any:
        if self._opened is None:
            self._opened = open_file_system(self.uri)
        return self._opened[0]

    def _path(self, *parts: str) -> str:
        """In the file system of fsspec. Parts are names of ours or of jobs: none leads out of the root."""
        for part in "/".join(parts).split("/"):
            if not _NAME.fullmatch(part):
                raise ValueError(f"{part!r} is not a name in a store")
        assert self._fs is not None
        assert self._opened is not None
        return "/".join([self._opened[1], *parts])

    def _local(self, key: str) -> Path:
        return Path(self._path(key))

    def _listed(self, key: str) -> Iterator[tuple[str, int, bool]]:
        """Name, size in bytes, and whether it is a file."""
        try:
            entries = self._trying(key, lambda: self._fs.ls(self._path(key), detail=True))
        except FileNotFoundError:
            entries = []
        if not entries:
            self.require_claimed()
        for entry in entries:
            name = str(entry["name"]).rstrip("/").rpartition("/")[2]
            is_folder = entry["type"] == "directory"
            # Stores keep an empty object for some folders; file systems have folders half written or half deleted.
            is_itself = str(entry["name"]).strip("/") == self._path(key).strip("/")
            if is_itself or (is_folder and name.startswith(".")):
                continue
            if is_folder or entry["type"] == "file":
                yield name, int(entry["size"] or 0), not is_folder

    def _copy(self, folder: Path, sizes: dict[str, int], key: str) -> None:
        """To a file system."""
        with publishing.published(self._local(key), needed_bytes=sum(sizes.values())) as temporary:
            for name in sizes:
                with (folder / name).open("rb") as stream:
                    publishing.write_file(temporary / name, iter(lambda s=stream: s.read(_CHUNK_BYTES), b""))

    def _put(self, folder: Path, sizes: dict[str, int], key: str) -> None:
        """To an object store."""
        if key in self._begun:
            self.delete(key)
        elif self.files(key):
            raise FileExistsError(errno.EEXIST, "is there already", key)
        self._begun.add(key)
        try:
            with self._no_bucket():
                for name in sizes:
                    if name != MANIFEST:
                        self._put_file(folder / name, key, name)
                # What was acknowledged is asked for once more before anything vouches for it.
                found = self.files(key)
                if lacking := [name for name, size in sizes.items() if name != MANIFEST and found.get(name) != size]:
                    raise StoreUnavailableError(self.uri_of(key), f"{lacking[0]} was uploaded and is not there whole")
                self._put_file(folder / MANIFEST, key, MANIFEST)
        except BaseException:
            # Else the next try does it. One request each: who is not there now will not be for being asked again.
            with suppress(Exception):
                for name in (MANIFEST, *sizes):
                    with suppress(FileNotFoundError):
                        self._fs.rm_file(self._path(key, name))
            raise
        self._begun.discard(key)

    def _put_file(self, source: Path, key: str, name: str) -> None:
        self._trying(key, lambda: self._fs.put_file(str(source), self._path(key, name)))

    def _get(self, key: str, name: str, target: Path, size: int) -> None:
        self._fs.get_file(self._path(key, name), str(target))
        if target.stat().st_size != size:
            raise TimeoutError(f"{name} came with {target.stat().st_size} bytes of {size}")
        descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _open(self, key: str, name: str) -> Any:
        return self._fs.open(self._path(key, name), "rb", block_size=_CHUNK_BYTES)

    @contextmanager
    def _no_bucket(self) -> Iterator[None]:
        """What is written needs nothing but its bucket to be there."""
        try:
            yield
        except FileNotFoundError as error:
            raise StoreError(self.uri, f"there is no such bucket ({told(error)}); make it, or name another") from error

    def _trying(self, key: str, action: Callable[[], Result]) -> Result:
        return persist(action, self.uri_of(key), root=self.uri, sleep=self._sleep)
