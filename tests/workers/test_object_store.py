"""A folder is in the store whole or not at all, wherever the network, the store or the process gives up."""

from __future__ import annotations

import errno
import itertools
import pickle
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest

from jobs.checkpoints import DiskFullError
from jobs.errors import LoraloomError, StoreError, StoreUnavailableError
from tests.kills import killed
from tests.stores import Faults, claimed, content_of, rewrite
from tests.workers.disk import PowerCut
from workers.object_store import MARKED_BAD, ObjectStore
from workers.store_access import SCHEMES, check_uri, open_file_system
from workers.store_errors import Trouble, trouble

KEY = "checkpoints/job-1/step-1"
FILES = {"weights": b"w" * 5000, "state.json": b"{}", "empty": b"", "manifest.json": b"[1, 2]"}
SIZE = sum(map(len, FILES.values()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


def in_memory(make_root: Callable[[str], str]) -> tuple[ObjectStore, Faults]:
    store = claimed(make_root("memory"))
    return store, Faults(store)


def test_what_was_uploaded_comes_back(make_root: Callable[[str], str], scheme: str, folder: Path) -> None:
    store = claimed(make_root(scheme))
    assert store.files(KEY) == {}
    store.upload(folder, KEY)
    elsewhere = ObjectStore(store.uri)
    assert elsewhere.files(KEY) == {name: len(content) for name, content in FILES.items()}
    assert elsewhere.folders("checkpoints/job-1") == ["step-1"]
    target = folder.parent / "scratch" / "step-1"
    elsewhere.download(KEY, target, size_bytes=SIZE)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == FILES
    assert [path.name for path in target.parent.iterdir()] == ["step-1"]
    with elsewhere.open(KEY, "weights") as stream:
        assert stream.read() == FILES["weights"]
    assert elsewhere.read(KEY, "state.json", most_bytes=2) == b"{}"
    with pytest.raises(ValueError, match="more than 1 bytes"):
        elsewhere.read(KEY, "state.json", most_bytes=1)
    assert elsewhere.delete(KEY)
    assert not elsewhere.delete(KEY)
    assert store.files(KEY) == {}
    assert store.folders("checkpoints/job-1") == []


def test_nobody_writes_over_what_another_has_written(
    make_root: Callable[[str], str], scheme: str, folder: Path
) -> None:
    store = claimed(make_root(scheme))
    store.upload(folder, KEY)
    (folder / "weights").write_bytes(b"other")
    for one in (store, ObjectStore(store.uri)):
        with pytest.raises(StoreError, match="is there already"):
            one.upload(folder, KEY)
    assert content_of(store, KEY, "weights") == FILES["weights"]


def test_a_place_that_no_owner_has_marked_is_no_empty_store(
    make_root: Callable[[str], str], scheme: str, folder: Path
) -> None:
    """Else a share that is not mounted would send every job back to its beginning."""
    store = ObjectStore(make_root(scheme))
    for call in (lambda: store.upload(folder, KEY), lambda: store.files(KEY), store.require_claimed):
        with pytest.raises(StoreError, match=r"there is no store .*marker|there is no store \(loraloom-store"):
            call()
    store.claim("one service")
    store.claim("one service")
    store.require_claimed()
    with pytest.raises(StoreError, match="is the store of one service, not of another; name a root of its own"):
        ObjectStore(store.uri).claim("another")


def test_the_manifest_is_written_last_and_deleted_first(make_root: Callable[[str], str], folder: Path) -> None:
    store, faults = in_memory(make_root)
    store.upload(folder, KEY)
    written = [name for request, name in faults.made if request == "put_file"]
    assert sorted(written) == sorted(FILES)
    assert written[-1] == "manifest.json"
    # Between the two, the store says once more what it has.
    assert faults.made[-2] == ("ls", "step-1")
    store.delete(KEY)
    assert next(name for request, name in faults.made if request == "rm_file") == "manifest.json"


def test_an_upload_that_is_killed_at_any_request_leaves_nothing_that_looks_whole(
    make_root: Callable[[str], str], folder: Path
) -> None:
    store, faults = in_memory(make_root)
    store.upload(folder, KEY)
    num_requests = len(faults.made)
    assert num_requests == len(FILES) + 3
    for number in range(num_requests):
        store, faults = in_memory(make_root)
        # Dead from then on: what cleans up makes no request either.
        faults.fails = lambda count, *_, number=number: PowerCut() if count >= number else None
        with pytest.raises(PowerCut):
            store.upload(folder, KEY)
        elsewhere = ObjectStore(store.uri)
        assert "manifest.json" not in elsewhere.files(KEY)
        with pytest.raises((FileNotFoundError, ValueError)):
            elsewhere.download(KEY, folder.parent / f"scratch-{number}", size_bytes=SIZE)
        assert not (folder.parent / f"scratch-{number}").exists()
        elsewhere.sweep("checkpoints/job-1", known=(), prefix="step-")
        assert elsewhere.folders("checkpoints/job-1") == []


def test_an_upload_that_failed_at_any_request_leaves_nothing_and_can_be_tried_again(
    make_root: Callable[[str], str], folder: Path
) -> None:
    for number in range(len(FILES) + 3):
        store, faults = in_memory(make_root)
        faults.fails = lambda count, *_, number=number: PermissionError("no") if count == number else None
        with pytest.raises(StoreError, match=r"refused: PermissionError: no; listing, reading, writing and deleting"):
            store.upload(folder, KEY)
        assert ObjectStore(store.uri).files(KEY) == {}
        store.upload(folder, KEY)
        assert store.files(KEY) == {name: len(content) for name, content in FILES.items()}


def test_one_that_was_written_though_the_answer_was_lost_is_written_anew(
    make_root: Callable[[str], str], folder: Path
) -> None:
    store, faults = in_memory(make_root)
    store.upload(folder, KEY)
    faults.fails = lambda count, request, name: PowerCut() if request == "rm_file" else None
    store._begun.add(KEY)
    with pytest.raises(PowerCut):
        store.upload(folder, KEY)
    faults.heal()
    (folder / "weights").write_bytes(b"later")
    store.upload(folder, KEY)
    assert content_of(store, KEY, "weights") == b"later"


def test_what_the_store_lost_after_it_had_acknowledged_is_missed(make_root: Callable[[str], str], folder: Path) -> None:
    store, faults = in_memory(make_root)

    def lose(count: int, request: str, name: str) -> None:
        if request == "ls" and count:
            rewrite(ObjectStore(store.uri), KEY, "weights", b"short")

    faults.fails = lose
    with pytest.raises(StoreUnavailableError, match="weights was uploaded and is not there whole"):
        store.upload(folder, KEY)
    faults.heal()
    assert store.files(KEY) == {}


@pytest.mark.parametrize(
    "error", [TimeoutError("slow"), ConnectionResetError(), OSError(errno.EBUSY, "SlowDown"), OSError(errno.EIO, "?")]
)
def test_what_may_pass_is_tried_again_and_not_for_ever(
    make_root: Callable[[str], str], folder: Path, error: OSError
) -> None:
    uri, slept = make_root("memory"), []
    claimed(uri)
    store = ObjectStore(uri, sleep=slept.append)
    faults = Faults(store) if store._fs else None
    assert faults is not None
    # Every request fails three times: no more than is borne.
    faults.fails = lambda count, *_: error if count % 4 < 3 else None
    store.upload(folder, KEY)
    store.download(KEY, folder.parent / "scratch", size_bytes=SIZE)
    assert len(slept) == 3 * (2 * len(FILES) + 4)
    assert max(slept) < 3
    faults.fails = lambda *_: error
    slept.clear()
    with pytest.raises(StoreUnavailableError, match=r"cannot be reached, after 4 tries"):
        store.files(KEY)
    assert len(slept) == 3


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (PermissionError("AccessDenied"), StoreError, "refused: PermissionError: AccessDenied"),
        (OSError(errno.EINVAL, "bad"), StoreError, "must be allowed"),
        (FileNotFoundError("NoSuchBucket"), StoreError, "there is no such bucket"),
        (type("NoCredentialsError", (Exception,), {})("Unable"), StoreError, "no credentials for it here"),
        (OSError(errno.ENOSPC, "full"), DiskFullError, "free some space or raise the quota"),
        (TypeError("ours"), TypeError, "ours"),
    ],
    ids=repr,
)
def test_what_will_not_pass_is_told_at_once(
    make_root: Callable[[str], str], folder: Path, error: Exception, kind: type[Exception], told: str
) -> None:
    store, faults = in_memory(make_root)
    faults.fails = lambda count, request, name: error if request == "put_file" else None
    with pytest.raises(kind, match=told) as caught:
        store.upload(folder, KEY)
    assert not isinstance(caught.value, StoreUnavailableError)
    assert [request for request, _ in faults.made].count("put_file") == 1


