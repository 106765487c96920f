"""A checkpoint is there whole or not at all, wherever the power, the process or the disk gives up."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from jobs.checkpoints import DiskFullError
from jobs.records import CheckpointRecord
from tests.workers.disk import Disk, PowerCut
from tests.workers.snapshots import IDENTITY, assert_same, make_snapshot
from workers import publishing
from workers.checkpoint import load, save, verify
from workers.publishing import discard, free_bytes, move_aside, published, sweep, write_file
from workers.retention import PUBLISHED

OLD = make_snapshot(step=5, half_done=True)
NEW = make_snapshot(step=6, seed=1, half_done=True)


@pytest.fixture
def num_calls(tmp_path_factory: pytest.TempPathFactory) -> int:
    """Calls that one save takes where the folder is there already."""
    folder = tmp_path_factory.mktemp("counted")
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch)
        save(NEW, folder)
        return len(disk.history)


def each_failure(tmp_path: Path, num_calls: int) -> Iterator[tuple[int, Path, CheckpointRecord]]:
    for number in range(num_calls):
        folder = tmp_path / str(number)
        yield number, folder, save(OLD, folder)


def test_power_cut_at_every_step(tmp_path: Path, num_calls: int) -> None:
    """Nothing that runs afterwards may be needed for what is on disk to be right."""
    whole = 0
    assert num_calls > 25
    for number, folder, old in each_failure(tmp_path, num_calls):
        with pytest.MonkeyPatch.context() as patch:
            Disk(patch).fail_at(number, PowerCut)
            with pytest.raises(PowerCut):
                save(NEW, folder)
        # What another process finds: the old one, and the new one whole or not.
        assert_same(load(folder, old, IDENTITY), OLD)
        names = {path.name for path in folder.iterdir() if path.name.startswith("step-")}
        if names > {old.folder}:
            new = save(NEW, tmp_path / f"{number}-again")
            assert names == {old.folder, new.folder}
            assert_same(load(folder, new, IDENTITY), NEW)
            whole += 1
        sweep(folder, known=[old.folder], prefix=PUBLISHED)
        assert [path.name for path in folder.iterdir()] == [old.folder]
        save(NEW, folder)
    # Those of the last flush: open, fsync, close.
    assert whole == 3


@pytest.mark.parametrize("number_of_error", [errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
@pytest.mark.parametrize("lasting", [False, True])
def test_disk_full_at_every_step(tmp_path: Path, num_calls: int, number_of_error: int, lasting: bool) -> None:
    for number, folder, old in each_failure(tmp_path, num_calls):
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch)
            disk.fail_at(number, lambda: OSError(number_of_error, os.strerror(number_of_error)), lasting=lasting)
            with pytest.raises(DiskFullError) as caught:
                save(NEW, folder)
            disk.heal()
        assert caught.value.reason == "disk_full"
        assert caught.value.needed_bytes is not None
        assert NEW.tensor_bytes < caught.value.needed_bytes < NEW.tensor_bytes + 10**5
        assert caught.value.free_bytes is not None
        assert re.search(r"step-000006.02-a3: it needs [\d,]+ bytes, [\d,]+ bytes are free", str(caught.value))
        assert_same(load(folder, old, IDENTITY), OLD)
        names = [path.name for path in folder.iterdir()]
        # Where even the last flush fails for good, the trash cannot be emptied in safety.
        assert [name for name in names if not name.startswith(".trash-")] == [old.folder]
        assert lasting or names == [old.folder]
        sweep(folder)
        assert_same(load(folder, save(NEW, folder), IDENTITY), NEW)


def test_other_errors_at_every_step_leave_nothing_and_are_raised_as_they_are(tmp_path: Path, num_calls: int) -> None:
    for number, folder, old in each_failure(tmp_path, num_calls):
        with pytest.MonkeyPatch.context() as patch:
            Disk(patch).fail_at(number, lambda: OSError(errno.EIO, os.strerror(errno.EIO)))
            with pytest.raises(OSError, match="Input/output error"):
                save(NEW, folder)
        assert [path.name for path in folder.iterdir()] == [old.folder]
        verify(folder, old)


def test_everything_is_flushed_before_the_name_that_vouches_for_it(tmp_path: Path) -> None:
    """What a file system keeps of unflushed writes and in which order is anybody's guess."""
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch)
        record = save(NEW, tmp_path / "outputs" / "job-1")
    history = disk.history
    (renamed,) = [place for place, (call, _) in enumerate(history) if call == "rename"]
    temporary = history[renamed][1]
    files = {name for call, name in history if call == "write"}
    assert len(files) == 6
    assert {os.path.dirname(name) for name in files} == {temporary}
    last_written = max(place for place, (call, _) in enumerate(history) if call == "write")
    for name in files:
        written = max(place for place, entry in enumerate(history) if entry == ("write", name))
        assert written < history.index(("fsync", name)) < renamed
    assert last_written < history.index(("fsync", temporary)) < renamed
    assert renamed < max(
        place for place, entry in enumerate(history) if entry == ("fsync", str(tmp_path / "outputs/job-1"))
    )
    # The folders on the way are new too.
    assert ("fsync", str(tmp_path)) in history
    assert ("fsync", str(tmp_path / "outputs")) in history
    assert files == {
        str(Path(temporary) / path.name) for path in (tmp_path / "outputs/job-1" / record.folder).iterdir()
    }


