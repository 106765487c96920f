"""The newest checkpoint that is good: what a job goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jobs.checkpoints import CheckpointError, CheckpointIdentity, CheckpointMismatchError
from jobs.records import CheckpointRecord
from workers.checkpoint import load
from workers.retention import quarantine
from workers.snapshot import JobSnapshot


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """A checkpoint that turned out bad, for the journal and for the user."""

    record: CheckpointRecord
    error: CheckpointError
    moved_to: Path | None
    """Where its files are now; `None` where there were none, or where they could not be moved."""


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What a job goes on from."""

    record: CheckpointRecord | None
    snapshot: JobSnapshot | None
    """`None` where no checkpoint is good: the job starts over, and its owner must be told."""
    quarantined: tuple[Quarantined, ...]
    """Newer ones that were tried first."""


def load_newest(folder: Path, records: Sequence[CheckpointRecord], expected: CheckpointIdentity) -> Restored:
    """Load the newest checkpoint that is good, putting bad ones out of the way.

    Args:
        folder: The job's folder of checkpoints.
        records: Newest first, as the journal has them. Steps do not tell: an attempt that had to go back saves lower
            ones than the attempt before it.
        expected: Of the run that is to go on.

    Raises:
        CheckpointMismatchError: One is whole but of another spec, base, data or format. The older ones are too, and
            none of them is touched: the mistake may lie elsewhere.
        OSError: The disk cannot be read, which says nothing of the checkpoint.
    """
    quarantined: list[Quarantined] = []
    for record in records:
        try:
            snapshot = load(folder, record, expected)
        except CheckpointMismatchError:
            raise
        except CheckpointError as error:
            moved_to = None
            # What cannot be moved, perhaps because the disk is full, must not keep the job from the one before.
            with suppress(OSError):
                moved_to = quarantine(folder / record.folder)
            quarantined.append(Quarantined(record=record, error=error, moved_to=moved_to))
            continue
        return Restored(record=record, snapshot=snapshot, quarantined=tuple(quarantined))
    return Restored(record=None, snapshot=None, quarantined=tuple(quarantined))
