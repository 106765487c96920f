"""A chat template that prints the date: a job keeps the day on which it was submitted, however often it goes on."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from rich.console import Console

from orchestrator.interruption import Interrupted
from orchestrator.run import RunOptions, run
from tests.field_cases import CHATML, field_job, field_llama, field_spec, field_tokenizer, save_base, write_rows
from tests.published import content
from workers.chat_template import time_of
from workers.dataset import load_job_data
from workers.worker import Worker

DATED = CHATML.replace("You are a helpful assistant", "Today is {{ strftime_now('%Y-%m-%d %H:%M:%S') }}")
SUBMITTED = 1_700_000_000.0
DAY = 86_400.0


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    tokenizer = field_tokenizer(DATED)
    base = save_base(tmp_path / "tiny", field_llama(len(tokenizer), max_position_embeddings=256), tokenizer)
    turns = [{"role": "user", "content": "fox"}, {"role": "assistant", "content": "hello"}]
    rows = write_rows(tmp_path / "rows.jsonl", [{"messages": turns}] * 6)
    document = field_spec(
        rows,
        base=base,
        training={"max_steps": 30, "per_device_train_batch_size": 2, "save_steps": 10},
        scheduling={"packing": "exact"},
    )
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def run_at(unix_seconds: float, spec: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    clock = SimpleNamespace(time=lambda: unix_seconds, monotonic=time.monotonic)
    monkeypatch.setattr("orchestrator.run.time", clock)
    return run(RunOptions(specs=(spec,), output_dir=folder, in_process=True), Console(stderr=True, quiet=True))


def test_a_job_that_goes_on_another_day_ends_with_the_bytes_of_one_that_was_not_stopped(
    tmp_path: Path, spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_at(SUBMITTED, spec, tmp_path / "whole", monkeypatch).ok
    calls = 0
    step = Worker.step

    def step_and_stop(worker: Worker) -> Any:
        nonlocal calls
        calls += 1
        if calls == 15:
            os.kill(os.getpid(), signal.SIGINT)
        return step(worker)

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "step", step_and_stop)
        with pytest.raises(Interrupted):
            run_at(SUBMITTED, spec, tmp_path / "parts", patch)
    assert list((tmp_path / "parts/checkpoints/case").iterdir())
    again = run_at(SUBMITTED + DAY + 7, spec, tmp_path / "parts", monkeypatch)
    assert [(job.state, job.steps) for job in again.jobs] == [("SUCCEEDED", 30)]
    log = (tmp_path / "parts/logs/case.log").read_text()
    assert "resumed at step" in log
    whole, parts = (content(tmp_path / name / "artifacts/case") for name in ("whole", "parts"))
    assert whole["adapter_model.safetensors"] == parts["adapter_model.safetensors"]


def test_a_template_prints_the_time_that_it_is_given_in_utc(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"messages": [{"role": "user", "content": "fox"}]}])
    tokenizer = field_tokenizer(DATED)

    def text(at: float | None) -> str:
        (row,) = load_job_data(field_job(rows), tokenizer, now_unix_seconds=at).train
        return str(tokenizer.decode(row.ids))

    assert "Today is 2023-11-14 22:13:20<" in text(SUBMITTED)
    assert "Today is 2023-11-15 22:13:20<" in text(SUBMITTED + DAY)
    assert f"Today is {time_of(None):%Y-}" in text(None)


def test_what_a_template_draws_at_random_is_drawn_once(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"messages": [{"role": "user", "content": "fox"}]}])
    tokenizer = field_tokenizer("{{ range(99999) | random }}" + CHATML)
    prints = {load_job_data(field_job(rows), tokenizer, now_unix_seconds=SUBMITTED).train.fingerprint for _ in range(3)}
    assert len(prints) == 1
