"""Whoever dies between a finished adapter and the journal's row of it leaves a job that the next one lets SUCCEED."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.artifacts import verify
from jobs.records import Job, JobProgress, JobState
from jobs.spec import JobSpec
from orchestrator import published_folders
from orchestrator.adoption import adopt
from orchestrator.job_files import JobFiles
from orchestrator.journal import Journal, Submission
from orchestrator.lives import Lives
from orchestrator.readoption import readopt
from tests.stores import claimed, rewrite
from workers.object_store import ObjectStore
from workers.storage import Storage

WEIGHTS = "adapter_model.safetensors"


class Died(BaseException):
    """The process is gone: nothing that would clean up after an error does so."""


def spec_of(r: int = 8) -> JobSpec:
    return JobSpec.model_validate(
        {"name": "a", "model": {"model_name_or_path": "tiny"}, "datasets": [{"path": "rows.jsonl"}], "lora": {"r": r}}
    )


def finished(folder: Path, *, job_id: str = "a", spec: JobSpec | None = None, weights: bytes = b"weights") -> Path:
    folder.mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(weights)
    manifest = {
        "job": {"id": job_id},
        "spec_sha256": (spec or spec_of()).spec_sha256(),
        "metrics": {"step": 7, "train_loss": 0.5},
        "files": {WEIGHTS: hashlib.sha256(weights).hexdigest()},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


class Service:
    """What of a service has to do with the end of one job, in one life after the other."""

    def __init__(self, root: Path, storage_uri: str | None = None) -> None:
        self.root = root
        self.staged = root / "artifacts/.staging/service/w0/a"
        self.target = root / "artifacts/a"
        self.files = JobFiles(root, storage_uri, name_of=lambda job: job.id)
        self.published: list[str] = []
        with self.journal() as journal:
            journal.submit([Submission(job_id="a", spec=spec_of())], at=1.0)
            journal.start_attempt("a", worker_id="w0", reason="placed", message="so", at=2.0)
            journal.change("a", attempt=1, state=JobState.RUNNING, reason="admitted", message="so", at=3.0)
            journal.record_progress({"a": JobProgress(step=5, total_steps=7, tokens=50)})

    def journal(self) -> Journal:
        return Journal(self.root / "journal.db")

    def publish(self, staged: str) -> None:
        """As the scheduler does once the worker has reported."""
        with self.journal() as journal:
            job = Job(id="a", spec=spec_of(), state=JobState.RUNNING, worker_id="w0", attempt=1)
            lives = Lives(journal, self.files, [])
            lives.succeed(job, "finished", "so", self.files.publish(job, staged))

    def come_back(self) -> None:
        """As the next service begins, with no worker left."""
        with self.journal() as journal:
            readopt(
                journal,
                Nobody(),
                at=9.0,
                adopt=lambda job, notes: adopt(
                    journal,
                    self.files,
                    job,
                    staging=self.root / "artifacts/.staging/service",
                    at=9.0,
                    note=notes.append,
                ),
            )

    def job(self) -> Any:
        with self.journal() as journal:
            return journal.job("a")


class Nobody:
    def adopt(self, open_attempts: object) -> list[Any]:
        return []


def dies_at(monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    def die(*_: object, **__: object) -> Any:
        raise Died

    match point:
        case "before the rename":
            monkeypatch.setattr(published_folders.os, "rename", die)
        case "before it is flushed":
            monkeypatch.setattr(published_folders, "fsync", die)
        case "before it is described":
            monkeypatch.setattr(JobFiles, "describe", die)
        case "before the commit":
            monkeypatch.setattr(Journal, "commit_artifact", die)
        case _:
            raise AssertionError(point)


def must_have_succeeded(service: Service, artifact: str) -> None:
    job = service.job()
    assert (job.state, job.artifact, job.attempt, job.attempt_is_open) == (JobState.SUCCEEDED, artifact, 1, False)
    assert (job.progress.step, job.progress.total_steps, job.progress.tokens) == (7, 7, 50)
    assert job.num_charged == 0
    with service.journal() as journal:
        found = journal.artifact("a")
        assert found is not None
        assert found.manifest_sha256 == service.files.describe(artifact).manifest_sha256


@pytest.mark.parametrize(
    "point", ["before the rename", "before it is flushed", "before it is described", "before the commit"]
)
def test_at_every_point_of_publishing_a_death_leaves_an_adapter_that_is_adopted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    service = Service(tmp_path)
    finished(service.staged)
    with monkeypatch.context() as patched:
        dies_at(patched, point)
        with pytest.raises(Died):
            service.publish(str(service.staged))
    service.come_back()
    must_have_succeeded(service, str(service.target))
    assert verify(service.target)["job"]["id"] == "a"
    assert not service.staged.exists()


@pytest.mark.parametrize("point", ["before it is described", "before the commit"])
def test_a_death_after_the_upload_leaves_an_adapter_in_the_store_that_is_adopted(
    make_root: Callable[[str], str], scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    uri = make_root(scheme)
    service = Service(tmp_path, uri)
    # That of an attempt before this one is nobody's.
    Storage(claimed(uri)).keep_artifact(finished(tmp_path / "old", weights=b"old"), "a", 0)
    staged = Storage(ObjectStore(uri)).keep_artifact(finished(tmp_path / "new"), "a", 1)
    with monkeypatch.context() as patched:
        dies_at(patched, point)
        with pytest.raises(Died):
            service.publish(staged)
    service.come_back()
    must_have_succeeded(service, staged)


def test_a_damaged_adapter_in_the_store_is_set_aside_and_the_job_goes_on(
    make_root: Callable[[str], str], scheme: str, tmp_path: Path
) -> None:
    uri = make_root(scheme)
    service = Service(tmp_path, uri)
    store = claimed(uri)
    staged = Storage(store).keep_artifact(finished(tmp_path / "new"), "a", 1)
    rewrite(store, store.key_of(staged), WEIGHTS, b"Weights")
    service.come_back()
    job = service.job()
    assert (job.state, job.reason) == (JobState.PENDING, "worker_lost")
    assert f"{WEIGHTS} is not what was written" in job.message
    assert store.folders("artifacts/a/quarantine") == [staged.rpartition("/")[2]]


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("damaged", f"{WEIGHTS} is not what was written"),
        ("torn", f"{WEIGHTS} is missing"),
        ("of another spec", "it is an adapter of another spec"),
        ("of another job", "it is an adapter of job b, not of a"),
        ("a file", "manifest.json cannot be read"),
    ],
)
def test_what_is_at_the_place_and_is_not_the_jobs_adapter_is_quarantined_and_said_so(
    tmp_path: Path, what: str, why: str
) -> None:
    service = Service(tmp_path)
    match what:
        case "of another spec":
            finished(service.target, spec=spec_of(r=4))
        case "of another job":
            finished(service.target, job_id="b")
        case "a file":
            service.target.parent.mkdir()
            service.target.write_bytes(b"")
        case _:
            finished(service.target)
            (service.target / WEIGHTS).write_bytes(b"Weights")
            if what == "torn":
                (service.target / WEIGHTS).unlink()
    service.come_back()
    job = service.job()
    assert (job.state, job.reason, job.num_charged) == (JobState.PENDING, "worker_lost", 0)
    assert why in job.message
    assert str(service.root / "artifacts/.quarantine/a") in job.message
    assert not service.target.exists()
    finished(service.staged)
    service.files.publish(Job(id="a", spec=spec_of(), attempt=2), str(service.staged))
    assert verify(service.target)["job"]["id"] == "a"


def test_publishing_meets_the_jobs_own_whole_adapter_keeps_it_and_drops_the_second(tmp_path: Path) -> None:
    service = Service(tmp_path)
    finished(service.target, weights=b"first")
    finished(service.staged, weights=b"second")
    service.publish(str(service.staged))
    assert (service.target / WEIGHTS).read_bytes() == b"first"
    assert not service.staged.exists()
    assert service.job().state is JobState.SUCCEEDED


def test_publishing_meets_a_damaged_adapter_quarantines_it_and_says_so(tmp_path: Path) -> None:
    service = Service(tmp_path)
    finished(service.target, weights=b"first")
    (service.target / WEIGHTS).write_bytes(b"rotten")
    finished(service.staged, weights=b"second")
    notes: list[str] = []
    job = Job(id="a", spec=spec_of(), attempt=1)
    service.files.publish(job, str(service.staged), note=notes.append)
    assert (service.target / WEIGHTS).read_bytes() == b"second"
    [note] = notes
    assert f"{WEIGHTS} is not what was written" in note
    assert (tmp_path / "artifacts/.quarantine/a" / WEIGHTS).read_bytes() == b"rotten"


@pytest.mark.parametrize("change", [{"job_id": "b"}, {"spec": spec_of(r=4)}])
def test_a_staged_adapter_that_is_not_the_jobs_is_not_adopted(tmp_path: Path, change: dict[str, Any]) -> None:
    service = Service(tmp_path)
    finished(service.staged, **change)
    service.come_back()
    assert service.job().state is JobState.PENDING
    assert not service.target.exists()


def test_a_disk_that_cannot_be_read_ends_neither_the_service_nor_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(tmp_path)
    finished(service.staged)

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(published_folders.os, "rename", broken)
    service.come_back()
    job = replace(service.job())
    assert job.state is JobState.PENDING
    assert "Input/output error" in job.message
