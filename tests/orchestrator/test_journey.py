"""A person's way through the service with the command: eight jobs on SmolLM2, two priorities, real Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.orchestrator.served import Served
from tests.real_inputs import data_file, require, smollm2_dir

pytestmark = [pytest.mark.slow, pytest.mark.real, pytest.mark.ray]

TOKEN_BUDGET = "128"
"""Small, so that not all jobs fit at a time: two packs of it are two or three of these jobs."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path / "data", "--token-budget", TOKEN_BUDGET)
    yield made
    made.close()


class Command:
    """`loraloom`, as somebody types it."""

    def __init__(self, url: str, folder: Path) -> None:
        self._environment = {**os.environ, "LORALOOM_URL": url, "PYTHONPATH": os.getcwd()}
        self._folder = folder

    def __call__(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.cli", *arguments],
            capture_output=True,
            text=True,
            cwd=self._folder,
            env=self._environment,
            timeout=900,
        )
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def jobs(self) -> dict[str, dict[str, Any]]:
        """By id."""
        return {job["id"]: job for job in json.loads(self("list", "--json"))["jobs"]}


def specs(model: str, data: Path) -> str:
    documents = [
        {
            "name": f"journey-{number}",
            "model": {"model_name_or_path": model, "dtype": "float32"},
            "lora": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
            "datasets": [{"path": str(data)}],
            "training": {
                "max_steps": 30,
                "per_device_train_batch_size": 2,
                "max_length": 48,
                "save_steps": 5,
                "logging_steps": 1,
                "seed": number,
            },
            "scheduling": {"priority": 1 if number < 4 else 0, "packing": "exact"},
        }
        for number in range(8)
    ]
    return yaml.safe_dump_all(documents, sort_keys=False)


def wait_until(served: Served, happened: Any, what: str) -> None:
    deadline = time.monotonic() + 900
    while not happened():
        assert served.process is not None
        assert served.process.poll() is None, served.told()
        assert time.monotonic() < deadline, f"not within 900 s: {what}\n{served.told()}"
        time.sleep(1)


def test_eight_jobs_on_a_real_base_are_steered_by_the_command_to_their_ends(served: Served, tmp_path: Path) -> None:
    require()
    model, data = str(smollm2_dir()), data_file("trec-coarse.train.jsonl")
    (tmp_path / "jobs.yaml").write_text(specs(model, data))
    served.start()
    loraloom = Command(served.url, tmp_path)
    assert loraloom("submit", "jobs.yaml").split() == [f"journey-{number}" for number in range(8)]

    def running() -> set[str]:
        return {job for job, found in loraloom.jobs().items() if found["state"] == "RUNNING"}

    wait_until(served, running, "somebody trains")
    wait_until(served, lambda: "waiting:" in loraloom("show", "journey-7"), "the last one says why it waits")
    first = sorted(running())
    assert all(job < "journey-4" for job in first), first
    # Paused and resumed.
    loraloom("pause", first[0])
    wait_until(served, lambda: loraloom.jobs()[first[0]]["state"] == "PAUSED", "it is paused")
    loraloom("resume", first[0])
    # A priority is raised: somebody makes room, and is done later.
    loraloom("priority", "journey-7", "5")
    wait_until(served, lambda: loraloom.jobs()["journey-7"]["state"] in ("RUNNING", "SUCCEEDED"), "the raised one runs")
    loraloom("cancel", "journey-6")
    wait_until(
        served,
        lambda: all(job["state"] in ("SUCCEEDED", "CANCELLED") for job in loraloom.jobs().values()),
        "all have ended",
    )
    states = {job: found["state"] for job, found in loraloom.jobs().items()}
    assert [job for job, state in states.items() if state == "CANCELLED"] == ["journey-6"]
    preempted = [job for job in states if "(preempted)" in loraloom("events", job)]
    assert preempted
    assert "journey-7" not in preempted
    # What was stopped on the way has the adapter of one that was not.
    alone = tmp_path / "alone"
    chosen = preempted[0]
    documents = [one for one in yaml.safe_load_all((tmp_path / "jobs.yaml").read_text()) if one["name"] == chosen]
    (tmp_path / "alone.yaml").write_text(yaml.safe_dump(documents[0]))
    loraloom("run", "alone.yaml", "--output-dir", str(alone))
    loraloom("artifacts", "get", chosen, str(tmp_path / "got"))
    loraloom("artifacts", "verify", chosen)
    got = tmp_path / "got" / "adapter_model.safetensors"
    assert got.read_bytes() == (alone / "artifacts" / chosen / "adapter_model.safetensors").read_bytes()
    opened = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), str(got.parent))
    assert sum("lora_" in name for name, _ in opened.named_parameters()) == 2 * 2 * 30
