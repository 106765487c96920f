"""Stores for tests: a folder, this process's memory, and a local server that speaks S3."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec

from workers.object_store import ObjectStore

OWNER = "tests"
_numbers = itertools.count()

Roots = dict[str, Callable[[], str]]
"""Scheme → makes a root that nobody has used."""


@contextmanager
def s3_server() -> Iterator[str]:
    """A server of its own process on a free port of the loopback; credentials and endpoint are in the environment.

    Yields:
        The name of a bucket.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
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


def roots(folder: Path, bucket: str) -> Roots:
    """One maker of roots for each kind of store."""
    return {
        "file": lambda: (folder / f"store-{next(_numbers)}").as_uri(),
        "memory": lambda: f"memory://store-{next(_numbers)}",
        "s3": lambda: f"s3://{bucket}/store-{next(_numbers)}",
    }


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
