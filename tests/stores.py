"""Stores for tests: a folder, this process's memory, and a local server that speaks S3."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tests.machine import free_port
from workers.object_store import ObjectStore

OWNER = "tests"
_numbers = itertools.count()


@contextmanager
def s3_server() -> Iterator[str]:
    """A server of its own process on a free port of the loopback; credentials and endpoint are in the environment.

    Yields:
        The name of a bucket.
    """
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    environment = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in environment}
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(endpoint, server)
        os.environ.update(environment)
        file_system = fsspec.filesystem("s3", skip_instance_cache=True)
        file_system.mkdir("bucket")
        yield "bucket"
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        server.terminate()
        server.wait()


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """Name of a bucket of a server that starts when the first test wants it."""
    with s3_server() as name:
        yield name


@pytest.fixture(params=["file", "memory", "s3"])
def scheme(request: pytest.FixtureRequest) -> str:
    """Each kind of store in turn."""
    return request.param


@pytest.fixture
def make_root(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Names a root of this scheme that nobody has used."""

    def make(scheme: str) -> str:
        name = f"store-{next(_numbers)}"
        match scheme:
            case "file":
                return (tmp_path / name).as_uri()
            case "memory":
                return f"memory://{name}"
            case _:
                return f"s3://{request.getfixturevalue('bucket')}/{name}"

    return make


def claimed(uri: str) -> ObjectStore:
    """The store at a root, which has an owner; nothing waits between two tries."""
    store = ObjectStore(uri, sleep=lambda _: None)
    store.claim(OWNER)
    return store


def rewrite(store: ObjectStore, key: str, name: str, content: bytes | None) -> None:
    """Replace a file behind everybody's back, or delete it."""
    path = store._path(key, name)
    if content is None:
        store._fs.rm_file(path)
    else:
        store._fs.pipe_file(path, content)


def content_of(store: ObjectStore, key: str, name: str) -> bytes:
    return store._fs.cat_file(store._path(key, name))


class Faults:
    """Requests to a store, counted, and made to fail on command. For stores that are no file system of this machine."""

    REQUESTS = frozenset({"ls", "info", "put_file", "pipe_file", "get_file", "cat_file", "cp_file", "rm_file", "open"})

    def __init__(self, store: ObjectStore) -> None:
        self.made: list[tuple[str, str]] = []
        """Name of each request, and the last part of the path that it was about."""
        self.fails: Callable[[int, str, str], BaseException | None] = lambda number, request, name: None
        """Called with number, request and name; what it returns is raised instead of making the request."""
        self._real = store._fs
        store._opened = (self, store._opened[1] if store._opened else "")

    def __getattr__(self, request: str) -> Any:
        real = getattr(self._real, request)
        if request not in self.REQUESTS:
            return real

        def made(*arguments: Any, **settings: Any) -> Any:
            path = arguments[1] if request == "put_file" else arguments[0]
            self.made.append((request, str(path).rpartition("/")[2]))
            error = self.fails(len(self.made) - 1, *self.made[-1])
            if error is not None:
                raise error
            return real(*arguments, **settings)

        return made

    def heal(self) -> None:
        """From now on every request is made."""
        self.fails = lambda number, request, name: None


def _wait_for(endpoint: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None, "the S3 server ended by itself"
        try:
            urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the S3 server did not start")
