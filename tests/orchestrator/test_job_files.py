"""What jobs leave behind, in a folder and in a store, through one class."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.errors import StoreError, StoreUnavailableError
from jobs.records import CheckpointRecord, Job
from jobs.spec import JobSpec
from orchestrator.job_files import JobFiles
from tests.stores import Faults, claimed, content_of, rewrite
from workers.object_store import ObjectStore
from workers.storage import Storage

FILES = {"adapter_model.safetensors": b"weights" * 1000, "adapter_config.json": b"{}"}


def job_of(attempt: int = 1) -> Job:
    spec = {"name": "job-1", "model": {"model_name_or_path": "tiny"}, "datasets": [{"path": "rows.jsonl"}]}
    return Job(id="job-1.2", spec=JobSpec.model_validate(spec), attempt=attempt)


def staged_in(folder: Path, *, note: str = "") -> Path:
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    (folder / "manifest.json").write_text(json.dumps({"files": hashes, "note": note}))
    return folder


def uploaded(uri: str, tmp_path: Path, *, attempt: int = 1, note: str = "") -> str:
    folder = staged_in(tmp_path / "staging" / f"{attempt}{note}", note=note)
    artifact = Storage(claimed(uri)).keep_artifact(folder, "job-1.2", attempt)
    assert not folder.exists()
    return artifact


def record_of(step: int) -> CheckpointRecord:
    return CheckpointRecord(
        job_id="job-1.2", attempt=1, step=step, micro_batch=0, folder=f"step-{step}-a1",
        manifest_sha256="0" * 64, size_bytes=1,
    )  # fmt: skip


def test_on_this_machine_publishing_is_a_rename_to_where_it_always_was(tmp_path: Path) -> None:
    files = JobFiles(tmp_path)
    (tmp_path / "artifacts").mkdir()
    staged = staged_in(tmp_path / "artifacts" / ".staging" / "w0" / "job-1.2")
    inode = (staged / "manifest.json").stat().st_ino
    published = files.publish(job_of(), str(staged))
    assert published == str(tmp_path / "artifacts" / "job-1")
    assert (Path(published) / "manifest.json").stat().st_ino == inode
    assert not staged.exists()
    assert not (tmp_path / "loraloom-store.json").exists()


@pytest.fixture(params=["here", "file", "memory", "s3"])
def published(request: pytest.FixtureRequest, make_root: Callable[[str], str], tmp_path: Path) -> tuple[JobFiles, str]:
    if request.param == "here":
        files = JobFiles(tmp_path / "out")
        (tmp_path / "out" / "artifacts").mkdir(parents=True)
        return files, files.publish(job_of(), str(staged_in(tmp_path / "staging")))
    uri = make_root(request.param)
    files = JobFiles(tmp_path / "out", uri)
    return files, files.publish(job_of(), uploaded(uri, tmp_path))


def test_what_is_published_is_verified_described_and_read(published: tuple[JobFiles, str]) -> None:
    files, artifact = published
    assert set(files.verify(artifact)["files"]) == set(FILES)
    found = files.describe(artifact)
    assert {name: found.files[name].size_bytes for name in FILES} == {
        name: len(content) for name, content in FILES.items()
    }
    assert found.size_bytes == sum(entry.size_bytes for entry in found.files.values())
    with files.open(artifact, "manifest.json") as stream:
        assert hashlib.sha256(stream.read()).hexdigest() == found.manifest_sha256
    with files.open(artifact, "adapter_model.safetensors") as stream:
        assert stream.read() == FILES["adapter_model.safetensors"]


@pytest.mark.parametrize(
    "name", ["../job-1/manifest.json", "/etc/passwd", "", ".", "nothing", "a\0", "x/../manifest.json"]
)
def test_a_download_leads_nowhere_else(published: tuple[JobFiles, str], name: str) -> None:
    files, artifact = published
    with pytest.raises(FileNotFoundError):
        files.open(artifact, name)


@pytest.mark.parametrize("scheme", ["memory", "s3"])
def test_mutations_in_the_store_are_never_published(
    make_root: Callable[[str], str], scheme: str, tmp_path: Path
) -> None:
    uri = make_root(scheme)
    staged = uploaded(uri, tmp_path)
    store = ObjectStore(uri)
    key = store.key_of(staged)
    files = JobFiles(tmp_path, uri)
    forged = json.dumps({"files": {}}).encode()
    for name in (*FILES, "manifest.json"):
        content = content_of(store, key, name)
        for other in (content[:-1], content + b"\0", bytes([content[0] ^ 1]) + content[1:], None, forged):
            rewrite(store, key, name, other)
            with pytest.raises(ValueError, match=rf"{name} (is missing|is not what was written)"):
                files.publish(job_of(), staged)
            rewrite(store, key, name, content)
    assert files.publish(job_of(), staged) == staged


def test_what_is_not_this_attempts_is_not_published(make_root: Callable[[str], str], tmp_path: Path) -> None:
    uri = make_root("memory")
    files = JobFiles(tmp_path, uri)
    staged = uploaded(uri, tmp_path)
    for job, place in (
        (job_of(attempt=2), staged),
        (replace_id(job_of(), "other"), staged),
        (job_of(), staged.replace("memory://", "memory://x")),
        (job_of(), f"{uri}/artifacts/job-1.2/a1-short"),
        (job_of(), str(tmp_path)),
    ):
        with pytest.raises(ValueError, match=r"is not of attempt|is not below"):
            files.publish(job, place)


def replace_id(job: Job, job_id: str) -> Job:
    return replace(job, id=job_id)


def test_a_store_that_is_away_says_nothing_of_what_is_in_it(make_root: Callable[[str], str], tmp_path: Path) -> None:
    uri = make_root("memory")
    staged = uploaded(uri, tmp_path)
    files = JobFiles(tmp_path, uri)
    files._store._sleep = lambda _: None
    assert files._store._fs is not None
    faults = Faults(files._store)
    for error, kind in ((TimeoutError(), StoreUnavailableError), (PermissionError(), StoreError)):
        faults.fails = lambda *_, error=error: error
        with pytest.raises(kind):
            files.publish(job_of(), staged)
    faults.fails = lambda *_: FileNotFoundError("no such bucket")
    with pytest.raises(StoreError, match="there is no store"):
        files.publish(job_of(), staged)
    faults.heal()
    assert files.publish(job_of(), staged) == staged


@pytest.mark.parametrize("place", ["here", "file", "memory", "s3"])
def test_checkpoints_that_the_journal_does_not_know_go(
    make_root: Callable[[str], str], place: str, tmp_path: Path
) -> None:
    uri = make_root(place) if place != "here" else None
    files = JobFiles(tmp_path / "out", uri)
    records = [record_of(step) for step in (4, 3, 2, 1)]
    for record in records:
        if uri is not None:
            claimed(uri).upload(staged_in(tmp_path / record.folder), f"checkpoints/job-1.2/{record.folder}")
        else:
            staged_in(tmp_path / "out" / "checkpoints" / "job-1.2" / record.folder)
    under_way = files.prune("job-1.2", records[3:])
    if under_way is not None:
        under_way.result(60)
    assert files._store.folders("checkpoints/job-1.2") == [f"step-{step}-a1" for step in (2, 3, 4)]
    files.prune("job-1.2", [record_of(99)])
    assert files.sweep("job-1.2", records[:1]) == ["step-2-a1", "step-3-a1"]
    assert files.sweep("nobody", []) == []
    assert files._store.folders("checkpoints/job-1.2") == ["step-4-a1"]
    files.close()


@pytest.mark.parametrize("place", ["here", "file", "memory", "s3"])
def test_of_a_job_that_has_ended_goes_what_is_named_or_all_and_nothing_of_others(
    make_root: Callable[[str], str], place: str, tmp_path: Path
) -> None:
    uri = make_root(place) if place != "here" else None
    files = JobFiles(tmp_path / "out", uri)
    (tmp_path / "out" / "artifacts").mkdir(parents=True)

    def left(job: str) -> list[str]:
        store = files._store
        return [name for folder in ("", "/quarantine") for name in store.folders(f"checkpoints/{job}{folder}")]

    for job in ("job-1.2", "other"):
        for name in ("step-1-a1", "step-2-a1", "quarantine/step-3-a1"):
            if uri is not None:
                claimed(uri).upload(staged_in(tmp_path / job / name), f"checkpoints/{job}/{name}")
            # With a store these are a worker's copies.
            staged_in(tmp_path / "out" / "checkpoints" / job / name)
    staged = uploaded(uri, tmp_path) if uri is not None else str(staged_in(tmp_path / "staging"))
    artifact = files.publish(job_of(), staged)
    files.delete("job-1.2", folders=["step-1-a1", "step-9-a1"])
    assert left("job-1.2") == ["quarantine", "step-2-a1", "step-3-a1"]
    assert not (tmp_path / "out/checkpoints/job-1.2/step-1-a1").exists()
    files.delete("job-1.2")
    assert left("job-1.2") == []
    assert not (tmp_path / "out/checkpoints/job-1.2").exists()
    assert left("other") == ["quarantine", "step-1-a1", "step-2-a1", "step-3-a1"]
    files.verify(artifact)
    files.delete("job-1.2", artifact=artifact)
    files.delete("job-1.2", artifact=artifact)
    with pytest.raises(ValueError, match=r"manifest.json"):
        files.verify(artifact)
    if uri is not None:
        with pytest.raises(StoreError, match="delete it there yourself"):
            files.delete("job-1.2", artifact=artifact.replace(uri, make_root(place)))


def test_adapters_of_attempts_that_were_lost_go_and_the_journaled_one_stays(
    make_root: Callable[[str], str], scheme: str, tmp_path: Path
) -> None:
    uri = make_root(scheme)
    lost, kept = (uploaded(uri, tmp_path, attempt=attempt) for attempt in (1, 2))
    files = JobFiles(tmp_path, uri)
    assert files.sweep("job-1.2", [], artifact=kept) == [lost.rpartition("/")[2]]
    files.verify(kept)
    files.sweep("job-1.2", [])
    with pytest.raises(ValueError, match=r"manifest\.json is missing"):
        files.verify(kept)


def test_two_owners_do_not_share_a_root(make_root: Callable[[str], str], tmp_path: Path) -> None:
    uri = make_root("memory")
    JobFiles(tmp_path, uri).claim("one")
    JobFiles(tmp_path, uri).claim("one")
    with pytest.raises(StoreError, match="is the store of one, not of another"):
        JobFiles(tmp_path, uri).claim("another")
    JobFiles(tmp_path).claim("another")
