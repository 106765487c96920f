"""The journal of an output directory: what is in it is true, whatever else has died."""

from orchestrator.journal.errors import (
    AmbiguousName,
    BadCursor,
    JournalError,
    KeyConflict,
    NoSuchJob,
    StaleAttempt,
    Unfit,
)
from orchestrator.journal.lock import JournalLocked
from orchestrator.journal.reading import JournalReader
from orchestrator.journal.records import (
    ArtifactRecord,
    Attempt,
    EndedJob,
    JobFilter,
    JobSummary,
    JournaledJob,
    MetricKind,
    MetricPoint,
    Page,
    QuarantinedCheckpoint,
    Snapshot,
    Sort,
    Submission,
    SubmissionKey,
)
from orchestrator.journal.writing import Journal

__all__ = [
    "AmbiguousName",
    "ArtifactRecord",
    "Attempt",
    "BadCursor",
    "EndedJob",
    "JobFilter",
    "JobSummary",
    "Journal",
    "JournalError",
    "JournalLocked",
    "JournalReader",
    "JournaledJob",
    "KeyConflict",
    "MetricKind",
    "MetricPoint",
    "NoSuchJob",
    "Page",
    "QuarantinedCheckpoint",
    "Snapshot",
    "Sort",
    "StaleAttempt",
    "Submission",
    "SubmissionKey",
    "Unfit",
]
