from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.records import CheckpointRecord, JobProgress, JobState
from orchestrator.api.app import build_app
from orchestrator.api.server import HttpServer
from orchestrator.api.tokens import Tokens
from orchestrator.client import Client
from orchestrator.journal import ArtifactRecord, Journal
from workers.publishing import FileEntry, write_file

ALICE, BOB = "a" * 32, "b" * 32
"""Tokens: Alice may act everywhere, Bob in the queue `night` alone."""


@dataclass
class Served:
    """A service without a scheduler: what it would do to a job, a test does through the journal."""

    journal: Journal
    data_dir: Path
    server: HttpServer
    woken: list[int] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.server.url

    def http(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=f"{self.url}/api/v1", timeout=60, trust_env=False, **options)

    def client(self, **options: Any) -> Client:
        return Client(self.url, **{"token": "", "patience_seconds": 2.0, **options})

    def run(self, job_id: str, *, at: float = 100.0) -> int:
        """Place a job and have it run."""
        attempt, _ = self.journal.start_attempt(job_id, worker_id="w1", reason="placed", message="placed", at=at)
        self.journal.change(
            job_id, attempt=attempt, state=JobState.RUNNING, reason="admitted", message="trains", at=at,
            progress=JobProgress(step=3, total_steps=10, train_loss=0.5, tokens=99),
        )  # fmt: skip
        return attempt

    def end(self, job_id: str, state: JobState = JobState.FAILED, *, at: float = 200.0) -> None:
        self.journal.change(job_id, attempt=None, state=state, reason="test", message=f"has {state}", at=at)

    def checkpoint(self, job_id: str, attempt: int, *, step: int, size_bytes: int = 1000) -> Path:
        name = f"step-{step:06d}.00-a{attempt}"
        folder = self.data_dir / "checkpoints" / job_id / name
        folder.mkdir(parents=True)
        (folder / "state").write_bytes(b"x" * size_bytes)
        self.journal.commit_checkpoint(
            CheckpointRecord(
                job_id=job_id, attempt=attempt, step=step, micro_batch=0, folder=name, manifest_sha256="0" * 64,
                size_bytes=size_bytes,
            )
        )  # fmt: skip
        return folder

    def publish(self, job_id: str, attempt: int, files: dict[str, bytes]) -> Path:
        folder = self.data_dir / "artifacts" / job_id
        folder.mkdir(parents=True)
        entries: dict[str, FileEntry] = {name: write_file(folder / name, [content]) for name, content in files.items()}
        manifest = entries.get("manifest.json")
        self.journal.commit_artifact(
            ArtifactRecord(
                job_id=job_id, attempt=attempt, uri=str(folder),
                manifest_sha256=manifest.sha256 if manifest else "0" * 64,
                size_bytes=sum(one.size_bytes for one in entries.values()), files=entries,
            ),
            message="published", at=300.0,
        )  # fmt: skip
        return folder


Serve = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts services; options go to `build_app`."""
    with ExitStack() as stack:

        def start(*, folder: str = "data", port: int = 0, **options: Any) -> Served:
            data_dir = tmp_path / folder
            data_dir.mkdir(exist_ok=True)
            journal = Journal(data_dir / "journal.db")
            stack.callback(journal.close)
            woken: list[int] = []
            app = build_app(journal, lambda: woken.append(1), data_dir=data_dir, **options)
            server = stack.enter_context(HttpServer(app, port=port))
            return Served(journal, data_dir, server, woken)

        yield start


@pytest.fixture
def served(serve: Serve) -> Served:
    return serve()


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    path = tmp_path / "tokens.yaml"
    path.write_text(
        f"- {{name: alice, token: {ALICE}}}\n- {{name: bob, token: {BOB}, queues: [night]}}\n", encoding="utf-8"
    )
    path.chmod(0o600)
    return Tokens.read(path)


def spec(name: str = "first", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "model": {"model_name_or_path": "some/model"},
        "datasets": [{"path": "/data/r.jsonl"}],
        **more,
    }
