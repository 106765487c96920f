"""How a job of the journal becomes one that the scheduler owns: spec understood, demand known or looked into."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace

from pydantic import ValidationError

from jobs.records import Job, JobState
from jobs.spec import JobSpec
from orchestrator.checking import Checker
from orchestrator.job_files import JobFiles
from orchestrator.journal import Journal, JournaledJob
from workers.estimate import Estimate


class Enrolment:
    """Takes in what the journal has."""

    def __init__(self, journal: Journal, files: JobFiles, checker: Checker) -> None:
        self._journal = journal
        self._files = files
        self._checker = checker

    def job(self, found: JournaledJob) -> Job | None:
        """As the scheduler owns it; what it left unfinished is swept away.

        `None`, and FAILED, where this version does not understand its spec any more.
        """
        try:
            spec = JobSpec.model_validate(found.spec)
        except ValidationError as error:
            said = error.errors()[0]["msg"]
            self._journal.change(
                found.id,
                attempt=None,
                state=JobState.FAILED,
                reason="invalid",
                message=f"this version does not take its spec any more: {said}",
                at=time.time(),
            )
            return None
        job = Job(
            id=found.id,
            spec=spec,
            state=found.state,
            desired=found.desired,
            reason=found.reason,
            message=found.message,
            worker_id=found.worker_id if found.attempt_is_open else None,
            attempt=found.attempt,
            num_charged=found.num_charged,
            checkpoints=found.checkpoints,
            progress=replace(found.progress, ledger=found.ledger),
            artifact=found.artifact,
            submitted_unix_seconds=found.submitted_unix_seconds or None,
        )
        job.priority, job.queue = found.priority, found.queue
        # One that was never begun has left nothing; of thousands that wait, a store would be asked for each.
        if job.worker_id is None and job.attempt:
            self._files.sweep(job.id, job.checkpoints)
        return job

    def estimate(self, found: JournaledJob, job: Job) -> Estimate | None:
        """What a check before has found out; `None`, and the job is being checked, where none can be read."""
        if found.estimate is not None:
            # One of another version is found out anew; if the job trains, it trains on meanwhile.
            with suppress(ValueError):
                return Estimate.from_json(found.estimate)
        self._checker.submit(job.id, job.spec)
        return None
