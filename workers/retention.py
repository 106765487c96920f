"""Which of a job's checkpoints to keep, and where bad ones go. Nothing here looks into one, so nothing loads torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from jobs.records import CheckpointRecord
from workers import publishing

QUARANTINE = "quarantine"
PUBLISHED = "step-"
"""What names of checkpoints begin with."""


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
    return publishing.sweep(folder, known=known, prefix=PUBLISHED)
