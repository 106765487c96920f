"""Which of a job's checkpoints to go on from, which to keep, and where bad ones go."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jobs.checkpoints import CheckpointError, CheckpointIdentity, CheckpointMismatchError
from jobs.records import CheckpointRecord
from workers import publishing
from workers.checkpoint import load
from workers.snapshot import JobSnapshot

QUARANTINE = "quarantine"
_PUBLISHED = "step-"


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


def quarantine(checkpoint: Path) -> Path | None:
    """Move a bad checkpoint into `quarantine/` beside it, for a person to look at.

    Returns:
        Where it is now; `None` if there was nothing.
    """
    return publishing.move_aside(checkpoint, QUARANTINE)


def superseded(
    records: Sequence[CheckpointRecord], keep: int, *, spared: Collection[str] = ()
) -> tuple[CheckpointRecord, ...]:
    """Checkpoints beyond the newest `keep`. The newest one is never among them, whatever `keep` is.

    Args:
        records: All journaled ones of a job, newest first.
        keep: `training.save_total_limit`.
        spared: Folder names to keep beside, such as that of the best metric.
    """
    return tuple(record for record in records[max(keep, 1) :] if record.folder not in spared)


def prune(
    records: Sequence[CheckpointRecord], keep: int, folder: Path, *, spared: Collection[str] = ()
) -> tuple[CheckpointRecord, ...]:
    """Delete the files of superseded checkpoints, after the journal has forgotten them.

    What the disk refuses to delete stays for the next `sweep`: that must not stop a job.

    Returns:
        The superseded ones.
    """
    old = superseded(records, keep, spared=spared)
    for record in old:
        with suppress(OSError):
            publishing.discard(folder / record.folder)
    return old


def sweep(folder: Path, records: Collection[CheckpointRecord] | None = None) -> list[str]:
    """Delete what was left half written, half deleted, or published without reaching the journal.

    For the start of a run only, when no attempt of the job is alive.

    Args:
        folder: The job's folder of checkpoints.
        records: All that the journal knows; `None` leaves published ones alone.

    Returns:
        Names of what was deleted.
    """
    known = None if records is None else {record.folder for record in records}
    return publishing.sweep(folder, known=known, prefix=_PUBLISHED)
