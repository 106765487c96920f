"""Short ways to put things into a journal."""

from __future__ import annotations

from typing import Any

from jobs.checkpoints import folder_name
from jobs.records import CheckpointRecord, JobState
from jobs.spec import JobSpec
from orchestrator.journal import ArtifactRecord, Journal, Submission
from workers.publishing import FileEntry

ARTIFACT = ArtifactRecord(
    job_id="a",
    attempt=1,
    uri="s3://bucket/artifacts/a",
    manifest_sha256="1" * 64,
    size_bytes=12,
    files={"adapter_config.json": FileEntry(sha256="2" * 64, size_bytes=5), "é": FileEntry(sha256="3", size_bytes=7)},
)


def make_submission(job_id: str = "a", **lora: Any) -> Submission:
    spec = JobSpec.model_validate(
        {
            "name": f"name-{job_id}",
            "model": {"model_name_or_path": "base"},
            "datasets": [{"path": "rows.jsonl"}],
            "lora": lora,
        }
    )
    return Submission(job_id=job_id, spec=spec)


def make_record(
    step: int, *, job_id: str = "a", attempt: int = 1, micro_batch: int = 0, sha: str = "0"
) -> CheckpointRecord:
    return CheckpointRecord(
        job_id=job_id,
        attempt=attempt,
        step=step,
        micro_batch=micro_batch,
        folder=folder_name(step=step, micro_batch=micro_batch, attempt=attempt),
        manifest_sha256=sha * 64,
        size_bytes=1000 + step,
    )


def start(journal: Journal, job_id: str = "a", *, at: float = 2.0) -> int:
    """An attempt at a job that may be new."""
    if job_id not in {job.id for job in journal.jobs()}:
        journal.submit([make_submission(job_id)], at=1.0)
    number, _ = journal.start_attempt(job_id, worker_id="w0", reason="placed", message="room", at=at)
    return number


def requeue(journal: Journal, job_id: str, attempt: int, *, charged: bool = False, at: float = 3.0) -> None:
    journal.end_attempt(
        job_id, attempt=attempt, state=JobState.PENDING, reason="worker_lost", message="lost", at=at, charged=charged
    )


def contents(journal: Journal) -> list[tuple[Any, ...]]:
    """Everything in the database, to see that nothing was changed."""
    with journal._engine.begin() as connection:
        tables = [row[0] for row in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return [
            row
            for table in sorted(tables)
            for row in sorted(((table, *row) for row in connection.exec_driver_sql(f"SELECT * FROM {table}")), key=repr)
        ]
