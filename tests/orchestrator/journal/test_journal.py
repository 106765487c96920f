"""A job's life as the journal keeps it, and who is refused."""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from jobs.errors import LoraloomError
from jobs.records import Desired, JobProgress, JobState
from orchestrator.journal import (
    Attempt,
    Journal,
    JournalError,
    JournalReader,
    MetricPoint,
    StaleAttempt,
    Submission,
    SubmissionKey,
)
from tests.orchestrator.journal.entries import ARTIFACT, contents, make_record, make_submission, requeue, start


def test_a_life(journal: Journal) -> None:
    journal.submit([make_submission("a"), make_submission("b")], at=10.0)
    number, placed = journal.start_attempt("a", worker_id="w0", reason="placed", message="room on w0", at=9.0)
    assert number == 1
    assert (placed.state, placed.reason, placed.sequence) == (JobState.STARTING, "placed", 3)
    journal.change("a", attempt=1, state=JobState.RUNNING, reason="admitted", message="8 parameters", at=8.0)
    journal.commit_checkpoint(make_record(10), progress=JobProgress(step=10, train_loss=0.5))
    journal.commit_checkpoint(make_record(20, micro_batch=1))
    requeue(journal, "a", 1, charged=True, at=7.0)
    number, _ = journal.start_attempt("a", worker_id="w1", reason="placed", message="room on w1", at=6.0)
    assert number == 2
    journal.commit_checkpoint(make_record(15, attempt=2))
    record = replace(ARTIFACT, attempt=2, uri="artifacts/name-a")
    journal.commit_artifact(record, message="all done", at=5.0, progress=JobProgress(step=30, total_steps=30))
    first, second = journal.jobs()
    assert (first.id, first.name, first.submitted, first.state) == ("a", "name-a", 1, JobState.SUCCEEDED)
    assert (first.reason, first.message, first.artifact) == ("finished", "all done", "artifacts/name-a")
    assert (first.attempt, first.attempt_is_open, first.worker_id, first.num_charged) == (2, False, "w1", 1)
    assert first.progress == JobProgress(step=30, total_steps=30)
    assert first.checkpoints == (make_record(15, attempt=2), make_record(20, micro_batch=1), make_record(10))
    assert first.checkpoints == journal.checkpoints("a")
    assert (second.id, second.state, second.attempt, second.attempt_is_open) == ("b", JobState.PENDING, 0, False)
    assert (second.worker_id, second.artifact, second.checkpoints) == (None, None, ())
    # Ordered by what happened after what, though the clock ran backwards.
    assert [(event.job_id, event.state, event.time_unix_seconds) for event in journal.events()] == [
        ("a", "PENDING", 10.0),
        ("b", "PENDING", 10.0),
        ("a", "STARTING", 9.0),
        ("a", "RUNNING", 8.0),
        ("a", "PENDING", 7.0),
        ("a", "STARTING", 6.0),
        ("a", "SUCCEEDED", 5.0),
    ]
    sequences = [event.sequence for event in journal.events()]
    assert sequences == sorted(set(sequences))
    assert [event.sequence for event in journal.events("a", after=4, limit=2)] == [5, 6]
    common = {"job_id": "a", "is_open": False}
    assert journal.attempts("a") == (
        Attempt(
            number=1,
            worker_id="w0",
            started_unix_seconds=9.0,
            ended_unix_seconds=7.0,
            why="worker_lost",
            charged=True,
            **common,
        ),
        Attempt(
            number=2,
            worker_id="w1",
            started_unix_seconds=6.0,
            ended_unix_seconds=5.0,
            why="finished",
            charged=False,
            **common,
        ),
    )


def test_everything_is_there_after_reopening(path: Path) -> None:
    with Journal(path) as journal:
        start(journal)
        journal.commit_checkpoint(make_record(10))
        before, jobs = contents(journal), journal.jobs()
    with Journal(path) as journal:
        assert contents(journal) == before
        assert journal.jobs() == jobs
        assert journal.jobs()[0].attempt_is_open, "nobody has ended it yet"


def test_a_spec_comes_back_as_it_was_submitted(journal: Journal) -> None:
    """Keys in order: the first pattern that matches decides."""
    one = make_submission("a", rank_pattern={"z": 4, "a": 2, "é": 1})
    journal.submit([one], at=1.0)
    (job,) = journal.jobs()
    assert job.spec == one.spec.model_dump(mode="json")
    assert list(job.spec["lora"]["rank_pattern"]) == ["z", "a", "é"]
    assert job.spec_sha256 == one.spec.spec_sha256() == type(one.spec).model_validate(job.spec).spec_sha256()


