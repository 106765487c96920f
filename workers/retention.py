"""Which of a job's checkpoints to keep, and where bad ones go. Nothing here looks into one, so nothing loads torch."""

from __future__ import annotations

from collections.abc import Sequence
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


def superseded(records: Sequence[CheckpointRecord], keep: int) -> tuple[CheckpointRecord, ...]:
    """Checkpoints beyond the newest `keep`. The newest one is never among them, whatever `keep` is.

    Args:
        records: All journaled ones of a job, newest first.
        keep: `training.save_total_limit`.
    """
    return tuple(records[max(keep, 1) :])
