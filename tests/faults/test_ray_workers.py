"""Workers under real Ray that are killed, terminated and hung: replaced by themselves, and never heard again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.faults.runs import Run
from tests.nursery import Nursery

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]
WriteSpecs = Callable[..., Path]

TRAINING: dict[str, Any] = {
    "max_steps": 350,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "logging_steps": 1,
    "save_steps": 10,
}
EXACT: dict[str, Any] = {"scheduling": {"packing": "exact"}, "training": TRAINING, "lora": {"lora_dropout": 0.1}}
RAY = ("--workers", "1", "--lease", "15")


def kill(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def test_killed_terminated_and_hung_workers_are_replaced_and_jobs_move_between_ray_and_this_process(
    nursery: Nursery, write_specs: WriteSpecs, tmp_path: Path
) -> None:
    specs = write_specs(EXACT, {**EXACT, "training": {**TRAINING, "seed": 3}})
    whole = Run(nursery, specs, tmp_path / "whole")
    whole.finish()
    run = Run(nursery, specs, tmp_path / "run", options=RAY)
    run.start()
    gone: list[int] = []
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP):
        assert run.wait_until_told(r" step \d+/", times=len(run.told().splitlines()) + 40)
        [pid] = [one for one in run.worker_pids() if one not in gone]
        before = run.count_told(r"resumed at step \d+ of")
        kill(pid, number)
        assert run.wait_until_told(r"resumed at step \d+ of", times=before + 2), run.told()
        gone.append(pid)
    kill(gone[-1], signal.SIGCONT)
    assert run.wait_until_told(r" step \d+/", times=len(run.told().splitlines()) + 40)
    # Terminated as a whole, Ray's own processes with it, and on without Ray.
    stood = run.last_steps()
    run.signal(signal.SIGTERM, group=True)
    assert run.wait() == 128 + signal.SIGTERM, run.told()
    assert "saved: job-0 at step " in run.told()
    told = run.told()
    assert "no sign of life for 15 seconds" in told
    assert "(preempted): w1: terminated (SIGTERM)" in told
    assert told.count("(worker_lost)") >= 4
    run.options = ("--in-process", "--workers", "1")
    run.finish()
    assert all(run.resumed_at()[name] >= step for name, step in stood.items())
    assert run.adapters() == whole.adapters()
    assert run.metrics() == whole.metrics()
    run.check_history()
    with run.journal() as journal:
        assert all(job.num_charged == 0 for job in journal.jobs())
