"""The journal of an output directory: what is in it is true, whatever else has died."""

from orchestrator.journal.lock import JournalLocked
from orchestrator.journal.reading import JournalReader
from orchestrator.journal.records import Attempt, JournaledJob, QuarantinedCheckpoint
from orchestrator.journal.statements import JournalError, StaleAttempt
from orchestrator.journal.writing import Journal, Submission

__all__ = [
    "Attempt",
    "Journal",
    "JournalError",
    "JournalLocked",
    "JournalReader",
    "JournaledJob",
    "QuarantinedCheckpoint",
    "StaleAttempt",
    "Submission",
]
