"""Adapters that were finished and that the journal does not have, because whoever published them died in between.

Only the journal makes an adapter a job's. What is found here was made for the job, from its spec, and every byte is
verified, so the job SUCCEEDS with it and nothing is trained twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from jobs.errors import StoreError
from jobs.records import JobProgress
from jobs.spec import JobSpec
from orchestrator.job_files import JobFiles
from orchestrator.journal import Journal, JournaledJob
from orchestrator.lives import artifact_record
from orchestrator.published_folders import Owner, publish_folder


def adopt(
    journal: Journal,
    files: JobFiles,
    job: JournaledJob,
    *,
    staging: Path,
    at: float,
    note: Callable[[str], None] = lambda _: None,
) -> bool:
    """Let a job SUCCEED with the adapter that its lost attempt has finished, if there is one.

    Args:
        journal: The truth; this process writes it.
        files: Of its jobs, whose adapters are called by their ids.
        job: Its latest attempt is open, and the attempt's worker is gone.
        staging: Folder in which workers write adapters, a folder a worker.
        at: Seconds since the epoch, for the event.
        note: Takes what was found and cannot be used.

    Returns:
        Whether it did.
    """
    try:
        found = _found(files, job, staging, note)
        if found is None:
            return False
        artifact, manifest = found
        confirm(journal, files, job, artifact, manifest, at=at)
    except (OSError, ValueError, StoreError) as error:
        note(f"its attempt {job.attempt} may have finished an adapter, which cannot be used: {error}")
        return False
    return True


def confirm(
    journal: Journal, files: JobFiles, job: JournaledJob, artifact: str, manifest: Mapping[str, Any], *, at: float
) -> None:
    """Enter an adapter that was found whole into the journal: its job has SUCCEEDED.

    Args:
        journal: The truth; this process writes it.
        files: Where the adapter is.
        job: Has not ended.
        artifact: Folder or URI.
        manifest: Verified.
        at: Seconds since the epoch, for the event.
    """
    journal.commit_artifact(
        artifact_record(job.id, job.attempt, artifact, files),
        message=f"the adapter in {artifact} was found whole",
        at=at,
        by_worker=False,
        progress=finished_progress(manifest, job.progress, at=at),
    )


def finished_progress(manifest: Mapping[str, Any], before: JobProgress, *, at: float) -> JobProgress:
    """How far a job is whose adapter was found.

    Args:
        manifest: Of the adapter.
        before: As the journal has it, which may be seconds old.
        at: Seconds since the epoch.
    """
    metrics = manifest.get("metrics", {})
    step = metrics.get("step", before.step)
    return replace(
        before,
        step=step,
        total_steps=step,
        train_loss=metrics.get("train_loss", before.train_loss),
        eval_loss=metrics.get("eval_loss", before.eval_loss),
        eval_exact_match=metrics.get("eval_exact_match", before.eval_exact_match),
        ledger=before.ledger.goes_on(at),
    )


def _found(
    files: JobFiles, job: JournaledJob, staging: Path, note: Callable[[str], None]
) -> tuple[str, Mapping[str, Any]] | None:
    """Place and manifest of an adapter that is whole and the job's own."""
    owner = Owner(job_id=job.id, spec_sha256=_spec_hashes(job))
    if files.storage_uri is None:
        staged, target = staging / str(job.worker_id) / job.id, files.root / "artifacts" / job.id
        if not staged.exists() and not target.exists():
            return None
        if not target.exists() and (problem := owner.problem(files.verify(str(staged)))) is not None:
            raise ValueError(f"{staged}: {problem}")
        return str(target), publish_folder(staged, target, owner, note=note)
    for uri in files.uploaded(job.id, job.attempt):
        try:
            manifest = files.verify(uri)
            problem = owner.problem(manifest)
        except ValueError as error:
            manifest, problem = {}, str(error)
        if problem is None:
            return uri, manifest
        note(f"{uri} was moved to {files.set_aside(uri) or 'nowhere, and marked bad'}: {problem}")
    return None


def _spec_hashes(job: JournaledJob) -> set[str]:
    """As it was submitted, and as this version writes it: an upgrade may have added fields in between."""
    hashes = {job.spec_sha256}
    with suppress(ValidationError):
        hashes.add(JobSpec.model_validate(job.spec).spec_sha256())
    return hashes
