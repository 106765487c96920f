"""Of all the ways in which a checkpoint can be wrong on disk, none is believed."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import safetensors.torch

from jobs.checkpoints import CheckpointError, CheckpointMismatchError
from jobs.records import CheckpointRecord
from tests.workers.snapshots import IDENTITY, assert_same, make_snapshot
from workers import checkpoint
from workers.checkpoint import load, save, verify

NUM_FLIPS = 10_000


@pytest.fixture
def saved(tmp_path: Path) -> CheckpointRecord:
    return save(make_snapshot(half_done=True), tmp_path)


@pytest.fixture
def no_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong must be found before a tensor is parsed."""

    def fail(content: bytes) -> object:
        raise AssertionError("a tensor was parsed before all files were checked")

    monkeypatch.setattr(checkpoint, "decode", fail)


def refused(folder: Path, record: CheckpointRecord) -> CheckpointError:
    """Assert that neither way of looking at it accepts it, and that it counts as bad rather than as another run's."""
    with pytest.raises(CheckpointError):
        verify(folder, record)
    with pytest.raises(CheckpointError) as caught:
        load(folder, record, IDENTITY)
    assert not isinstance(caught.value, CheckpointMismatchError)
    assert str(folder / record.folder) in str(caught.value)
    return caught.value


