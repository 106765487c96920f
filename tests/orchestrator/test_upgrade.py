"""A journal that another version has written: nothing in it ends the service or a job that trains."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from jobs.records import Job, JobProgress, JobState
from jobs.spec import JobSpec
from orchestrator.checking import Checked, Checker
from orchestrator.clusters import AdoptedWorker
from orchestrator.journal import Journal, Submission
from orchestrator.lives import Lives
from orchestrator.output_directory import OutputDirectory
from orchestrator.placement import NewWorker
from orchestrator.scheduler import Scheduler
from orchestrator.snapshot import PolicySettings
from orchestrator.submissions import Submissions
from orchestrator.takeover import remember, take_over
from tests.orchestrator.scripted import ScriptedCluster, estimate, state, step
from workers.estimate import Estimate

OLD = {name: value for name, value in asdict(estimate("x")).items() if name != "peak_bytes"}
OTHER_FORMATS: list[dict[str, Any]] = [
    OLD,
    asdict(estimate("x")),
    {"format": 1, **asdict(estimate("x"))},
    {**estimate("x").to_json(), "novelty": 1},
    {**estimate("x").to_json(), "demand": None},
    {**estimate("x").to_json(), "base_shape": {"num_parameters": 1}},
    {},
]


class Living(ScriptedCluster):
    """Has a worker that outlived the service."""

    is_alive = True

    def rebuild(self) -> None: ...

    def request_devices(self, total: int) -> None: ...

    def disconnect(self) -> None: ...

    def adopt(self, open_attempts: object) -> list[AdoptedWorker]:
        worker = NewWorker(id="w0", device=self.devices()[0], base=estimate("x").base)
        return [AdoptedWorker(worker=worker, attempts={"a": 1})]


class Checks:
    """Stands in for the process that looks into jobs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.found: list[Checked] = []
        monkeypatch.setattr(Checker, "submit", lambda _, job_id, spec: self.asked.append(job_id))
        monkeypatch.setattr(Checker, "poll", lambda _: self._take())

    def _take(self) -> list[Checked]:
        found, self.found = self.found, []
        return found


def begin(journal: Journal, old: dict[str, Any]) -> None:
    """One job trains on w0, of which an older version has written down what it takes; another one is new."""
    for job_id in "ab":
        spec = {"name": job_id, "model": {"model_name_or_path": "x"}, "datasets": [{"path": "rows.jsonl"}]}
        journal.submit([Submission(job_id=job_id, spec=JobSpec.model_validate(spec))], at=1.0)
    journal.set_estimate("a", old)
    journal.set_estimate("b", estimate("x").to_json())
    journal.start_attempt("a", worker_id="w0", reason="placed", message="so", at=2.0)
    journal.change("a", attempt=1, state=JobState.RUNNING, reason="admitted", message="so", at=3.0)
    journal.record_progress({"a": JobProgress(step=1, total_steps=4, tokens=20, attempt=1)})


def service_of(journal: Journal, root: Path, cluster: Living) -> tuple[Scheduler, Submissions]:
    files = OutputDirectory(root, name_of=lambda job: job.id, staging="service")
    submissions = Submissions(journal, files.job_files, token_budget=512, on_submitted=lambda _: None)
    scheduler = take_over(
        journal,
        files,
        cluster,
        Lives(journal, files.job_files, []),
        submissions,
        policy=PolicySettings(),
        queues=(),
        on_lost=lambda: None,
        say=lambda _: None,
    )
    return scheduler, submissions


@pytest.mark.parametrize("old", OTHER_FORMATS, ids=range(len(OTHER_FORMATS)))
def test_a_job_that_trains_goes_on_while_its_estimate_of_another_format_is_found_out_anew(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: dict[str, Any]
) -> None:
    begin(journal, old)
    checks, cluster = Checks(monkeypatch), Living()
    scheduler, submissions = service_of(journal, tmp_path, cluster)
    assert checks.asked == ["a"]
    for number in (2, 3):
        cluster.says("w0", step("a", number))
        submissions.take_checks(scheduler, cluster)
        scheduler.tick()
    assert scheduler.jobs["a"].state is JobState.RUNNING
    assert scheduler.jobs["a"].progress.step == 3
    # Nobody knows yet what it takes, so nothing is put beside it.
    assert scheduler.jobs["b"].state is JobState.PENDING
    checks.found = [Checked(job_id="a", estimate=estimate("x"))]
    submissions.take_checks(scheduler, cluster)
    scheduler.tick()
    assert cluster.calls == [("assign", "w0", ("b",))]
    assert Estimate.from_json(journal.job("a").estimate or {}) == estimate("x")


def test_a_job_that_trains_and_would_be_refused_now_trains_to_its_end(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(journal, OLD)
    checks, cluster = Checks(monkeypatch), Living()
    scheduler, submissions = service_of(journal, tmp_path, cluster)
    checks.found = [Checked(job_id="a", estimate=None, problems=("its file is gone",))]
    submissions.take_checks(scheduler, cluster)
    scheduler.tick()
    assert scheduler.jobs["a"].state is JobState.RUNNING
    cluster.says("w0", state("a", JobState.PENDING))
    scheduler.tick()
    submissions.take_checks(scheduler, cluster)
    assert (journal.job("a").state, journal.job("a").message) == (JobState.FAILED, "its file is gone")


def test_what_a_scheduler_of_another_version_remembers_is_left_out(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(journal, estimate("x").to_json())
    Checks(monkeypatch)
    journal.put_setting("scheduler_memory", {"format": 99, "fair_shares": [1, 2], "num_preemptions": "many"})
    journal.put_setting("unpublished", {"a": {"attempt": 1, "place": "elsewhere"}})
    scheduler, _ = service_of(journal, tmp_path, Living())
    scheduler.tick()
    remember(journal, scheduler.memory)
    again, _ = service_of(journal, tmp_path, Living())
    assert json.loads(json.dumps(again.memory)) == json.loads(json.dumps(scheduler.memory))


def test_what_waits_to_be_published_is_read_whatever_another_version_has_added(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(journal, estimate("x").to_json())
    Checks(monkeypatch)
    kept = {"attempt": 1, "staged": str(tmp_path / "nowhere"), "reason": "finished", "message": "so", "novelty": 1}
    journal.put_setting("unpublished", {"a": kept})
    scheduler, _ = service_of(journal, tmp_path, Living())
    assert not list(scheduler.neighbours(Job(id="b", spec=scheduler.jobs["b"].spec, worker_id="w0")))
    assert [job.id for job in scheduler._roster.trained] == []
