"""Going on from the newest good checkpoint, putting bad ones aside, and never deleting the last."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.checkpoints import CheckpointMismatchError
from jobs.records import CheckpointRecord
from orchestrator.job_files import JobFiles
from tests.workers.snapshots import IDENTITY, assert_same, make_snapshot
from workers import publishing
from workers.checkpoint import save, verify
from workers.restoring import load_newest
from workers.retention import quarantine, superseded


def save_steps(folder: Path, *steps: int) -> list[CheckpointRecord]:
    """One checkpoint for each step; records newest first."""
    return [save(make_snapshot(step=step, seed=step), folder) for step in steps][::-1]


def spoil(folder: Path, record: CheckpointRecord, file: str = "optimizer.safetensors") -> None:
    path = folder / record.folder / file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_the_newest_is_taken(tmp_path: Path) -> None:
    records = save_steps(tmp_path, 2, 4, 6)
    restored = load_newest(tmp_path, records, IDENTITY)
    assert restored.snapshot is not None
    assert_same(restored.snapshot, make_snapshot(step=6, seed=6))
    assert restored.record == records[0]
    assert restored.quarantined == ()


def test_newest_is_what_the_journal_says_not_the_highest_step(tmp_path: Path) -> None:
    """An attempt that had to go back a long way saves lower steps than the one before it."""
    (higher,) = save_steps(tmp_path, 9)
    lower = save(make_snapshot(step=2, attempt=4), tmp_path)
    assert load_newest(tmp_path, [lower, higher], IDENTITY).record == lower


def test_bad_ones_are_put_aside_and_the_one_before_is_taken(tmp_path: Path) -> None:
    records = save_steps(tmp_path, 2, 4, 6)
    spoil(tmp_path, records[0])
    (tmp_path / records[1].folder / "state.json").unlink()
    restored = load_newest(tmp_path, records, IDENTITY)
    assert restored.snapshot is not None
    assert_same(restored.snapshot, make_snapshot(step=2, seed=2))
    assert [one.record for one in restored.quarantined] == records[:2]
    assert [one.error.file for one in restored.quarantined] == ["optimizer.safetensors", "state.json"]
    for one in restored.quarantined:
        assert one.moved_to == tmp_path / "quarantine" / one.record.folder
        assert one.moved_to.is_dir()
        assert one.record.folder in str(one.error)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["quarantine", records[2].folder]


def test_nothing_good_is_said_and_not_an_error(tmp_path: Path) -> None:
    records = save_steps(tmp_path, 2, 4)
    for record in records:
        spoil(tmp_path, record, "manifest.json")
    restored = load_newest(tmp_path, records, IDENTITY)
    assert restored.snapshot is None
    assert restored.record is None
    assert len(restored.quarantined) == 2
    assert load_newest(tmp_path, [], IDENTITY).quarantined == ()


def test_one_that_is_gone_is_told_and_nothing_is_moved(tmp_path: Path) -> None:
    records = save_steps(tmp_path, 2, 4)
    (tmp_path / records[0].folder).rename(tmp_path.parent / "away")
    restored = load_newest(tmp_path, records, IDENTITY)
    assert restored.record == records[1]
    assert restored.quarantined[0].moved_to is None
    assert "is missing" in str(restored.quarantined[0].error)
    assert not (tmp_path / "quarantine").exists()


def test_whole_ones_of_another_spec_stay_where_they_are(tmp_path: Path) -> None:
    records = save_steps(tmp_path, 2, 4)
    with pytest.raises(CheckpointMismatchError, match="sha256 of the spec"):
        load_newest(tmp_path, records, replace(IDENTITY, spec_sha256="0" * 64))
    for record in records:
        verify(tmp_path, record)


def test_a_foreign_one_is_put_aside_even_though_it_is_whole(tmp_path: Path) -> None:
    """The journal says that this job's checkpoint lies there; another job's does."""
    good = save(make_snapshot(step=2), tmp_path)
    foreign = save(make_snapshot(step=4, job_id="job-2"), tmp_path)
    restored = load_newest(tmp_path, [replace(foreign, job_id="job-1"), good], IDENTITY)
    assert restored.record == good
    assert "has job job-2, not job-1" in str(restored.quarantined[0].error)


def test_one_that_cannot_be_moved_does_not_keep_the_job_from_going_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = save_steps(tmp_path, 2, 4)
    spoil(tmp_path, records[0])

    def refuse(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", refuse)
    restored = load_newest(tmp_path, records, IDENTITY)
    assert restored.record == records[1]
    assert restored.quarantined[0].moved_to is None


def test_quarantine_twice_under_one_name(tmp_path: Path) -> None:
    for number in range(2):
        save(make_snapshot(), tmp_path)
        moved = quarantine(tmp_path / "step-000007.00-a3")
        assert moved == tmp_path / "quarantine" / ("step-000007.00-a3" + (".1" if number else ""))


@pytest.mark.parametrize(("keep", "left"), [(3, 3), (2, 2), (1, 1), (0, 1), (-5, 1), (99, 4)])
def test_as_many_as_wanted_are_kept_and_the_newest_always(tmp_path: Path, keep: int, left: int) -> None:
    folder = tmp_path / "checkpoints" / "job-1"
    records = save_steps(folder, 1, 2, 3, 4)
    old = superseded(records, keep)
    assert old == tuple(records[left:])
    JobFiles(tmp_path).prune("job-1", old)
    assert {path.name for path in folder.iterdir()} == {record.folder for record in records[:left]}
    for record in records[:left]:
        verify(folder, record)
    assert superseded(records[:left], keep) == superseded([], keep) == ()


def test_what_cannot_be_deleted_does_not_stop_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "checkpoints" / "job-1"
    records = save_steps(folder, 1, 2, 3)
    files = JobFiles(tmp_path)

    def refuse(target: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(target))

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "discard", refuse)
        files.prune("job-1", records[1:])
    assert files.sweep("job-1", records[:1]) == sorted(record.folder for record in records[1:])
    verify(folder, records[0])