def test_a_download_that_breaks_off_leaves_nothing(make_root: Callable[[str], str], folder: Path) -> None:
    store, faults = in_memory(make_root)
    store.upload(folder, KEY)
    scratch = folder.parent / "scratch"
    for number in range(len(FILES)):
        faults.made.clear()
        faults.fails = lambda count, *_, number=number: PowerCut() if count == number + 1 else None
        with pytest.raises(PowerCut):
            store.download(KEY, scratch / "step-1", size_bytes=SIZE)
        assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    "tear",
    [
        lambda store: rewrite(store, KEY, "weights", b"w" * 4999),
        lambda store: rewrite(store, KEY, "weights", None),
        lambda store: rewrite(store, KEY, "more", b"x"),
        lambda store: rewrite(store, KEY, "weights", b"w" * 10**6),
    ],
)
def test_one_of_another_size_is_not_even_fetched(
    make_root: Callable[[str], str], scheme: str, folder: Path, tear: Callable[[ObjectStore], None]
) -> None:
    store = claimed(make_root(scheme))
    store.upload(folder, KEY)
    tear(store)
    with pytest.raises(ValueError, match=rf"bytes in \d files, not {SIZE}"):
        store.download(KEY, folder.parent / "scratch", size_bytes=SIZE)
    assert not (folder.parent / "scratch").exists()


