"""What is read from the journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jobs.records import CheckpointRecord, JobProgress, JobState


@dataclass(frozen=True, kw_only=True)
class JournaledJob:
    """A job as the journal has it: what a restart begins from."""

    id: str
    name: str
    spec: Mapping[str, Any]
    """As it was submitted, not parsed: also one that this version would refuse can be listed."""
    spec_sha256: str
    submitted: int
    """Position in the order of submission, from 1."""
    state: JobState
    reason: str
    message: str
    attempt: int
    """Number of the latest attempt; 0 before the first."""
    attempt_is_open: bool
    """Whether that attempt may still commit. True after a crash: whoever restarts ends it."""
    worker_id: str | None
    """Of the latest attempt."""
    progress: JobProgress
    artifact: str | None
    num_charged: int
    """Attempts that ended by an error of the job's own."""
    checkpoints: tuple[CheckpointRecord, ...]
    """Those to go on from, newest first."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try at a job, from placement to whatever ended it."""

    job_id: str
    number: int
    worker_id: str | None
    started_unix_seconds: float
    ended_unix_seconds: float | None
    is_open: bool
    why: str | None
    """Reason code of its end."""
    charged: bool
    """Whether it counts against `job_recovery.max_restarts_on_errors`."""


@dataclass(frozen=True, kw_only=True)
class QuarantinedCheckpoint:
    """A checkpoint that was found bad."""

    record: CheckpointRecord
    problem: str
