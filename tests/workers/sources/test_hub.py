"""Datasets of the hub: configuration, revision and files that a block names are those that are read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

from tests.workers.sources.reading import read, refusal

CARD = """---
configs:
- config_name: en
  default: true
  data_files: en/*.csv
- config_name: de
  data_files: de/*
---
"""
PLAIN = {"train.jsonl": '{"text": 1.10}\n{"text": "b"}\n', "extra/more.csv": "text\n00712\n", "picture.png": "x"}
CARDED = {"README.md": CARD, "en/train.csv": "text\n1.10\n", "de/a.jsonl": '{"text": 1e5}\n'}
REPOSITORIES = {
    ("org/plain", "main"): PLAIN,
    ("org/plain", "v2"): {"train.csv": "text\ntwo\n"},
    ("org/card", "main"): CARDED,
}


class Hub:
    """What the hub's client is asked for, answered from a dictionary."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fetched: list[str] = []

    def dataset_info(self, repository: str, revision: str | None = None, **_: Any) -> SimpleNamespace:
        response = httpx.Response(404, request=httpx.Request("GET", "http://hub"))
        if repository not in {name for name, _ in REPOSITORIES}:
            raise RepositoryNotFoundError("no such repository", response=response)
        found = REPOSITORIES.get((repository, revision or "main"))
        if found is None:
            raise RevisionNotFoundError("no such revision", response=response)
        return SimpleNamespace(
            sha=f"sha-of-{revision or 'main'}", siblings=[SimpleNamespace(rfilename=n) for n in found]
        )

    def download(self, repository: str, name: str, *, repo_type: str, revision: str) -> str:
        assert repo_type == "dataset"
        self.fetched.append(name)
        path = self.folder / name.replace("/", "-")
        path.write_text(REPOSITORIES[repository, revision.removeprefix("sha-of-")][name])
        return str(path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path)
    monkeypatch.setattr(
        "huggingface_hub.HfApi.dataset_info", lambda _, *args, **named: hub.dataset_info(*args, **named)
    )
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub.download)
    return hub


def texts(path: str, **block: Any) -> list[str]:
    return [row["text"] for row in read(path, **block)]


def test_the_files_that_a_block_names_are_those_that_are_read(hub: Hub) -> None:
    """A9: they were dropped, and the whole set was trained on."""
    assert texts("org/plain", data_files="extra/*.csv") == ["00712"]
    assert set(hub.fetched) == {"extra/more.csv"}
    assert texts("org/plain", data_files=["extra/more.csv", "train.jsonl"]) == ["00712", "1.10", "b"]
    assert "org/plain has no file none.csv" in refusal("org/plain", data_files="none.csv")
    assert "picture.png says nothing about its format" in refusal("org/plain", data_files="picture.png")


def test_split_revision_and_configuration_are_those_asked_for(hub: Hub) -> None:
    assert texts("org/plain") == ["1.10", "b"]
    assert texts("hf://datasets/org/plain", split="train[1:]") == ["b"]
    assert texts("org/plain", revision="v2") == ["two"]
    assert texts("org/card") == texts("org/card", name="en") == ["1.10"]
    assert texts("org/card", name="de") == ["1e5"]
    assert "org/card has no configuration `fr`: it has en, de" in refusal("org/card", name="fr")
    assert "org/plain has no split `test`: its splits are train" in refusal("org/plain", split="test")
    assert "org/plain has no revision v9" in refusal("org/plain", revision="v9")
    assert "`name` chooses a configuration, and data_files are given" in refusal(
        "org/card", name="en", data_files="de/a.jsonl"
    )


def test_what_is_not_there_is_told_as_such(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "neither a file or folder here nor a dataset on the hub" in refusal("org/none")

    def unreachable(*_: Any, **__: Any) -> None:
        raise httpx.ConnectError("no route")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", unreachable)
    assert "the hub cannot be asked for it: no route" in refusal("org/plain")

    def invalid(*_: Any, **__: Any) -> None:
        raise HFValidationError("no name")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", invalid)
    assert "neither a file or folder here" in refusal("org/-")


def test_a_cache_that_cannot_be_written_is_named_with_its_variable(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def unwritable(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unwritable)
    message = refusal("org/plain")
    assert "Read-only file system; set HF_HUB_CACHE to a folder that can be written" in message


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self, body: bool = True) -> None:
            if self.path.startswith("/api/datasets/org/plain/revision/v2"):
                content = json.dumps(
                    {"id": "org/plain", "sha": "a" * 40, "siblings": [{"rfilename": "train.csv"}]}
                ).encode()
            elif self.path == f"/datasets/org/plain/resolve/{'a' * 40}/train.csv":
                content = b"text\n00712\n"
            else:
                self.send_error(404)
                return
            self.send_response(200)
            for name, value in {"Content-Length": str(len(content)), "ETag": '"e"', "X-Repo-Commit": "a" * 40}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def do_HEAD(self) -> None:
            self.do_GET(body=False)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_hubs_own_client_asks_for_what_the_block_names(server: str, tmp_path: Path) -> None:
    script = """
from jobs.spec import DatasetSpec
from workers.sources import open_rows
block = DatasetSpec.model_validate({"path": "org/plain", "revision": "v2"})
print([list(open_rows(block, field="f")) for _ in range(2)])
"""
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ
        | {"HF_ENDPOINT": server, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": os.getcwd(), "HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "[[{'text': '00712'}], [{'text': '00712'}]]"