@pytest.mark.usefixtures("no_parsing")
def test_truncated_anywhere(tmp_path: Path, saved: CheckpointRecord) -> None:
    for file in sorted((tmp_path / saved.folder).iterdir()):
        content = file.read_bytes()
        for length in sorted({len(content) * part // 64 for part in range(64)} | {len(content) - 1}):
            os.truncate(file, length)
            assert refused(tmp_path, saved).file == file.name
            file.write_bytes(content)
        for more in (b"\0", b" ", content):
            file.write_bytes(content + more)
            assert refused(tmp_path, saved).file == file.name
        file.write_bytes(content)
    verify(tmp_path, saved)


@pytest.mark.usefixtures("no_parsing")
def test_flipped_bits(tmp_path: Path, saved: CheckpointRecord) -> None:
    """Every file in turn, so that small ones are hit as often as large ones. safetensors alone would accept most."""
    draw = random.Random(4)
    files = sorted((tmp_path / saved.folder).iterdir())
    accepted = []
    with ExitStack() as stack:
        streams = [stack.enter_context(file.open("r+b", buffering=0)) for file in files]
        for number in range(NUM_FLIPS):
            file, descriptor = files[number % len(files)], streams[number % len(files)].fileno()
            position = draw.randrange(os.fstat(descriptor).st_size)
            (right,) = os.pread(descriptor, 1, position)
            os.pwrite(descriptor, bytes([right ^ 1 << draw.randrange(8)]), position)
            if told(tmp_path, saved) != (CheckpointError, file.name):
                accepted.append((file.name, position))
            os.pwrite(descriptor, bytes([right]), position)
    assert accepted == []
    verify(tmp_path, saved)


def told(folder: Path, record: CheckpointRecord) -> tuple[type[CheckpointError], str | None] | None:
    """What a look at it says: the kind of error and the file, or `None` where it is accepted."""
    try:
        verify(folder, record)
    except CheckpointError as error:
        return type(error), error.file
    return None


@pytest.mark.usefixtures("no_parsing")
def test_swapped_files(tmp_path: Path, saved: CheckpointRecord) -> None:
    names = sorted(os.listdir(tmp_path / saved.folder))
    for one in names:
        for other in names:
            if one < other:
                swap(tmp_path / saved.folder / one, tmp_path / saved.folder / other)
                refused(tmp_path, saved)
                swap(tmp_path / saved.folder / one, tmp_path / saved.folder / other)
    verify(tmp_path, saved)


def swap(one: Path, other: Path) -> None:
    spare = one.with_name("spare")
    one.rename(spare)
    other.rename(one)
    spare.rename(other)


@pytest.mark.usefixtures("no_parsing")
@pytest.mark.parametrize("same_step", [True, False])
def test_files_of_another_checkpoint_of_the_same_shape(
    tmp_path: Path, saved: CheckpointRecord, same_step: bool
) -> None:
    """Each file alone, and all of them together: whole, but another job's or an older one's."""
    another = save(make_snapshot(half_done=True, seed=5, job_id="job-2" if same_step else "job-1"), tmp_path / "other")
    mine, theirs = tmp_path / saved.folder, tmp_path / "other" / another.folder
    for name in sorted(os.listdir(theirs)):
        if (mine / name).read_bytes() == (theirs / name).read_bytes():
            continue
        content = (mine / name).read_bytes()
        shutil.copy(theirs / name, mine / name)
        assert refused(tmp_path, saved).file == name
        (mine / name).write_bytes(content)
    shutil.rmtree(mine)
    shutil.copytree(theirs, mine)
    assert refused(tmp_path, saved).file == "manifest.json"


Mutation = Callable[[Path], object]

MUTATIONS: dict[str, tuple[str | None, Mutation]] = {
    "an extra file": ("extra", lambda folder: (folder / "extra").touch()),
    "an extra hidden file": (".x", lambda folder: (folder / ".x").touch()),
    "an extra folder": ("sub", lambda folder: (folder / "sub").mkdir()),
    "a pickle beside it": ("optimizer.pt", lambda folder: (folder / "optimizer.pt").write_bytes(b"\x80\x04.")),
    "a file that is a folder": (
        "state.json",
        lambda folder: ((folder / "state.json").unlink(), (folder / "state.json").mkdir()),
    ),
    "a file that is a pipe": (
        "state.json",
        lambda folder: ((folder / "state.json").unlink(), os.mkfifo(folder / "state.json")),
    ),
    "a file that is a socket": ("state.json", lambda folder: bind_socket(folder / "state.json")),
    "a manifest that is a pipe": (
        "manifest.json",
        lambda folder: ((folder / "manifest.json").unlink(), os.mkfifo(folder / "manifest.json")),
    ),
    "a file linked from elsewhere": ("state.json", lambda folder: move_and_link(folder / "state.json")),
    "a manifest linked from elsewhere": ("manifest.json", lambda folder: move_and_link(folder / "manifest.json")),
    "a folder linked from elsewhere": (None, lambda folder: move_and_link(folder)),
    "a link to nothing": (
        "state.json",
        lambda folder: ((folder / "state.json").unlink(), (folder / "state.json").symlink_to("nothing")),
    ),
    "a folder that is a file": (None, lambda folder: (shutil.rmtree(folder), folder.write_text("x"))),
    "nothing": (None, shutil.rmtree),
    "a huge manifest": ("manifest.json", lambda folder: os.truncate(folder / "manifest.json", 2**40)),
    "a huge file": ("optimizer.safetensors", lambda folder: os.truncate(folder / "optimizer.safetensors", 2**40)),
    **{
        f"{name} missing": (name, lambda folder, name=name: (folder / name).unlink())
        for name in (
            "adapter_config.json",
            "adapter_model.safetensors",
            "gradients.safetensors",
            "manifest.json",
            "optimizer.safetensors",
            "state.json",
        )
    },
}


def bind_socket(path: Path) -> None:
    path.unlink()
    # Relative, since a socket's path is at most some hundred characters long.
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)


def move_and_link(path: Path) -> None:
    """The same content, but where somebody else can change it."""
    elsewhere = path.parent.parent / f"elsewhere-{path.name}"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


@pytest.mark.usefixtures("no_parsing")
@pytest.mark.parametrize(("file", "mutate"), MUTATIONS.values(), ids=MUTATIONS.keys())
def test_other_damage(tmp_path: Path, file: str | None, mutate: Mutation) -> None:
    record = save(make_snapshot(half_done=True), tmp_path / "job")
    mutate(tmp_path / "job" / record.folder)
    assert refused(tmp_path / "job", record).file == file


@pytest.mark.parametrize("number", [13, 24])
def test_trouble_of_this_process_is_no_evidence(
    tmp_path: Path, saved: CheckpointRecord, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """EACCES, EMFILE: a good checkpoint must not be thrown away because this process cannot open files."""

    def refuse(*args: object, **more: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(OSError, match=os.strerror(number)):
            load(tmp_path, saved, IDENTITY)
    verify(tmp_path, saved)


def test_what_is_parsed_is_what_was_checked(
    tmp_path: Path, saved: CheckpointRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that change between the check and the reading change nothing."""

    def swap_files_then_decode(content: bytes) -> object:
        for file in (tmp_path / saved.folder).iterdir():
            file.write_bytes(b"changed")
        return safetensors.torch.load(content)

    monkeypatch.setattr(checkpoint, "decode", swap_files_then_decode)
    assert_same(load(tmp_path, saved, IDENTITY), make_snapshot(half_done=True))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b'"format": 1', b'"format": 2', "format 2"),
        (b'"micro_batch"', b'"micro_batsh"', "micro_batch"),
        (b'"state.json"', b'"status.json"', "status.json"),
        (b'"state.json"', b'"../etc.json"', "etc.json"),
        (b'"base_fingerprint"', b'"base_digest"', "base_digest"),
    ],
)
def test_another_version_s_manifest_is_not_called_corrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bytes, new: bytes, told: str
) -> None:
    """Its hash is the journal's, so it is what was meant; it is kept for the version that can read it."""
    written = checkpoint._json
    monkeypatch.setattr(checkpoint, "_json", lambda value: written(value).replace(old, new))
    record = save(make_snapshot(), tmp_path)
    with pytest.raises(CheckpointMismatchError, match=f"another version.*{told}"):
        load(tmp_path, record, IDENTITY)


def test_another_version_s_state_is_not_called_corrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "to_json", lambda standing: {"step": standing.step, "novelty": 1})
    record = save(make_snapshot(), tmp_path)
    with pytest.raises(CheckpointMismatchError, match="another version"):
        load(tmp_path, record, IDENTITY)