def test_jobs_come_in_all_or_none(journal: Journal) -> None:
    journal.submit([make_submission("a")], at=1.0)
    before = contents(journal)
    for more in (["b", "a"], ["b", "b"]):
        with pytest.raises(JournalError, match="already; submit this one under another id"):
            journal.submit([make_submission(job_id) for job_id in more], at=2.0)
        assert contents(journal) == before
    journal.submit([], at=2.0)
    assert contents(journal) == before
    journal.submit([make_submission("c"), make_submission("b")], at=0.5)
    assert [(job.id, job.submitted) for job in journal.jobs()] == [("a", 1), ("c", 2), ("b", 3)]


Deed = Callable[[Journal, int], object]

DEEDS: dict[str, Deed] = {
    "a checkpoint": lambda journal, attempt: journal.commit_checkpoint(make_record(99, attempt=attempt)),
    "a state": lambda journal, attempt: journal.change(
        "a", attempt=attempt, state=JobState.RUNNING, reason="r", message="m", at=9.0
    ),
    "an artifact": lambda journal, attempt: journal.commit_artifact(
        replace(ARTIFACT, attempt=attempt), message="m", at=9.0
    ),
    "a failure": lambda journal, attempt: journal.change(
        "a", attempt=attempt, state=JobState.FAILED, reason="r", message="m", at=9.0
    ),
    "its end": lambda journal, attempt: requeue(journal, "a", attempt),
}


@pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS.keys())
def test_who_comes_back_from_the_dead_changes_nothing(journal: Journal, deed: Deed) -> None:
    assert start(journal) == 1
    journal.commit_checkpoint(make_record(5))
    requeue(journal, "a", 1)

    def refused(attempt: int, told: str) -> None:
        before = contents(journal)
        with pytest.raises(StaleAttempt, match=told):
            deed(journal, attempt)
        assert contents(journal) == before

    refused(1, "has ended")
    assert start(journal) == 2
    for attempt in (0, 1, 3):
        refused(attempt, "was replaced by attempt 2")
    deed(journal, 2)
    journal.submit([make_submission("other")], at=1.0)
    with pytest.raises(StaleAttempt):
        journal.commit_checkpoint(make_record(1, job_id="other", attempt=0))


@pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS.keys())
@pytest.mark.parametrize("state", [JobState.CANCELLED, JobState.FAILED, JobState.SUCCEEDED])
def test_nothing_follows_the_end(journal: Journal, deed: Deed, state: JobState) -> None:
    start(journal)
    journal.change("a", attempt=None, state=state, reason="r", message="m", at=4.0)
    before = contents(journal)
    with pytest.raises(StaleAttempt):
        deed(journal, 1)
    with pytest.raises(JournalError, match="has ended as"):
        journal.change("a", attempt=None, state=JobState.PENDING, reason="r", message="m", at=5.0)
    with pytest.raises(JournalError, match="has ended as"):
        start(journal)
    assert contents(journal) == before
    assert not journal.jobs()[0].attempt_is_open
    assert journal.attempts("a")[0].why == "r"


def test_one_attempt_at_a_time(journal: Journal) -> None:
    start(journal)
    with pytest.raises(JournalError, match="attempt 1 of job a has not ended"):
        start(journal)
    assert len(journal.attempts("a")) == 1


def test_who_ended_it_is_charged_or_not(journal: Journal) -> None:
    for charged in (True, False, True):
        requeue(journal, "a", start(journal), charged=charged)
    start(journal)
    journal.change("a", attempt=4, state=JobState.FAILED, reason="nonfinite", message="m", at=1.0, charged=True)
    assert journal.jobs()[0].num_charged == 3
    assert [one.charged for one in journal.attempts("a")] == [True, False, True, True]


def test_a_checkpoint_told_twice_is_one(journal: Journal) -> None:
    start(journal)
    for _ in range(2):
        journal.commit_checkpoint(make_record(5))
    assert journal.checkpoints("a") == (make_record(5),)


@pytest.mark.parametrize(
    "late", [make_record(4), make_record(5, micro_batch=1), make_record(5, micro_batch=2, sha="1")]
)
def test_an_attempt_does_not_go_backwards(journal: Journal, late: Any) -> None:
    """Two writers of one attempt that overtake each other must not make the older state the current one."""
    start(journal)
    journal.commit_checkpoint(make_record(5, micro_batch=2))
    with pytest.raises(JournalError, match="cannot follow"):
        journal.commit_checkpoint(late)
    assert journal.checkpoints("a") == (make_record(5, micro_batch=2),)


def test_superseded_checkpoints_are_struck_off_but_never_the_last_good_one(journal: Journal) -> None:
    start(journal)
    records = [make_record(step) for step in (1, 2, 3, 4)]
    for record in records:
        journal.commit_checkpoint(record)
    journal.forget_checkpoints("a", [records[0].folder, records[1].folder, "step-unknown"])
    assert journal.checkpoints("a") == (records[3], records[2])
    with pytest.raises(JournalError, match="last good checkpoint"):
        journal.forget_checkpoints("a", [records[2].folder, records[3].folder])
    journal.quarantine_checkpoint(records[3], problem="flipped", at=3.0)
    with pytest.raises(JournalError, match="last good checkpoint"):
        journal.forget_checkpoints("a", [records[2].folder])
    assert journal.checkpoints("a") == (records[2],)


