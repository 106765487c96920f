"""The newest checkpoint that is good: what a job goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jobs.checkpoints import CheckpointError, CheckpointIdentity, CheckpointMismatchError
from jobs.errors import StoreError
from jobs.records import CheckpointRecord
from workers.checkpoint import load
from workers.retention import quarantine
from workers.snapshot import JobSnapshot
from workers.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """A checkpoint that turned out bad, for the journal and for the user."""

    record: CheckpointRecord
    error: CheckpointError
    moved_to: Path | str | None
    """Where its files are now, in the store a URI; `None` where there were none, or where they could not be moved."""


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What a job goes on from."""

    record: CheckpointRecord | None
    snapshot: JobSnapshot | None
    """`None` where no checkpoint is good: the job starts over, and its owner must be told."""
    quarantined: tuple[Quarantined, ...]
    """Newer ones that were tried first."""


def load_newest(
    folder: Path, records: Sequence[CheckpointRecord], expected: CheckpointIdentity, storage: Storage | None = None
) -> Restored:
    """Load the newest checkpoint that is good, putting bad ones out of the way.

    Args:
        folder: The job's folder of checkpoints.
        records: Newest first, as the journal has them. Steps do not tell: an attempt that had to go back saves lower
            ones than the attempt before it.
        expected: Of the run that is to go on.
        storage: Where they are kept for all machines; what is in `folder` are copies then. `None`: in `folder` alone.

    Raises:
        CheckpointMismatchError: One is whole but of another spec, base, data or format. The older ones are too, and
            none of them is touched: the mistake may lie elsewhere.
        OSError: The disk cannot be read, which says nothing of the checkpoint.
        StoreError: Nor can the store.
        DiskFullError: No room here for what is in the store.
    """
    quarantined: list[Quarantined] = []
    for record in records:
        try:
            snapshot = _load(folder, record, expected, storage)
        except CheckpointMismatchError:
            raise
        except CheckpointError as error:
            moved_to = None
            # What cannot be moved, perhaps because the disk is full, must not keep the job from the one before.
            with suppress(OSError, StoreError):
                moved_to = quarantine(folder / record.folder) if storage is None else storage.set_aside(record)
            quarantined.append(Quarantined(record=record, error=error, moved_to=moved_to))
            continue
        return Restored(record=record, snapshot=snapshot, quarantined=tuple(quarantined))
    return Restored(record=None, snapshot=None, quarantined=tuple(quarantined))


def _load(folder: Path, record: CheckpointRecord, expected: CheckpointIdentity, storage: Storage | None) -> JobSnapshot:
    if storage is None:
        return load(folder, record, expected)
    # A bad copy may have become so here, or on its way: the store is asked once more before its own is condemned.
    for is_last in (False, True):
        storage.fetch(record, folder)
        try:
            return load(folder, record, expected)
        except CheckpointMismatchError:
            raise
        except CheckpointError as error:
            storage.drop(record, folder)
            if is_last:
                raise CheckpointError(storage.uri_of(record), error.problem, file=error.file) from error
    raise AssertionError("the last try returns or raises")
