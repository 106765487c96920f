"""What an earlier run left in the output directory, and what of it goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jobs.errors import Problem, SpecError
from jobs.ledger import Ledger
from jobs.loading import LoadedSpec, locate
from jobs.records import Job, JobProgress, JobState
from orchestrator.adoption import confirm, finished_progress
from orchestrator.journal import Journal, JournaledJob
from orchestrator.output_directory import OutputDirectory


@dataclass(frozen=True, kw_only=True)
class TakenUp:
    """The jobs of this run."""

    jobs: tuple[Job, ...]
    """In the order of their specs; those whose adapter is there already have SUCCEEDED."""
    new: frozenset[str]
    """Ids of those that the journal does not have yet."""


def end_open_attempts(journal: Journal, files: OutputDirectory, *, at: float) -> None:
    """Take all jobs back from the run before this one, which is dead: the journal's lock says so.

    What it left half written goes; so do checkpoints that never reached the journal.
    """
    for job in journal.jobs():
        if job.state.is_terminal:
            continue
        if job.attempt_is_open:
            journal.end_attempt(
                job.id,
                attempt=job.attempt,
                state=JobState.PENDING,
                reason="driver_lost",
                message="the run that trained it died",
                at=at,
                progress=replace(job.progress, ledger=job.progress.ledger.lost().waits(at)),
            )
        elif job.state is not JobState.PENDING:
            journal.change(
                job.id, attempt=None, state=JobState.PENDING, reason="driver_lost", message="the run ended", at=at
            )
        files.job_files.sweep(job.id, job.checkpoints)


def take_up(loaded: Sequence[LoadedSpec], journal: Journal, files: OutputDirectory, *, at: float) -> TakenUp:
    """Match specs with what is there: finished, begun or new.

    An adapter that is there has finished its job. A job that the journal knows and that has not ended goes on, from
    the same spec only. One that failed or was cancelled, or whose adapter was moved away, is begun anew as another job
    of its name.

    Raises:
        SpecError: Specs that are not those of what is there, with what changed; adapters that are damaged.
    """
    known: dict[str, JournaledJob] = {job.name: job for job in journal.jobs()}
    jobs: list[Job] = []
    new: set[str] = set()
    problems: list[Problem] = []
    for one in loaded:
        name = one.spec.name
        folder = files.artifacts / name
        before = known.get(name)
        try:
            manifest = files.finished(name)
        except ValueError as error:
            message = f"{error}; move {folder} away to train the job again"
            problems.append(locate(Problem(message=message, field="name"), one))
            continue
        if manifest is not None:
            if manifest["spec_sha256"] != one.spec.spec_sha256():
                changed = _told(manifest["spec"], one)
                message = (
                    f"{folder} holds an adapter trained from another spec ({changed}); "
                    "rename the job, name another --output-dir, or move the folder away"
                )
                problems.append(locate(Problem(message=message, field="name", value=name), one))
                continue
            job = _finished(one, manifest, str(folder), before, at=at)
            if before is not None and not before.state.is_terminal:
                # Published, and then the run died before it could write that down.
                confirm(journal, files.job_files, before, str(folder), manifest, at=at)
            jobs.append(job)
        elif before is not None and not before.state.is_terminal:
            if before.spec_sha256 != one.spec.spec_sha256():
                message = (
                    f"the job has begun in {files.root} with another spec ({_told(before.spec, one)}); change it back "
                    "to go on, rename the job, or name another --output-dir"
                )
                problems.append(locate(Problem(message=message, field="name", value=name), one))
                continue
            jobs.append(
                Job(
                    id=before.id,
                    spec=one.spec,
                    reason=before.reason,
                    message=before.message,
                    attempt=before.attempt,
                    num_charged=before.num_charged,
                    checkpoints=before.checkpoints,
                    # Nobody waited while no run was there.
                    progress=replace(
                        before.progress, ledger=replace(before.progress.ledger, waiting_since_unix_seconds=at)
                    ),
                    submitted_unix_seconds=before.submitted_unix_seconds or None,
                )
            )
        else:
            job = Job(
                id=journal.free_id(name),
                spec=one.spec,
                progress=JobProgress(ledger=Ledger().waits(at)),
                submitted_unix_seconds=at,
            )
            new.add(job.id)
            jobs.append(job)
    if problems:
        raise SpecError(problems)
    return TakenUp(jobs=tuple(jobs), new=frozenset(new))


def _finished(
    one: LoadedSpec, manifest: Mapping[str, Any], folder: str, before: JournaledJob | None, *, at: float
) -> Job:
    return Job(
        id=before.id if before is not None else one.spec.name,
        spec=one.spec,
        state=JobState.SUCCEEDED,
        reason="finished_before",
        message="finished in an earlier run",
        checkpoints=before.checkpoints if before is not None else (),
        artifact=folder,
        progress=finished_progress(manifest, before.progress if before is not None else JobProgress(), at=at),
    )


def _told(before: Mapping[str, Any], one: LoadedSpec) -> str:
    after = json.loads(json.dumps(one.spec.model_dump(mode="json")))
    return "; ".join(_changed(before, after)) or "order of patterns"


def _changed(before: object, after: object, path: str = "") -> list[str]:
    """Dotted fields that differ, with both values."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = dict.fromkeys([*before, *after])
        return [
            line
            for key in keys
            for line in _changed(before.get(key), after.get(key), f"{path}.{key}" if path else str(key))
        ]
    return [] if before == after else [f"{path}: {before!r} then, {after!r} now"]
