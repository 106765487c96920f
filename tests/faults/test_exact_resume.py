"""Interrupted = uninterrupted, to the byte: real runs, stopped by real signals at seeded instants."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.faults.runs import Run
from tests.nursery import Nursery
from tests.orchestrator.conftest import WriteSpecs, specs_in

EXACT: dict[str, Any] = {"scheduling": {"packing": "exact"}, "lora": {"lora_dropout": 0.1}}
TRAINING = {
    "max_steps": 18,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 3,
    "logging_steps": 1,
    "save_steps": 3,
    "weight_decay": 0.1,
    "lr_scheduler_type": "cosine",
    "eval_strategy": "steps",
    "eval_steps": 5,
}
JOBS: tuple[dict[str, Any], ...] = (
    {**EXACT, "training": TRAINING},
    {**EXACT, "training": {**TRAINING, "optim": "sgd", "gradient_accumulation_steps": 1, "seed": 7}},
    {**EXACT, "training": {**TRAINING, "per_device_train_batch_size": 5, "save_steps": 1}, "val_size": 0},
)
ROWS_A_STEP = 6


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, rows: Path) -> Path:
    jobs = [{**one, "training": {**one["training"]}} for one in JOBS]
    jobs[2]["training"]["eval_strategy"] = "no"
    return specs_in(tmp_path_factory.mktemp("exact"), tiny_base, rows)(*jobs)


@pytest.fixture(scope="module")
def whole(nursery: Nursery, specs: Path) -> Run:
    """The run that nobody disturbs."""
    run = Run(nursery, specs, specs.parent / "whole")
    run.finish()
    run.rows_of_epochs(ROWS_A_STEP)
    return run


def same(run: Run, whole: Run) -> None:
    assert run.adapters() == whole.adapters()
    assert run.metrics() == whole.metrics()
    run.rows_of_epochs(ROWS_A_STEP)
    run.check_history()


@pytest.mark.parametrize("seeds", [range(4), pytest.param(range(4, 24), marks=pytest.mark.slow)])
def test_stopped_at_random_instants_it_ends_with_the_same_bytes(
    nursery: Nursery, specs: Path, whole: Run, tmp_path: Path, seeds: range
) -> None:
    stops = 0
    for seed in seeds:
        draw = random.Random(seed)
        run = Run(nursery, specs, tmp_path / f"run-{seed}")
        for _ in range(draw.randint(1, 3)):
            number = draw.choice([signal.SIGKILL, signal.SIGTERM])
            code = run.stopped(draw.randint(1, 30), draw.random() * 0.05, number)
            stops += code != 0
        run.finish()
        same(run, whole)
    assert stops > len(seeds) / 2


@pytest.mark.parametrize("call", ["write", "fsync", "rename", "mkdir"])
def test_killed_in_the_middle_of_a_save_it_ends_with_the_same_bytes(
    nursery: Nursery, specs: Path, whole: Run, tmp_path: Path, call: str
) -> None:
    run = Run(nursery, specs, tmp_path / "run")
    # On a slow disk there are few saves: each has one `mkdir` at least.
    for number in (2, 5):
        run.start(die_in=(call, number, "/checkpoints/"))
        assert run.wait() == -signal.SIGKILL, run.told()
    told = run.finish()
    assert "resumed at step" in told or "starts over" in told
    same(run, whole)
    left = [path.name for path in (run.folder / "checkpoints").rglob(".*")]
    assert left == []


def test_terminated_it_loses_at_most_the_step_under_way_and_killed_what_came_after_the_last_save(
    nursery: Nursery, write_specs: WriteSpecs, tmp_path: Path
) -> None:
    training = {**TRAINING, "max_steps": 200, "save_steps": 5, "gradient_accumulation_steps": 2, "eval_strategy": "no"}
    run = Run(nursery, write_specs({"training": training}, {"training": training}), tmp_path / "run")
    assert run.stopped(20, 0.0, signal.SIGTERM) == 128 + signal.SIGTERM
    assert "run the same command again to go on from there" in run.told()
    stood = run.last_steps()
    # Dies as it begins to publish, so that what it goes on from is the save before that one and nothing else.
    run.start(die_in=("rename", 5, "/checkpoints/"))
    assert run.wait() == -signal.SIGKILL, run.told()
    assert run.resumed_at() == stood
    with run.journal() as journal:
        committed = {name: journal.checkpoints(name)[0].step for name in stood}
    assert any(committed[name] > step for name, step in stood.items())
    told = run.finish()
    assert told.count("resumed at step") == 4
    assert run.resumed_at() == committed


def test_in_a_shared_pack_a_stop_changes_no_more_than_the_order_of_sums(
    nursery: Nursery, write_specs: WriteSpecs, tmp_path: Path
) -> None:
    specs = write_specs({"training": TRAINING}, {"training": {**TRAINING, "seed": 7}})
    whole = Run(nursery, specs, tmp_path / "whole")
    whole.finish()
    run = Run(nursery, specs, tmp_path / "run")
    run.stopped(9, 0.0, signal.SIGKILL)
    run.stopped(9, 0.0, signal.SIGTERM)
    run.finish()
    for name in ("job-0", "job-1"):
        ours, theirs = (
            load_file(one.folder / "artifacts" / name / "adapter_model.safetensors") for one in (run, whole)
        )
        for key, value in theirs.items():
            assert torch.linalg.vector_norm(ours[key] - value) <= 1e-3 * torch.linalg.vector_norm(value)
    run.check_history()
