from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.orchestrator.confinement.place import SECRET, TEMPLATE, Place, write_rows
from tests.tiny_base import write_tiny_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("written") / "base")


@pytest.fixture
def place(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(root=tmp_path / "srv/data", outside=tmp_path / "srv/other", own=tmp_path / "own")
    for folder in (made.root, made.outside, made.own):
        folder.mkdir(parents=True)
        shutil.copytree(base, folder / "base")
        (folder / "template.jinja").write_text(TEMPLATE)
        (folder / "templates").mkdir()
        (folder / "templates/chat_template.jinja").write_text(TEMPLATE)
    write_rows(made.root / "rows.jsonl", "ours")
    for folder in (made.outside, made.own):
        write_rows(folder / "rows.jsonl", SECRET)
        write_rows(folder / "set/train.jsonl", SECRET)
        write_rows(folder / "org/set/train.jsonl", SECRET)
        shutil.copytree(base, folder / "org/base")
    # The worst place to be: every name that is not absolute is somebody else's file.
    monkeypatch.chdir(made.outside)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return made