def test_what_is_put_aside_covers_nothing_and_is_not_found_any_more(
    make_root: Callable[[str], str], scheme: str, folder: Path
) -> None:
    store = claimed(make_root(scheme))
    assert store.set_aside(KEY, "quarantine") is None
    for number in range(2):
        store.upload(folder, KEY)
        moved = store.set_aside(KEY, "quarantine")
        assert moved == store.uri_of("checkpoints/job-1/quarantine/step-1" + (".1" if number else ""))
        assert content_of(store, store.key_of(moved), "weights") == FILES["weights"]
        assert store.files(KEY) == {}


def test_where_nothing_can_be_moved_it_is_marked(make_root: Callable[[str], str], folder: Path) -> None:
    store, faults = in_memory(make_root)
    store.upload(folder, KEY)
    faults.fails = lambda count, request, name: PermissionError("no copies") if request == "cp_file" else None
    assert store.set_aside(KEY, "quarantine") is None
    assert MARKED_BAD in store.files(KEY)
    with pytest.raises(ValueError, match="was found bad before"):
        ObjectStore(store.uri).download(KEY, folder.parent / "scratch", size_bytes=SIZE)


def test_sweeping_takes_what_nobody_knows_and_nothing_else(
    make_root: Callable[[str], str], scheme: str, folder: Path
) -> None:
    store = claimed(make_root(scheme))
    for name in ("step-1", "step-2", "step-3", "quarantine/step-1"):
        store.upload(folder, f"checkpoints/job-1/{name}")
    assert store.sweep("checkpoints/job-1", known=["step-2"], prefix="step-") == ["step-1", "step-3"]
    assert store.folders("checkpoints/job-1") == ["quarantine", "step-2"]
    assert store.sweep("checkpoints/job-2", known=[], prefix="step-") == []


