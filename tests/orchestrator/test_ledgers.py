"""What jobs of a real packed run have cost: it adds up to what their worker was busy, and is told everywhere alike."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from jobs.errors import LoraloomError
from jobs.ledger import Ledger
from jobs.records import WorkerStatus
from orchestrator import run
from orchestrator.journal import JournalReader
from orchestrator.monitoring.figures import Figures, Surveyor
from orchestrator.monitoring.scraping import scraped
from tests.machine import free_port
from tests.orchestrator.conftest import WriteSpecs
from tests.orchestrator.test_run import run_in_process


def ledgers_of(folder: Path) -> dict[str, Ledger]:
    with JournalReader(folder / "journal.db") as reader:
        return {job.id: job.progress.ledger for job in reader.jobs()}


def test_ledgers_add_up_to_the_busy_time_of_the_worker(
    tmp_path: Path, write_specs: WriteSpecs, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[WorkerStatus] = []
    summarise = run.summarise

    def look(jobs: object, statuses: list[WorkerStatus], seconds: float) -> object:
        seen.extend(statuses)
        return summarise(jobs, statuses, seconds)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "summarise", look)
    specs = write_specs(
        {"training": {"max_steps": 12, "save_steps": 5}},
        {"training": {"max_steps": 20, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}},
        {"scheduling": {"packing": "exact"}},
    )
    assert run_in_process(specs, tmp_path / "out").ok
    [status] = seen
    ledgers = ledgers_of(tmp_path / "out")
    totals = [ledger.total for ledger in ledgers.values()]
    assert sum(total.device_seconds for total in totals) == pytest.approx(status.busy_seconds, rel=0.01)
    assert sum(total.tokens for total in totals) == status.tokens
    assert ledgers["job-0"].total.checkpoint_seconds > 0
    assert ledgers["job-2"].total.checkpoint_seconds == 0
    for ledger in ledgers.values():
        assert ledger.total.label_tokens < ledger.total.tokens
        assert ledger.waiting_seconds > 0
        assert ledger.waiting_since_unix_seconds is None
        assert ledger.recoveries == 0
        # The first eight packs are measured for their memory and say nothing of time; there are more of each kind.
        assert ledger.slowdown is not None
    for job_id, ledger in ledgers.items():
        told = json.loads((tmp_path / "out/artifacts" / job_id / "manifest.json").read_text())["ledger"]
        assert told["tokens"] == ledger.total.tokens
        assert told["recoveries"] == 0
        assert 0 < told["device_seconds"] <= ledger.total.device_seconds
    again = run_in_process(specs, tmp_path / "out")
    assert [job.name for job in again.jobs] == list(ledgers)
    assert ledgers_of(tmp_path / "out") == ledgers


def test_a_port_that_is_taken_is_said_with_its_option() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with (
            pytest.raises(LoraloomError, match=r"--metrics-port \d+ cannot be used"),
            scraped(CollectorRegistry(), taken.getsockname()[1]),
        ):
            pass


def test_a_run_can_be_scraped_while_it_trains(
    tmp_path: Path, write_specs: WriteSpecs, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    url, texts, take = f"http://127.0.0.1:{port}/metrics", [], Surveyor.take

    def look(self: Surveyor, *arguments: Any, **options: Any) -> Figures:
        texts.append(httpx.get(url, trust_env=False, timeout=60).text)
        return take(self, *arguments, **options)

    monkeypatch.setattr(Surveyor, "take", look)
    monkeypatch.setattr("orchestrator.monitoring.figures._EVERY_SECONDS", 0.0)
    assert run_in_process(write_specs({}), tmp_path / "out", metrics_port=port).ok
    assert 'loraloom_worker_up{worker="w0"} 1.0' in texts[-1]
    assert 'loraloom_worker_memory_bytes{kind="base",worker="w0"}' in texts[-1]
    assert 'loraloom_jobs_submitted_total{queue="default"} 1.0' in texts[-1]
    assert any('loraloom_job_step{job_id="job-0",job_name="job-0"}' in text for text in texts)
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)
