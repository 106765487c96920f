from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.clusters.host import quiet_libraries
from orchestrator.journal import Journal
from tests.nursery import Nursery, Request
from tests.stores import bucket, make_root, scheme
from tests.tiny_base import write_rows, write_tiny_base

__all__ = ["bucket", "make_root", "scheme"]

quiet_libraries()


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture(scope="session")
def other_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("bases") / "other", seed=1, hidden_size=48)


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "colours.jsonl")


WriteSpecs = Callable[..., Path]
Forked = Callable[..., subprocess.CompletedProcess[str]]


def laid_over(spec: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A spec with changes, which go into its blocks."""
    return spec | {
        key: {**spec[key], **value} if isinstance(spec.get(key), dict) else value for key, value in changes.items()
    }


def specs_in(folder: Path, base: Path, rows: Path) -> WriteSpecs:
    """Writes spec files: one document for each mapping, laid over a small job that works."""

    def write(*documents: dict[str, Any], name: str = "jobs.yaml") -> Path:
        texts = []
        for number, document in enumerate(documents):
            spec: dict[str, Any] = {
                "name": f"job-{number}",
                "model": {"model_name_or_path": str(base), "dtype": "float32"},
                "lora": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
                "datasets": [{"path": str(rows)}],
                "val_size": 6,
                "training": {"max_steps": 4, "per_device_train_batch_size": 3, "learning_rate": 0.01},
            }
            texts.append(yaml.safe_dump(laid_over(spec, document), sort_keys=False))
        path = folder / name
        path.write_text("---\n".join(texts), encoding="utf-8")
        return path

    return write


@pytest.fixture
def write_specs(tmp_path: Path, tiny_base: Path, rows: Path) -> WriteSpecs:
    return specs_in(tmp_path, tiny_base, rows)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.db") as opened:
        yield opened


@pytest.fixture
def forked(nursery: Nursery, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command in a child of a process that has imported torch already."""

    def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        out, err = tmp_path / "stdout.txt", tmp_path / "stderr.txt"
        words = tuple(map(str, arguments))
        child = nursery.open(Request(arguments=words, output=str(out), errors=str(err), environment=environment))
        done = subprocess.CompletedProcess(words, child.wait(480), out.read_text(), err.read_text())
        out.unlink()
        err.unlink()
        return done

    return run