def test_a_bad_checkpoint_is_told_and_never_used_again(journal: Journal) -> None:
    start(journal)
    for step in (1, 2):
        journal.commit_checkpoint(make_record(step))
    event = journal.quarantine_checkpoint(make_record(2), problem="state.json is missing", at=7.0)
    assert event is not None
    assert event == journal.events()[-1]
    assert (event.state, event.reason, event.message) == (
        JobState.STARTING,
        "checkpoint_quarantined",
        "state.json is missing",
    )
    assert journal.jobs()[0].checkpoints == (make_record(1),)
    (bad,) = journal.quarantined("a")
    assert (bad.record, bad.problem) == (make_record(2), "state.json is missing")
    assert journal.quarantine_checkpoint(make_record(2), problem="again", at=8.0) is None
    assert journal.quarantine_checkpoint(make_record(9), problem="unknown", at=8.0) is None


def test_progress_is_kept_and_a_number_that_json_has_not_is_none(journal: Journal) -> None:
    journal.submit([make_submission("a"), make_submission("b")], at=1.0)
    num_events = len(journal.events())
    journal.record_progress({"a": JobProgress(step=3, train_loss=math.nan, eval_loss=0.25), "b": JobProgress(step=4)})
    first, second = journal.jobs()
    assert first.progress == JobProgress(step=3, train_loss=None, eval_loss=0.25)
    assert second.progress == JobProgress(step=4)
    assert len(journal.events()) == num_events


def test_settings(journal: Journal) -> None:
    assert journal.setting("token_budget") is None
    assert journal.fix_setting("token_budget", {"tiny (float32)": 4096}) == {"tiny (float32)": 4096}
    assert journal.fix_setting("token_budget", {"tiny (float32)": 1}) == {"tiny (float32)": 4096}
    assert journal.setting("token_budget") == {"tiny (float32)": 4096}
    journal.put_setting("token_budget", [1, None])
    assert journal.setting("token_budget") == [1, None]


@pytest.mark.parametrize("job_id", ["'; DROP TABLE jobs; --", "", "%", "\x00", "é\n", "a" * 10_000])
def test_ids_are_only_ever_values(journal: Journal, job_id: str) -> None:
    with pytest.raises(JournalError, match="there is no job"):
        journal.change(job_id, attempt=None, state=JobState.FAILED, reason="r", message=job_id, at=1.0)
    assert journal.checkpoints(job_id) == ()
    journal.put_setting(job_id, job_id)
    assert journal.setting(job_id) == job_id


def test_a_reader_looks_on_and_cannot_write(path: Path, journal: Journal) -> None:
    start(journal)
    with JournalReader(path) as reader:
        assert reader.jobs() == journal.jobs()
        journal.commit_checkpoint(make_record(1))
        assert reader.checkpoints("a") == (make_record(1),)
        with pytest.raises(LoraloomError, match="readonly"), reader._reading() as connection:
            connection.exec_driver_sql("DELETE FROM events")
    journal.close()
    with JournalReader(path) as reader:
        assert reader.jobs()[0].checkpoints == (make_record(1),)


def test_other_threads_read_whole_moments_while_one_writes(journal: Journal) -> None:
    start(journal)
    stop, torn = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            job = journal.jobs()[0]
            if job.checkpoints and job.progress.step != job.checkpoints[0].step:
                torn.append(job)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for step in range(1, 100):
        journal.commit_checkpoint(make_record(step), progress=JobProgress(step=step))
    stop.set()
    for thread in threads:
        thread.join()
    assert torn == []


def test_errors_travel_between_processes() -> None:
    error = pickle.loads(pickle.dumps(StaleAttempt("a", 1, 2)))
    assert (error.job_id, error.attempt, error.current) == ("a", 1, 2)
    assert str(error) == str(StaleAttempt("a", 1, 2))


