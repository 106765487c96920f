"""The journal of an output directory: what is in it is true, whatever else has died.

records.py      what is put in and read
reading.py      JournalReader, for any process: jobs, lists, counts, events, metrics; rows.py, listing.py do the work
opening.py      a journal that is written by one process (lock.py); engine.py has the connections
asking.py       what owners ask for: submit, steer, retry; submitting.py, intent.py do the work
writing.py      Journal: what the scheduler writes of jobs' lives; statements.py, history.py do the work
tables.py       the tables of today; migrations.py brings older files to them
errors.py       why it does not take a change
"""

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
from orchestrator.journal.overview import Span, SweepSummary
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
    UndeletedFiles,
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
    "Span",
    "StaleAttempt",
    "Submission",
    "SubmissionKey",
    "SweepSummary",
    "UndeletedFiles",
    "Unfit",
]
