"""What owners want of jobs: kept durably, told once, refused where it makes no sense."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from jobs.records import ALLOWED_TRANSITIONS, Desired, JobState
from orchestrator.journal import Journal, JournalError, NoSuchJob, StaleAttempt, Unfit
from tests.orchestrator.journal.entries import contents, make_record, make_submission, requeue, start

ENDED = [state for state in JobState if state.is_terminal]


def end(journal: Journal, state: JobState, *, charged: bool = False) -> None:
    journal.change("a", attempt=None, state=state, reason="r", message="m", at=4.0, charged=charged)


def test_each_verb_is_kept_with_who_asked(journal: Journal, path: Path) -> None:
    journal.submit([make_submission("a")], at=1.0)
    before = journal.job("a")
    asked: list[tuple[dict[str, Any], str, str]] = [
        ({"desired": Desired.PAUSE}, "pause_requested", "alice asked that it pauses"),
        ({"desired": Desired.RUN}, "resume_requested", "alice asked that it goes on"),
        ({"priority": 5}, "priority_changed", "alice asked that its priority is 5 instead of 0"),
        ({"queue": "night"}, "queue_changed", "alice asked that its queue is night instead of default"),
        ({"desired": Desired.CANCEL}, "cancel_requested", "alice asked that it is cancelled"),
    ]
    for wish, reason, message in asked:
        event = journal.steer("a", **wish, by="alice", at=2.0)
        assert event is not None
        assert event == journal.events()[-1]
        assert (event.state, event.reason, event.message) == (JobState.PENDING, reason, message)
        # Done is done: nothing changes, nothing is told.
        there = contents(journal)
        assert journal.steer("a", **wish, by="bob", at=3.0) is None
        assert contents(journal) == there
    journal.close()
    with Journal(path) as journal:
        job = journal.job("a")
    assert (job.desired, job.priority, job.queue) == (Desired.CANCEL, 5, "night")
    assert (job.state, job.reason, job.message) == (before.state, before.reason, before.message)
    assert job.spec == before.spec


def test_several_wishes_are_one_event(journal: Journal) -> None:
    journal.submit([make_submission("a")], at=1.0)
    event = journal.steer("a", desired=Desired.PAUSE, priority=0, queue="night", by=None, at=2.0)
    assert event is not None
    assert event.reason == "pause_requested"
    assert event.message == (
        "somebody on this machine asked that it pauses and that its queue is night instead of default"
    )
    assert len(journal.events()) == 2


@pytest.mark.parametrize("state", ENDED)
@pytest.mark.parametrize("wish", [*({"desired": one} for one in Desired), {"priority": 9}, {"queue": "night"}])
def test_what_has_ended_is_not_steered(journal: Journal, state: JobState, wish: dict[str, Any]) -> None:
    start(journal)
    end(journal, state)
    before = contents(journal)
    if state is JobState.CANCELLED and wish.get("desired") is Desired.CANCEL:
        assert journal.steer("a", **wish, by="alice", at=5.0) is None
    else:
        mend = "submit it again" if state is JobState.SUCCEEDED else "retry it"
        with pytest.raises(Unfit, match=f"job a has ended as {state}.*{mend}") as caught:
            journal.steer("a", **wish, by="alice", at=5.0)
        again = pickle.loads(pickle.dumps(caught.value))
        assert (again.job_id, again.state, str(again)) == ("a", state, str(caught.value))
    # Already so, whatever the state.
    assert journal.steer("a", priority=0, queue="default", by="alice", at=5.0) is None
    assert contents(journal) == before


def test_cancelling_is_not_undone(journal: Journal) -> None:
    """The scheduler may be at it; whether the job still runs would be left to chance."""
    start(journal)
    journal.steer("a", desired=Desired.CANCEL, by="alice", at=3.0)
    before = contents(journal)
    for wish in (Desired.RUN, Desired.PAUSE):
        with pytest.raises(Unfit, match="is STARTING and being cancelled"):
            journal.steer("a", desired=wish, by="alice", at=4.0)
    with pytest.raises(Unfit, match="being cancelled; wait until it has ended, then retry it"):
        journal.retry("a", by="alice", at=4.0)
    assert contents(journal) == before


@pytest.mark.parametrize(
    "wish", [{"priority": 2**31}, {"priority": -(2**31) - 1}, {"queue": ""}, {"queue": "Night"}, {"queue": "a/../b"}]
)
def test_values_out_of_range_are_told(journal: Journal, wish: dict[str, Any]) -> None:
    journal.submit([make_submission("a")], at=1.0)
    before = contents(journal)
    (field,) = wish
    with pytest.raises(JournalError, match=f"{field} is .*; it should be"):
        journal.steer("a", **wish, by="alice", at=2.0)
    assert contents(journal) == before


def test_jobs_that_are_not_there(journal: Journal) -> None:
    with pytest.raises(NoSuchJob, match="there is no job x"):
        journal.steer("x", priority=1, by="alice", at=1.0)
    with pytest.raises(NoSuchJob):
        journal.retry("x", by="alice", at=1.0)
    with pytest.raises(NoSuchJob):
        journal.set_estimate("x", {})


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
def test_a_retried_job_goes_on_with_new_restarts(journal: Journal, state: JobState) -> None:
    requeue(journal, "a", start(journal), charged=True)
    start(journal)
    journal.commit_checkpoint(make_record(7, attempt=2))
    journal.steer("a", desired=Desired.CANCEL, by="alice", at=3.0)
    end(journal, state, charged=True)
    ended = journal.job("a")
    assert (ended.ended_unix_seconds, ended.num_charged) == (4.0, 2)
    event = journal.retry("a", by="alice", at=6.0)
    assert event is not None
    assert event == journal.events()[-1]
    assert (event.state, event.reason, event.message) == (
        JobState.PENDING,
        "retry",
        "alice asked that it is tried again",
    )
    job = journal.job("a")
    assert (job.state, job.reason, job.desired, job.ended_unix_seconds) == (JobState.PENDING, "retry", "run", None)
    assert (job.attempt, job.attempt_is_open, job.num_charged) == (2, False, 0)
    # It waits since then, not since it was submitted: in between it has trained and ended.
    assert job.ledger.waiting_since_unix_seconds == 6.0
    assert job.checkpoints == (make_record(7, attempt=2),)
    # Asked twice, it is tried again once.
    before = contents(journal)
    assert journal.retry("a", by="alice", at=7.0) is None
    assert contents(journal) == before
    with pytest.raises(StaleAttempt):
        journal.commit_checkpoint(make_record(8, attempt=2))
    assert start(journal) == 3
    end(journal, JobState.FAILED, charged=True)
    assert journal.job("a").num_charged == 1


def test_success_is_not_retried(journal: Journal) -> None:
    start(journal)
    end(journal, JobState.SUCCEEDED)
    with pytest.raises(Unfit, match="has ended as SUCCEEDED; there is nothing to try again, submit it again"):
        journal.retry("a", by=None, at=5.0)


def test_a_job_that_its_owner_paused_is_nobodys(journal: Journal) -> None:
    attempt = start(journal)
    journal.steer("a", desired=Desired.PAUSE, by="alice", at=3.0)
    journal.end_attempt("a", attempt=attempt, state=JobState.PAUSED, reason="paused", message="m", at=4.0)
    job = journal.job("a")
    assert (job.state, job.reason, job.attempt_is_open, job.num_charged) == (JobState.PAUSED, "paused", False, 0)
    journal.steer("a", desired=Desired.RUN, by="alice", at=5.0)
    journal.change("a", attempt=None, state=JobState.PENDING, reason="resumed", message="m", at=6.0)
    assert start(journal) == 2


def test_the_table_of_transitions_has_pause_and_retry() -> None:
    for state in (JobState.PENDING, JobState.STARTING, JobState.RUNNING, JobState.RECOVERING, JobState.PAUSED):
        assert JobState.PAUSED in ALLOWED_TRANSITIONS[state]
    assert JobState.PENDING in ALLOWED_TRANSITIONS[JobState.PAUSED]
    assert ALLOWED_TRANSITIONS[JobState.FAILED] == ALLOWED_TRANSITIONS[JobState.CANCELLED] == {JobState.PENDING}
    assert ALLOWED_TRANSITIONS[JobState.SUCCEEDED] == frozenset()
    assert ALLOWED_TRANSITIONS.keys() == set(JobState)


def test_an_estimate_is_kept(journal: Journal, path: Path) -> None:
    journal.submit([make_submission("a")], at=1.0)
    num_events = len(journal.events())
    journal.set_estimate("a", {"tokens": 12, "bytes": [1, 2], "rate": float("inf")})
    journal.close()
    with Journal(path) as journal:
        assert journal.job("a").estimate == {"tokens": 12, "bytes": [1, 2], "rate": None}
        assert len(journal.events()) == num_events