def test_a_commit_is_on_disk_when_it_returns(journal: Journal) -> None:
    with journal._engine.begin() as connection:
        found = {
            pragma: connection.exec_driver_sql(f"PRAGMA {pragma}").scalar()
            for pragma in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_rows_of_jobs_that_are_not_there_are_refused(journal: Journal) -> None:
    with pytest.raises(LoraloomError, match="FOREIGN KEY"), journal._writing() as connection:
        connection.exec_driver_sql(
            "INSERT INTO attempts (job_id, number, started_unix_seconds, is_open, charged) VALUES ('x', 1, 0, 1, 0)"
        )


def test_the_journal_loads_nothing_heavy() -> None:
    """A service is to answer before any of it is there; an import that comes in by another one counts as well."""
    heavy = ("torch", "ray", "transformers", "datasets", "safetensors", "numpy", "peft")
    program = f"import json, sys, orchestrator.journal; print(json.dumps([n for n in {heavy} if n in sys.modules]))"
    assert json.loads(subprocess.check_output([sys.executable, "-c", program])) == []


def test_an_artifact_comes_with_success(journal: Journal, path: Path) -> None:
    start(journal)
    assert journal.artifact("a") is None
    event = journal.commit_artifact(ARTIFACT, message="all done", at=5.0, progress=JobProgress(step=9))
    assert event == journal.events()[-1]
    assert (event.state, event.reason, event.message) == (JobState.SUCCEEDED, "finished", "all done")
    with JournalReader(path) as reader:
        job = reader.job("a")
        assert (job.state, job.artifact, job.progress.step, job.ended_unix_seconds) == (
            JobState.SUCCEEDED,
            ARTIFACT.uri,
            9,
            5.0,
        )
        assert reader.artifact("a") == ARTIFACT
        assert not reader.attempts("a")[0].is_open
    before = contents(journal)
    for by_worker in (True, False):
        with pytest.raises(JournalError):
            journal.commit_artifact(ARTIFACT, message="again", at=6.0, by_worker=by_worker)
    assert contents(journal) == before


def test_an_artifact_of_an_attempt_that_is_over_is_nobodys(journal: Journal) -> None:
    requeue(journal, "a", start(journal))
    before = contents(journal)
    with pytest.raises(StaleAttempt):
        journal.commit_artifact(ARTIFACT, message="m", at=5.0)
    assert contents(journal) == before
    # The scheduler itself may have found it whole.
    journal.commit_artifact(ARTIFACT, message="m", at=5.0, by_worker=False)
    assert journal.artifact("a") == ARTIFACT
    assert journal.job("a").state is JobState.SUCCEEDED


def test_the_node_of_an_attempt_is_kept(journal: Journal) -> None:
    journal.submit([make_submission("a")], at=1.0)
    journal.start_attempt("a", worker_id="w", reason="r", message="m", at=2.0, node="node-1")
    assert [one.node for one in journal.attempts("a")] == ["node-1"]


def test_each_change_is_one_transaction(journal: Journal) -> None:
    """Broken off before any statement of it, the commit included, a change has not begun."""
    changes: list[Callable[[], object]] = [
        lambda: journal.submit([make_submission("b"), make_submission("c")], at=1.0),
        lambda: requeue(journal, "a", 1, charged=True),
        lambda: journal.start_attempt("a", worker_id="w1", reason="placed", message="m", at=2.0),
        lambda: journal.commit_checkpoint(make_record(9, attempt=2), progress=JobProgress(step=9)),
        lambda: journal.quarantine_checkpoint(make_record(9, attempt=2), problem="p", at=3.0),
        lambda: journal.forget_checkpoints("a", [make_record(1).folder]),
        lambda: journal.put_setting("key", 2),
        lambda: journal.submit([keyed, keyed], at=1.0, key=SubmissionKey.of("key", b"")),
        lambda: journal.steer("a", desired=Desired.PAUSE, priority=1, queue="night", by="alice", at=3.0),
        lambda: journal.record_metrics([MetricPoint(job_id="a", step=9, kind="train", values={"loss": 1.0})]),
        lambda: journal.cut_metrics("a", step=1, evaluated_at=1),
        lambda: journal.change("b", attempt=None, state=JobState.FAILED, reason="r", message="m", at=4.0),
        lambda: journal.retry("b", by="alice", at=4.0),
        lambda: journal.commit_artifact(replace(ARTIFACT, attempt=2), message="m", at=4.0, progress=JobProgress()),
        lambda: journal.change(
            "c",
            attempt=None,
            state=JobState.PAUSED,
            reason="r",
            message="m",
            at=4.0,
            progress=JobProgress(),
        ),
    ]
    keyed = Submission(spec=make_submission("b").spec, sweep_id="s")
    start(journal)
    for step in (1, 2):
        journal.commit_checkpoint(make_record(step))
    journal.put_setting("key", 1)
    left = 0

    def break_off(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise RuntimeError("broken off")

    for change in changes:
        before, whole, number = contents(journal), False, 0
        while not whole:
            left = number
            sqlalchemy.event.listen(journal._engine, "before_cursor_execute", break_off)
            sqlalchemy.event.listen(journal._engine, "commit", break_off)
            try:
                change()
                whole = True
            except RuntimeError:
                number += 1
            finally:
                sqlalchemy.event.remove(journal._engine, "before_cursor_execute", break_off)
                sqlalchemy.event.remove(journal._engine, "commit", break_off)
            assert (contents(journal) == before) is not whole
        assert number >= 4