def test_short_writes_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:7]))
    record = save(NEW, tmp_path)
    monkeypatch.undo()
    assert_same(load(tmp_path, record, IDENTITY), NEW)


def test_an_error_in_the_block_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with published(tmp_path / "a", needed_bytes=1) as temporary:
            write_file(temporary / "file", [b"x"])
            (temporary / "sub").mkdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_the_caller_s_own_umask_counts(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with published(tmp_path / "a", needed_bytes=1) as temporary:
            write_file(temporary / "file", [b"x"])
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "a" / "file").stat().st_mode & 0o777 == 0o640


def test_power_cut_while_discarding(tmp_path: Path) -> None:
    """Half a folder must not stand under its old name."""
    number, finished = 0, False
    while not finished:
        folder = tmp_path / str(number)
        record = save(OLD, folder)
        with pytest.MonkeyPatch.context() as patch:
            Disk(patch).fail_at(number, PowerCut)
            with suppress(PowerCut):
                finished = discard(folder / record.folder)
        if (folder / record.folder).exists():
            verify(folder, record)
        sweep(folder)
        assert [path.name for path in folder.iterdir()] in ([], [record.folder])
        number += 1
    assert number > 8
    assert discard(tmp_path / "nothing") is False


def test_sweeping_takes_what_nobody_knows_and_nothing_else(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    folder = tmp_path / "folder"
    for name in (".tmp-step-1-9-ab", ".trash-step-1-9-ab", "step-1", "step-2", "quarantine", "other"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").touch()
    (folder / ".tmp-link").symlink_to(outside)
    (folder / ".trash-file").touch()
    (folder / "step-link").symlink_to(outside)
    assert sweep(folder) == [".tmp-link", ".tmp-step-1-9-ab", ".trash-file", ".trash-step-1-9-ab"]
    assert sweep(folder, known=["step-2", "step-3"], prefix="step-") == ["step-1", "step-link"]
    assert sorted(path.name for path in folder.iterdir()) == ["other", "quarantine", "step-2"]
    assert (outside / "file").exists()
    assert sweep(tmp_path / "nothing") == []


def test_what_is_moved_aside_never_covers_anything(tmp_path: Path) -> None:
    make: list[Callable[[Path], object]] = [
        lambda path: path.mkdir(),
        lambda path: path.write_text("x"),
        lambda path: path.symlink_to("nowhere"),
        lambda path: path.mkdir(),
    ]
    for one in make:
        one(tmp_path / "step-1")
        assert move_aside(tmp_path / "step-1", "quarantine") is not None
    assert sorted(path.name for path in (tmp_path / "quarantine").iterdir()) == [
        "step-1",
        "step-1.1",
        "step-1.2",
        "step-1.3",
    ]
    assert move_aside(tmp_path / "step-1", "quarantine") is None


def test_room_is_looked_up_where_the_folder_is_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_bytes(tmp_path / "not" / "yet") == pytest.approx(free_bytes(tmp_path), rel=0.01)

    def fail(path: Path) -> None:
        raise OSError(errno.ENOSYS, "no")

    monkeypatch.setattr(publishing.shutil, "disk_usage", fail)
    assert free_bytes(tmp_path) is None
