"""What jobs leave behind, checkpoints and published adapters, for whoever owns the jobs: the one way to all of it.

In a folder of this machine, where publishing is a rename:

    artifacts/<name>/  checkpoints/<job>/<step>/

or in a store that all machines reach, laid out as `workers.storage` says, where an adapter is published by nothing but
the journal: its URI holds the sha256 of its manifest, and with that vouches for every byte.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from jobs import artifacts
from jobs.artifacts import MANIFEST, verify_files
from jobs.errors import StoreError
from jobs.records import CheckpointRecord, Job
from orchestrator.artifact_files import ArtifactFiles
from orchestrator.published_folders import Owner, publish_folder
from workers.object_store import ObjectStore
from workers.publishing import discard
from workers.retention import PUBLISHED, QUARANTINE
from workers.storage import artifacts_key, checkpoints_key, parse_artifact_name

_LARGEST_MANIFEST_BYTES = 2**24
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


class JobFiles:
    """Checkpoints and adapters of one owner's jobs. Callable from any thread.

    With a store, every call but `prune` may take the seconds that a network takes, and raises StoreError where it
    cannot be reached (StoreUnavailableError: worth a try later) or refuses.
    """

    def __init__(
        self,
        root: Path,
        storage_uri: str | None = None,
        *,
        name_of: Callable[[Job], str] = lambda job: job.spec.name,
    ) -> None:
        """Keep everything below `root` on this machine, or in the store where there is one.

        Args:
            root: Of the owner.
            storage_uri: Of the store.
            name_of: What a job's adapter is called below `root`: unique among all jobs whose adapters stay there.

        Raises:
            LoraloomError: The URI of the store cannot be used.
        """
        self.root = root.resolve()
        self._name_of = name_of
        self.storage_uri = storage_uri
        local = storage_uri is None
        self._store = (
            ObjectStore(self.root.as_uri(), is_claimed=False, sleep=lambda _: None)
            if storage_uri is None
            else ObjectStore(storage_uri)
        )
        self._deleting = None if local else ThreadPoolExecutor(1, "deleting")

    def claim(self, owner: str) -> None:
        """Mark the store as this owner's, before any worker starts. Without effect on a folder of this machine.

        Args:
            owner: Of the service, for as long as its journal lives: two services must not share a root.

        Raises:
            StoreError: It is another's, or cannot be written.
        """
        if self.storage_uri is not None:
            self._store.claim(owner)

    def publish(self, job: Job, staged: str, *, note: Callable[[str], None] = lambda _: None) -> str:
        """Verify what a worker has made, by reading all of it, and bring it to its place.

        The journal has to say so too: until then it is nobody's artifact, and publishing it again finds it there.

        Args:
            job: Whose attempt is the one that is believed.
            staged: Folder or URI, as its worker reported it.
            note: Takes what the job's owner should know.

        Returns:
            Folder or URI of the adapter.

        Raises:
            ValueError: It is not whole, or not of this job and attempt.
            OSError: The disk refuses.
            StoreError: So does the store.
        """
        if self.storage_uri is None:
            target = self.root / "artifacts" / self._name_of(job)
            owner = Owner(job_id=job.id, spec_sha256={job.spec.spec_sha256()})
            publish_folder(Path(staged), target, owner, note=note)
            return str(target)
        key = self._store.key_of(staged)
        parent, _, name = key.rpartition("/")
        found = parse_artifact_name(name)
        if parent != artifacts_key(job.id) or found is None or found[0] != job.attempt:
            raise ValueError(f"{staged} is not of attempt {job.attempt} of {job.id}")
        self.verify(staged)
        return staged

    def uploaded(self, job_id: str, attempt: int) -> list[str]:
        """URIs of the adapters that an attempt has in the store, half-written ones left out; confirmed by nobody."""
        parent = artifacts_key(job_id)
        keys = [f"{parent}/{name}" for name in self._store.folders(parent) if name.startswith(f"a{attempt}-")]
        return [self._store.uri_of(key) for key in keys if MANIFEST in self._store.files(key)]

    def set_aside(self, artifact: str) -> str | None:
        """Move an adapter out of the way in the store, or mark it; the URI where it is now, if it could be moved."""
        return self._store.set_aside(self._store.key_of(artifact), QUARANTINE)

    def verify(self, artifact: str) -> dict[str, Any]:
        """Re-hash every file of an adapter and return its manifest.

        Args:
            artifact: Folder or URI.

        Raises:
            ValueError: It is not what was written; the message names the file.
        """
        if "://" not in artifact:
            return artifacts.verify(Path(artifact))
        key, manifest = self._manifest(artifact)
        return verify_files(artifact, manifest, lambda name: self._store.sha256(key, name))

    def describe(self, artifact: str) -> ArtifactFiles:
        """Names and sizes of an adapter's files, without reading more than the manifest.

        Raises:
            ValueError: The manifest is missing, or not the one that the URI names.
        """
        if "://" in artifact:
            key, manifest = self._manifest(artifact)
            sizes = self._store.files(key)
        else:
            try:
                manifest = (Path(artifact) / MANIFEST).read_bytes()
            except OSError as error:
                raise ValueError(f"{artifact}/{MANIFEST} cannot be read: {error}") from error
            sizes = {path.name: path.stat().st_size for path in Path(artifact).iterdir() if path.is_file()}
        return ArtifactFiles.of(artifact, manifest, sizes)

    def open(self, artifact: str, name: str) -> BinaryIO:
        """A file of an adapter, to be read from its beginning and closed by the caller.

        Args:
            artifact: Folder or URI, from the journal.
            name: From anybody: one that is not the plain name of a file there is refused.

        Raises:
            FileNotFoundError: There is no such file, or it leads elsewhere.
        """
        if not _FILE_NAME.fullmatch(name):
            raise FileNotFoundError(errno.ENOENT, f"{name!r} is no name of a file", artifact)
        if "://" in artifact:
            return self._store.open(self._store.key_of(artifact), name)
        folder = self._published_folder(artifact)
        path = Path(os.path.realpath(folder / name)) if folder is not None else None
        if path is None or path.parent != folder:
            raise FileNotFoundError(errno.ENOENT, "leads out of the folder of artifacts", artifact)
        return path.open("rb")

    def prune(self, job_id: str, records: Collection[CheckpointRecord]) -> Future[None] | None:
        """Delete checkpoints that the journal has forgotten. What cannot be deleted stays for the next `sweep`.

        Returns:
            With a store, what is under way on a thread beside; the caller need not look at it.
        """
        if self._deleting is not None:
            return self._deleting.submit(self._delete, job_id, tuple(records))
        self._delete(job_id, records)
        return None

    def sweep(self, job_id: str, records: Collection[CheckpointRecord], artifact: str | None = None) -> list[str]:
        """Delete what was left half written, or finished without reaching the journal.

        For a time only when no attempt of the job is alive.

        Args:
            job_id: Whose.
            records: All of its checkpoints that the journal knows.
            artifact: The one that the journal knows; other attempts' go, in a store. On this machine they are swept
                with the folder that they are staged in.

        Returns:
            Names of what was deleted.
        """
        known = {record.folder for record in records}
        swept = self._store.sweep(checkpoints_key(job_id), known=known, prefix=PUBLISHED)
        if self.storage_uri is not None:
            name = artifact.rpartition("/")[2] if artifact is not None else ""
            swept += self._store.sweep(artifacts_key(job_id), known={name}, prefix="a")
        return swept

    def delete(self, job_id: str, *, folders: Collection[str] | None = None, artifact: str | None = None) -> None:
        """Delete what a job that has ended has left, here and in the store.

        Args:
            job_id: Whose.
            folders: Names of checkpoints; `None` for all that there is of it.
            artifact: Folder or URI of its adapter, where that is to go too.

        Raises:
            OSError: The disk refuses.
            StoreError: So does the store, or the adapter lies in another one.
        """
        key = checkpoints_key(job_id)
        for one in [key] if folders is None else [f"{key}/{name}" for name in folders]:
            discard(self.root / one)
            if self.storage_uri is not None:
                # What was here were the copies of a worker of this machine.
                self._store.delete_tree(one)
        if artifact is None:
            return
        if "://" in artifact:
            try:
                self._store.delete(self._store.key_of(artifact))
            except ValueError as error:
                raise StoreError(artifact, f"is not in {self._store.uri}: delete it there yourself") from error
        elif (folder := self._published_folder(artifact)) is not None:
            discard(folder)

    def close(self) -> None:
        """Break off what is being deleted; `sweep` finds the rest."""
        if self._deleting is not None:
            self._deleting.shutdown(wait=True, cancel_futures=True)

    def _published_folder(self, artifact: str) -> Path | None:
        """Folder of an adapter on this machine, if it is one below the folder where they are published.

        The journal is ours, but a folder can be replaced by a link after it was published: links are followed first.
        """
        root, folder = (Path(os.path.realpath(path)) for path in (self.root / "artifacts", artifact))
        return folder if root in folder.parents else None

    def _delete(self, job_id: str, records: Collection[CheckpointRecord]) -> None:
        for record in records:
            with suppress(OSError, StoreError):
                self._store.delete(f"{checkpoints_key(job_id)}/{record.folder}")

    def _manifest(self, artifact: str) -> tuple[str, bytes]:
        """The key of an adapter in the store, and its manifest, which is the one that the URI names."""
        key = self._store.key_of(artifact)
        found = parse_artifact_name(key.rpartition("/")[2])
        if found is None:
            raise ValueError(f"{artifact} is not the URI of an artifact")
        try:
            manifest = self._store.read(key, MANIFEST, most_bytes=_LARGEST_MANIFEST_BYTES)
        except FileNotFoundError as error:
            self._store.require_claimed()
            raise ValueError(f"{artifact}/{MANIFEST} is missing") from error
        if hashlib.sha256(manifest).hexdigest() != found[1]:
            raise ValueError(f"{artifact}/{MANIFEST} is not what was written: its sha256 is not the one in the URI")
        return key, manifest
