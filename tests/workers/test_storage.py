"""What is in the store is believed as what is on the disk is: after every byte has been checked, or not at all."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.checkpoints import CheckpointMismatchError
from jobs.errors import StoreError, StoreUnavailableError
from jobs.records import CheckpointRecord
from tests.stores import Faults, claimed, content_of, rewrite
from tests.workers.snapshots import IDENTITY, assert_same, make_snapshot
from workers.checkpoint import save
from workers.object_store import ObjectStore
from workers.restoring import load_newest
from workers.storage import Storage, artifact_name, parse_artifact_name

NUM_MUTATIONS = {"memory": 200, "file": 40, "s3": 12}


def kept(store: ObjectStore, scratch: Path, *steps: int) -> list[CheckpointRecord]:
    """A checkpoint for each step, in the store; records newest first."""
    records = []
    for step in steps:
        record = save(make_snapshot(step=step, seed=step, half_done=True), scratch)
        Storage(store).keep(record, scratch)
        records.insert(0, record)
    return records


def key_of(record: CheckpointRecord) -> str:
    return f"checkpoints/job-1/{record.folder}"


def test_another_machine_goes_on_from_it(make_root: Callable[[str], str], scheme: str, tmp_path: Path) -> None:
    store = claimed(make_root(scheme))
    records = kept(store, tmp_path / "here", 2, 4)
    # Of what the store has, the newest is kept here too.
    assert [path.name for path in (tmp_path / "here").iterdir()] == [records[0].folder]
    there = Storage(ObjectStore(store.uri))
    restored = load_newest(tmp_path / "there", records, IDENTITY, there)
    assert restored.record == records[0]
    assert restored.snapshot is not None
    assert_same(restored.snapshot, make_snapshot(step=4, seed=4, half_done=True))
    assert not there.fetch(records[0], tmp_path / "there")
    there.clear(tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == []


def mutate(content: bytes, draw: random.Random) -> bytes | None:
    """Another content, or none."""
    place = draw.randrange(len(content))
    return draw.choice(
        [
            content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :],
            content[:place],
            content + b"\0",
            None,
        ]
    )


def test_mutations_are_never_accepted_and_the_one_before_is_taken(
    make_root: Callable[[str], str], scheme: str, tmp_path: Path
) -> None:
    draw = random.Random(7)
    store = claimed(make_root(scheme))
    newest, before = kept(store, tmp_path / "here", 2, 4)
    files = {name: content_of(store, key_of(newest), name) for name in store.files(key_of(newest))}
    names = sorted(files)
    storage = Storage(ObjectStore(store.uri))
    for number in range(NUM_MUTATIONS[scheme]):
        name = names[number % len(names)]
        rewrite(store, key_of(newest), name, mutate(files[name], draw))
        restored = load_newest(tmp_path / "there", [newest, before], IDENTITY, storage)
        assert restored.record == before
        assert restored.snapshot is not None
        (bad,) = restored.quarantined
        assert bad.record == newest
        # What the user is told names the store's copy, where it went, and is no scratch folder's business.
        assert store.uri_of(key_of(newest)) in str(bad.error)
        assert str(bad.moved_to).startswith(store.uri_of("checkpoints/job-1/quarantine/"))
        assert [path.name for path in (tmp_path / "there").iterdir()] == [before.folder]
        assert store.files(key_of(newest)) == {}
        store.delete(store.key_of(str(bad.moved_to)))
        for each, content in files.items():
            rewrite(store, key_of(newest), each, content) if scheme != "file" else put(store, newest, each, content)
    assert load_newest(tmp_path / "there", [newest, before], IDENTITY, storage).record == newest


@pytest.mark.parametrize("name", ["other.safetensors", "odd name", ".hidden", "%2e%2e"])
def test_what_does_not_belong_there_is_put_aside_with_the_rest(
    make_root: Callable[[str], str], scheme: str, tmp_path: Path, name: str
) -> None:
    store = claimed(make_root(scheme))
    newest, before = kept(store, tmp_path / "here", 2, 4)
    store._fs.pipe_file(f"{store._path(key_of(newest))}/{name}", b"")
    restored = load_newest(tmp_path / "there", [newest, before], IDENTITY, Storage(store))
    assert restored.record == before
    assert "does not belong there" in str(restored.quarantined[0].error)
    assert store.files(key_of(newest)) == {}
    assert name in store.files(store.key_of(str(restored.quarantined[0].moved_to)))


def put(store: ObjectStore, record: CheckpointRecord, name: str, content: bytes) -> None:
    path = Path(store._path(key_of(record), name))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


def test_a_bad_copy_on_the_scratch_disk_is_fetched_anew(make_root: Callable[[str], str], tmp_path: Path) -> None:
    store = claimed(make_root("memory"))
    (record,) = kept(store, tmp_path, 4)
    for spoil in (lambda path: path.write_bytes(b"x"), lambda path: path.unlink()):
        spoil(tmp_path / record.folder / "optimizer.safetensors")
        restored = load_newest(tmp_path, [record], IDENTITY, Storage(store))
        assert restored.record == record
        assert restored.quarantined == ()


def test_one_that_was_spoiled_on_its_way_is_fetched_once_more(make_root: Callable[[str], str], tmp_path: Path) -> None:
    store = claimed(make_root("memory"))
    (record,) = kept(store, tmp_path / "here", 4)
    target = tmp_path / "there" / record.folder
    download, spoiled = store.download, []

    def spoiling(key: str, folder: Path, *, size_bytes: int) -> None:
        download(key, folder, size_bytes=size_bytes)
        if not spoiled:
            spoiled.append(target)
            content = (target / "state.json").read_bytes()
            (target / "state.json").write_bytes(bytes([content[0] ^ 1]) + content[1:])

    store.download = spoiling  # type: ignore[method-assign]
    restored = load_newest(tmp_path / "there", [record], IDENTITY, Storage(store))
    assert spoiled
    assert restored.record == record


def test_one_that_is_gone_is_told_and_the_one_before_is_taken(
    make_root: Callable[[str], str], scheme: str, tmp_path: Path
) -> None:
    store = claimed(make_root(scheme))
    records = kept(store, tmp_path / "here", 2, 4)
    store.delete(key_of(records[0]))
    restored = load_newest(tmp_path / "there", records, IDENTITY, Storage(store))
    assert restored.record == records[1]
    assert "is missing" in str(restored.quarantined[0].error)
    assert restored.quarantined[0].moved_to is None


def test_a_store_that_is_not_there_or_cannot_be_reached_condemns_nothing(
    make_root: Callable[[str], str], tmp_path: Path
) -> None:
    store = claimed(make_root("memory"))
    records = kept(store, tmp_path / "here", 2, 4)
    with pytest.raises(StoreError, match="there is no store"):
        load_newest(tmp_path / "there", records, IDENTITY, Storage(ObjectStore(make_root("memory"))))
    faults = Faults(store)
    for error, kind in ((TimeoutError(), StoreUnavailableError), (PermissionError(), StoreError)):
        faults.fails = lambda *_, error=error: error
        with pytest.raises(kind):
            load_newest(tmp_path / "there", records, IDENTITY, Storage(store))
    faults.heal()
    assert load_newest(tmp_path / "there", records, IDENTITY, Storage(store)).record == records[0]


def test_whole_ones_of_another_spec_stay_where_they_are(make_root: Callable[[str], str], tmp_path: Path) -> None:
    store = claimed(make_root("memory"))
    records = kept(store, tmp_path / "here", 2, 4)
    with pytest.raises(CheckpointMismatchError, match="sha256 of the spec"):
        load_newest(tmp_path / "there", records, replace(IDENTITY, spec_sha256="0" * 64), Storage(store))
    assert all(store.files(key_of(record)) for record in records)


def test_one_that_could_not_be_uploaded_is_not_kept_here_either_and_can_be_saved_again(
    make_root: Callable[[str], str], tmp_path: Path
) -> None:
    store = claimed(make_root("memory"))
    faults = Faults(store)
    faults.fails = lambda number, request, name: PermissionError() if request == "put_file" else None
    with pytest.raises(StoreError):
        kept(store, tmp_path, 4)
    assert list(tmp_path.iterdir()) == []
    faults.heal()
    (record,) = kept(store, tmp_path, 4)
    assert load_newest(tmp_path / "there", [record], IDENTITY, Storage(store)).record == record


def test_names_of_artifacts() -> None:
    assert parse_artifact_name(artifact_name(12, "a" * 64)) == (12, "a" * 64)
    for name in ("a1", "a-" + "a" * 64, "a1-" + "g" * 64, "x1-" + "a" * 64, "a1-" + "a" * 64 + "/x"):
        assert parse_artifact_name(name) is None