@pytest.mark.parametrize("key", ["../elsewhere", "a/../b", "", "a//b", "/a", ".hidden", "a/\0", "a/b\n"])
def test_a_key_leads_nowhere_else(make_root: Callable[[str], str], scheme: str, folder: Path, key: str) -> None:
    store = claimed(make_root(scheme))
    for call in (lambda: store.upload(folder, key), lambda: store.files(key), lambda: store.delete(key)):
        with pytest.raises(ValueError, match="is not a name in a store"):
            call()
    with pytest.raises(ValueError, match=r"not below|not a name"):
        store.key_of(f"s3://elsewhere/{key}")


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("relative/folder", "name file:///absolute/path"),
        ("/absolute", "name file:///absolute/path"),
        ("http://host/path", "name file:///absolute/path"),
        ("simplecache::s3://bucket", "name file:///absolute/path"),
        ("file://host/path", "absolute path"),
        ("s3:///folder", "the bucket is missing"),
        ("s3://key:secret@bucket/folder", "without credentials"),
        ("s3://bucket/folder?versionId=1", "without credentials, query or fragment"),
        ("gs://bucket/../other", "must not hold"),
    ],
)
def test_uris_that_cannot_be_used_are_refused_with_what_would_be_right(uri: str, told: str) -> None:
    with pytest.raises(LoraloomError, match=told) as caught:
        check_uri(uri)
    assert "secret" not in str(caught.value)


def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **settings: object) -> object:
        raise ImportError("Install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec, "filesystem", fail)
    with pytest.raises(LoraloomError, match=r"needs the package gcsfs.*pip install 'loraloom\[gs\]'"):
        open_file_system("gs://bucket/folder")
    assert SCHEMES == ("file", "s3", "gs", "memory")


def http_error(status: int) -> Exception:
    """As gcsfs raises it."""
    kind: Any = type("HttpError", (Exception,), {"__module__": "gcsfs.retry"})
    error = kind("told")
    error.code = status
    return error


def client_error(code: str) -> OSError:
    """As s3fs raises it: an OSError whose cause has botocore's response."""
    cause = Exception("told")
    cause.response = {"Error": {"Code": code}}  # type: ignore[attr-defined]
    error = OSError(errno.EINVAL, "told")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "means"),
    [
        (http_error(404), Trouble.MISSING),
        (http_error(403), Trouble.REFUSED),
        (http_error(429), Trouble.PASSING),
        (http_error(503), Trouble.PASSING),
        (client_error("BadDigest"), Trouble.PASSING),
        (client_error("QuotaExceeded"), Trouble.NO_ROOM),
        (client_error("InvalidArgument"), Trouble.REFUSED),
        (type("DefaultCredentialsError", (Exception,), {})(), Trouble.NO_CREDENTIALS),
        (type("ParamValidationError", (Exception,), {})(), Trouble.REFUSED),
        (KeyError("ours"), Trouble.NOT_ITS_OWN),
    ],
    ids=repr,
)
def test_what_errors_of_the_libraries_mean(error: Exception, means: Trouble) -> None:
    assert trouble(error) is means


@pytest.mark.parametrize("kind", [StoreError, StoreUnavailableError])
def test_errors_travel_between_processes(kind: type[StoreError]) -> None:
    error = kind("s3://bucket/x", "refused")
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), back.reason) == (kind, "s3://bucket/x: refused", "store")
    assert (back.uri, back.problem) == (error.uri, error.problem)


def upload_forever(uri: str, folder: Path, tell: Callable[[str], None]) -> None:
    store = ObjectStore(uri)
    for number in itertools.count():
        store.upload(folder, f"checkpoints/job-1/step-{number}")
        tell(str(number))


def test_killed_while_it_copies_to_a_shared_folder(
    make_root: Callable[[str], str], folder: Path, tmp_path: Path
) -> None:
    draw = random.Random(3)
    for kill in range(10):
        store = claimed(make_root("file"))
        lines = killed(
            partial(upload_forever, store.uri, folder), after_lines=draw.randint(1, 4), seconds=draw.uniform(0, 0.01)
        )
        found = store.folders("checkpoints/job-1")
        assert set(found) >= {f"step-{line}" for line in lines}
        for name in found:
            store.download(f"checkpoints/job-1/{name}", tmp_path / str(kill) / name, size_bytes=SIZE)
        store.sweep("checkpoints/job-1", known=[f"step-{line}" for line in lines], prefix="step-")
        left = {path.name for path in Path(store.uri.removeprefix("file://"), "checkpoints/job-1").iterdir()}
        assert left == {f"step-{line}" for line in lines}
