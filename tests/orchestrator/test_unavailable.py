"""A base or data that cannot be had for a minute fails nobody; one that never can be fails the jobs that asked."""

from __future__ import annotations

from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from jobs.errors import BaseModelError, BaseUnavailableError, Problem, SpecError
from jobs.loading import load_files
from jobs.records import JobState
from jobs.spec import JobSpec
from orchestrator import run
from orchestrator.checking import Checked
from orchestrator.clusters import End, WorkerEnd, end_of, load
from orchestrator.job_files import JobFiles
from orchestrator.journal import Journal, Submission
from tests.orchestrator.conftest import WriteSpecs
from tests.orchestrator.scripted import ScriptedCluster, estimate, make_scheduler, state, step
from tests.orchestrator.test_upgrade import Checks, Living, service_of
from workers.preflight import Preflight

AWAY = WorkerEnd(kind=End.UNAVAILABLE, message="the base cannot be had just now: 503")


class Loading:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def load(self) -> None:
        raise self._error


def busy() -> BaseModelError:
    error = BaseModelError("the weights cannot be loaded")
    error.__cause__ = TimeoutError("timed out")
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (busy(), End.UNAVAILABLE),
        (OSError(116, "Stale file handle"), End.UNAVAILABLE),
        (MemoryError(), End.UNAVAILABLE),
        (BaseModelError("it is not a causal language model"), End.UNUSABLE),
        (AssertionError("a bug"), End.RAISED),
    ],
)
def test_what_keeps_a_base_from_being_loaded_says_whether_it_passes(error: Exception, kind: End) -> None:
    with pytest.raises(type(error) if kind is not End.UNAVAILABLE else BaseUnavailableError) as caught:
        load(Loading(error))
    assert end_of(caught.value).kind is kind


def test_an_error_in_the_middle_of_training_is_not_taken_for_one_of_the_base() -> None:
    assert end_of(OSError(5, "Input/output error")).kind is End.RAISED


def test_a_base_that_cannot_be_had_for_a_minute_fails_nobody_and_is_tried_less_and_less_often(
    journal: Journal, tmp_path: Path
) -> None:
    clock, cluster = [0.0], ScriptedCluster()
    scheduler = make_scheduler(journal, JobFiles(tmp_path), cluster, {"a": "x", "b": "x"}, now=lambda: clock[0])
    begun = []
    while clock[0] < 60.0:
        scheduler.tick()
        worker = f"w{len(begun)}"
        if cluster.calls[-1][:2] == ("start", worker):
            begun.append(clock[0])
            cluster.says(worker, end=AWAY)
            scheduler.tick()
            for job_id in "ab":
                job = journal.job(job_id)
                assert (job.state, job.reason) == (JobState.RECOVERING, "unavailable")
                assert "503" in job.message
                assert "uncharged" in job.message
        clock[0] += 1.0
    assert [later - earlier for earlier, later in pairwise(begun)] == [2.0, 4.0, 8.0, 16.0]
    scheduler.tick()
    cluster.says(f"w{len(begun)}", *(state(job_id, JobState.RUNNING) for job_id in "ab"), step("a", 1))
    clock[0] += 60.0
    scheduler.tick()
    scheduler.tick()
    for job_id in "ab":
        assert journal.job(job_id).num_charged == 0
        assert not any(one.charged for one in journal.attempts(job_id))
        assert not scheduler.jobs[job_id].state.is_terminal


def test_data_that_one_job_cannot_have_holds_that_job_alone(journal: Journal, tmp_path: Path) -> None:
    clock, cluster = [0.0], ScriptedCluster()
    scheduler = make_scheduler(journal, JobFiles(tmp_path), cluster, {"a": "x", "b": "x"}, now=lambda: clock[0])
    scheduler.tick()
    away = state("a", JobState.FAILED)
    object.__setattr__(away, "reason", "unavailable")
    cluster.says("w0", away, state("b", JobState.RUNNING))
    scheduler.tick()
    assert (scheduler.jobs["a"].state, scheduler.jobs["b"].state) == (JobState.RECOVERING, JobState.RUNNING)
    clock[0] = 3.0
    scheduler.tick()
    assert cluster.calls[-1] == ("assign", "w0", ("a",))
    assert journal.job("a").num_charged == 0


def test_a_job_that_cannot_be_looked_into_just_now_waits_with_the_reason_and_goes_on(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {"name": "a", "model": {"model_name_or_path": "org/a"}, "datasets": [{"path": "rows.jsonl"}]}
    journal.submit([Submission(job_id="a", spec=JobSpec.model_validate(spec))], at=1.0)
    checks, cluster, clock = Checks(monkeypatch), Living(), [0.0]
    monkeypatch.setattr(Living, "adopt", lambda *_: [])
    scheduler, submissions = service_of(journal, tmp_path, cluster)
    submissions._now = lambda: clock[0]
    asked_at = []
    while clock[0] < 60.0:
        if checks.asked:
            checks.asked.clear()
            asked_at.append(clock[0])
            checks.found = [Checked(job_id="a", estimate=None, problems=("503",), is_passing=True)]
        submissions.take_checks(scheduler, cluster)
        scheduler.tick()
        assert journal.job("a").state is JobState.PENDING
        assert "503" in journal.job("a").message
        clock[0] += 1.0
    assert asked_at == [0.0, 3.0, 8.0, 17.0, 34.0]
    checks.found = [Checked(job_id="a", estimate=estimate("org/a"))]
    submissions.take_checks(scheduler, cluster)
    scheduler.tick()
    assert cluster.calls == [("start", "w0", ("a",))]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What checks find, one after the other."""
    found: list[Any] = []
    monkeypatch.setattr(Preflight, "check", lambda *_: found.pop(0))
    return found


def test_a_run_waits_for_a_hub_that_is_away_and_says_so(answers: list[Any], write_specs: WriteSpecs) -> None:
    console, slept = Console(record=True, width=200, file=StringIO()), []
    away = (None, [Problem(message="the hub is busy", is_passing=True)])
    answers += [away, away, (estimate("x"), [])]
    found = run.check(
        load_files([write_specs({})]), console=console, patience_seconds=60.0, sleep=lambda one: slept.append(one)
    )
    assert (list(found), slept) == (["job-0"], [2.0, 4.0])
    assert "the hub is busy; tried again in 2 seconds" in console.export_text()


def test_what_does_not_pass_or_not_in_time_is_told(answers: list[Any], write_specs: WriteSpecs) -> None:
    loaded, slept = load_files([write_specs({})]), list[float]()
    for problem, patience, waits in (
        (Problem(message="no such model"), 60.0, []),
        (Problem(message="the hub is busy", is_passing=True), 5.0, [2.0, 3.0]),
        (Problem(message="the hub is busy", is_passing=True), 0.0, []),
    ):
        answers[:] = [(None, [problem])] * 3
        slept.clear()
        with pytest.raises(SpecError, match=problem.message):
            run.check(loaded, console=Console(quiet=True), patience_seconds=patience, sleep=slept.append)
        assert slept == waits
