"""A process that is killed between and inside its commits: what was acknowledged is there, and nothing by halves."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from jobs.records import JobProgress, JobState
from orchestrator.journal import Journal
from tests.kills import killed
from tests.orchestrator.journal.entries import ARTIFACT, make_record, make_submission, requeue, start

NUM_KILLS = 40


def write_forever(path: Path, first: int, tell: Callable[[str], None]) -> None:
    """Jobs one after the other, every change told as soon as the journal has returned."""
    journal = Journal(path)

    def told(*what: object) -> None:
        tell(" ".join(map(str, what)))

    for number in itertools.count(first):
        job_id = f"job-{number}"
        journal.submit([make_submission(job_id)], at=1.0)
        told("submitted", job_id)
        attempt = start(journal, job_id)
        told("attempt", job_id, attempt)
        for step in (1, 2):
            journal.commit_checkpoint(make_record(step, job_id=job_id), progress=JobProgress(step=step))
            told("checkpoint", job_id, step)
        requeue(journal, job_id, attempt)
        attempt = start(journal, job_id)
        told("attempt", job_id, attempt)
        record = replace(ARTIFACT, job_id=job_id, attempt=attempt, uri=f"at/{job_id}")
        journal.commit_artifact(record, message="m", at=2.0)
        told("artifact", job_id)


def test_killed_at_random_instants(path: Path) -> None:
    draw = random.Random(7)
    told: list[list[str]] = []
    for kill in range(NUM_KILLS):
        lines = killed(
            partial(write_forever, path, kill * 1000), after_lines=draw.randint(1, 14), seconds=draw.uniform(0.0, 0.01)
        )
        told += [line.split() for line in lines]
        with Journal(path) as journal:
            jobs = {job.id: job for job in journal.jobs()}
            for what, job_id, *more in told:
                job = jobs[job_id]
                if what == "attempt":
                    assert job.attempt >= int(more[0])
                elif what == "checkpoint":
                    assert make_record(int(more[0]), job_id=job_id) in job.checkpoints
                elif what == "artifact":
                    assert (job.state, job.artifact) == (JobState.SUCCEEDED, f"at/{job_id}")
            for job in jobs.values():
                # Each change with its event, its attempt and its progress, or none of them.
                events = journal.events(job.id)
                assert events[-1].state == job.state
                assert sum(event.reason == "placed" for event in events) == job.attempt == len(journal.attempts(job.id))
                assert job.progress.step == max((one.step for one in job.checkpoints), default=0)
                assert (job.artifact is not None) == (job.state is JobState.SUCCEEDED)
                assert job.attempt_is_open == (job.state is JobState.STARTING)
                assert all(not one.is_open for one in journal.attempts(job.id)[:-1])
