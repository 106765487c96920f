"""What a worker keeps where other machines reach it: the store's copies of checkpoints, and finished adapters.

checkpoints/<job>/<step>/                 as on the local disk; quarantine/ beside them for what turned out bad
artifacts/<job>/a<attempt>-<sha256>/      the sha256 is the manifest's: who has the URI can check every byte

Names hold the attempt, so that one which comes back from the dead writes over nobody. The local disk is scratch.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from jobs.artifacts import MANIFEST, file_sha256
from jobs.checkpoints import CheckpointError
from jobs.errors import StoreUnavailableError
from jobs.records import CheckpointRecord
from workers import publishing
from workers.object_store import ObjectStore
from workers.retention import PUBLISHED, QUARANTINE


def checkpoints_key(job_id: str) -> str:
    """Where a job's checkpoints are."""
    return f"checkpoints/{job_id}"


def artifacts_key(job_id: str) -> str:
    """Where a job's adapters are: one, or more if an attempt was lost after it had finished."""
    return f"artifacts/{job_id}"


def artifact_name(attempt: int, manifest_sha256: str) -> str:
    """Of an adapter, below its job."""
    return f"a{attempt}-{manifest_sha256}"


def parse_artifact_name(name: str) -> tuple[int, str] | None:
    """The attempt and the sha256 of the manifest; `None` where it is no such name."""
    found = re.fullmatch(r"a([0-9]+)-([0-9a-f]{64})", name)
    return (int(found[1]), found[2]) if found is not None else None


class Storage:
    """One worker's use of the store. Callable from any thread; what it raises is said in `ObjectStore`."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def require(self) -> None:
        """Find out early what nobody but a person can mend. A store that cannot be reached now may be back in time.

        Raises:
            StoreError: It is not there, or refuses.
        """
        with suppress(StoreUnavailableError):
            self._store.require_claimed()

    def uri_of(self, record: CheckpointRecord) -> str:
        """Of the store's copy."""
        return self._store.uri_of(_key(record))

    def keep(self, record: CheckpointRecord, folder: Path) -> None:
        """Upload a checkpoint that was saved locally. Once it is in the store, it is the only one kept here.

        After an error it is not kept here either, so that the job can be saved again.

        Args:
            record: What was saved.
            folder: The job's local folder of checkpoints.
        """
        try:
            self._store.upload(folder / record.folder, _key(record))
        except BaseException:
            _discard(folder / record.folder)
            raise
        self.clear(folder, spared=record.folder)

    def fetch(self, record: CheckpointRecord, folder: Path) -> bool:
        """Bring a checkpoint to the local disk if it is not there. It is not verified yet.

        Returns:
            Whether it was not there.

        Raises:
            CheckpointError: The store's copy is missing or torn.
        """
        target = folder / record.folder
        if os.path.lexists(target):
            return False
        try:
            self._store.download(_key(record), target, size_bytes=record.size_bytes)
        except FileNotFoundError as error:
            raise CheckpointError(self.uri_of(record), "is missing") from error
        except FileExistsError:
            return False
        except ValueError as error:
            raise CheckpointError(self.uri_of(record), str(error)) from error
        return True

    def drop(self, record: CheckpointRecord, folder: Path) -> None:
        """Delete the local copy."""
        _discard(folder / record.folder)

    def set_aside(self, record: CheckpointRecord) -> str | None:
        """Move the store's copy out of the way, for a person to look at; where it cannot be moved, mark it.

        Returns:
            URI of where it is now; `None` if there was nothing or it could not be moved.
        """
        return self._store.set_aside(_key(record), QUARANTINE)

    def clear(self, folder: Path, *, spared: str | None = None) -> None:
        """Delete local copies, which the store has too: of a job that leaves, or all but one."""
        names = os.listdir(folder) if folder.is_dir() else []
        for name in names:
            if name.startswith(PUBLISHED) and name != spared:
                _discard(folder / name)

    def keep_artifact(self, folder: Path, job_id: str, attempt: int) -> str:
        """Upload a finished adapter, whose local folder goes, whatever comes of it.

        Returns:
            URI. Nobody knows of it until the scheduler has verified it and entered it into the journal.
        """
        try:
            name = artifact_name(attempt, file_sha256(folder / MANIFEST))
            key = f"{artifacts_key(job_id)}/{name}"
            self._store.upload(folder, key)
        finally:
            _discard(folder)
        return self._store.uri_of(key)


def _key(record: CheckpointRecord) -> str:
    return f"{checkpoints_key(record.job_id)}/{record.folder}"


def _discard(folder: Path) -> None:
    """What the disk refuses to delete must not stop a job."""
    with suppress(OSError):
        publishing.discard(folder)
