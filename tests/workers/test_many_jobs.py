"""Many unlike jobs on one base at a time, and what each would have got alone."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from jobs.records import JobState
from jobs.spec import JobSpec
from tests.models import (
    Trained,
    admit,
    make_data,
    make_spec,
    make_worker,
    norms_in_own_dtype,
    tiny_gpt2,
    tiny_llama,
    train,
)
from workers.dataset import JobData
from workers.memory import PackLoad

NUM_JOBS = 32
TARGETS = (["q_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj", "down_proj"], "all-linear")
RANKS = (1, 2, 3, 4, 5, 8, 13, 16)
OPTIMIZERS = ("adamw_torch", "sgd")
SCHEDULES = ("linear", "cosine", "constant", "inverse_sqrt", "polynomial")


def unlike_jobs() -> dict[str, tuple[JobSpec, JobData]]:
    """No two equal: 32 combinations of rank and targets, each with other training settings and rows."""
    jobs = {}
    for number, (r, targets) in enumerate(itertools.product(RANKS, TARGETS)):
        name = f"job-{number}"
        spec = make_spec(
            name,
            dtype=torch.float64,
            lora={"r": r, "lora_alpha": 1 + number, "target_modules": targets, "lora_dropout": 0.1 * (number % 3)},
            training={
                "max_steps": 2 + number % 4,
                "per_device_train_batch_size": 1 + number % 5,
                "gradient_accumulation_steps": 1 + number % 2,
                "learning_rate": 1e-3 * (1 + number % 7),
                "lr_scheduler_type": SCHEDULES[number % 5],
                "optim": OPTIMIZERS[number // 3 % 2],
                "weight_decay": 0.1 * (number % 4),
                "max_grad_norm": 0.5 * (number % 3),
                "seed": number,
            },
        )
        lengths = [3 + (number * 7 + position * 5) % 11 for position in range(3 + number % 6)]
        jobs[name] = (spec, make_data(number, lengths))
    return jobs


def assert_close(together: Trained, alone: Trained, name: str) -> None:
    assert together.losses(name) == pytest.approx(alone.losses(name), rel=1e-9, abs=0)
    for module, factors in alone.final(name).items():
        for mine, other in zip(together.final(name)[module], factors, strict=True):
            assert (mine - other).norm() <= 1e-7 * other.norm()


@pytest.mark.parametrize("token_budget", [4096, 60])
def test_32_unlike_jobs_on_one_base_all_finish_each_with_its_own_result(token_budget: int, tmp_path: Path) -> None:
    """Rows of three tokens and more: one of two gives a query projection no gradient, and AdamW steps on the noise."""
    with norms_in_own_dtype():
        train_together_and_alone(token_budget, tmp_path)


def train_together_and_alone(token_budget: int, tmp_path: Path) -> None:
    jobs = unlike_jobs()
    assert len(jobs) == NUM_JOBS
    specs = [spec for spec, _ in jobs.values()]
    data = {name: rows for name, (_, rows) in jobs.items()}
    worker = make_worker(tiny_llama(torch.float64), data, tmp_path / "together", token_budget=token_budget)
    trained = admit(worker, specs)
    assert worker.status().adapters == NUM_JOBS
    while not worker.is_idle:
        trained.reports += worker.step()
    for spec in specs:
        assert trained.end(spec.name).state is JobState.SUCCEEDED
        assert len(trained.steps(spec.name)) == spec.training.max_steps
        assert (tmp_path / "together" / spec.name / "adapter_model.safetensors").is_file()
    for spec in specs:
        alone = train(make_worker(tiny_llama(torch.float64), data, tmp_path / spec.name), [spec])
        assert_close(trained, alone, spec.name)


def test_a_job_admitted_after_another_left_starts_from_its_own_weights(tmp_path: Path) -> None:
    """Nothing of a former job is left where a later one comes to live."""
    spec = make_spec("job", lora={"r": 4}, training={"max_steps": 3, "learning_rate": 1e-2})
    former = spec.model_copy(update={"name": "former"})
    data = {"job": make_data(1, [5, 3, 8]), "former": make_data(2, [7, 2, 9])}
    first = train(make_worker(tiny_gpt2(), data, tmp_path / "fresh"), [spec])
    worker = make_worker(tiny_gpt2(), data, tmp_path / "used")
    train(worker, [former])
    later = train(worker, [spec])
    for module, factors in first.final("job").items():
        assert all(torch.equal(mine, other) for mine, other in zip(later.final("job")[module], factors, strict=True))
    assert later.losses("job") == first.losses("job")


def test_a_job_without_room_waits_and_is_admitted_once_there_is_some(tmp_path: Path) -> None:
    specs = [make_spec(name, lora={"r": 4}, training={"max_steps": 2}) for name in ("first", "second", "third")]
    data = {spec.name: make_data(number, [4, 6]) for number, spec in enumerate(specs)}
    probe = make_worker(tiny_llama(), data, tmp_path)
    admitted = admit(probe, specs)
    demand = admitted.runs["first"].demand
    room_for_two = (
        probe._admission.shape.base_bytes
        + 2 * demand.adapter_bytes
        + probe._admission.shape.pack_bytes(PackLoad(tokens=20, labels=20))
    )
    worker = make_worker(tiny_llama(), data, tmp_path / "tight", capacity_bytes=room_for_two)
    trained = admit(worker, specs)
    assert list(trained.runs) == ["first", "second"]
    assert worker.status().waiting == 1
    while not worker.is_idle:
        trained.reports += worker.step()
        assert len(worker.runs()) <= 2
    assert {trained.end(spec.name).state for spec in specs} == {JobState.SUCCEEDED}


def test_a_job_that_fits_nowhere_fails_with_figures_and_holds_nobody_up(tmp_path: Path) -> None:
    huge = make_spec("huge", lora={"r": 4096}, training={"max_steps": 1})
    small = make_spec("small", lora={"r": 2}, training={"max_steps": 1})
    data = {"huge": make_data(1, [4, 6]), "small": make_data(2, [4, 6])}
    trained = train(make_worker(tiny_llama(), data, tmp_path, capacity_bytes=2**22), [huge, small])
    end = trained.end("huge")
    assert (end.state, end.reason) == (JobState.FAILED, "memory")
    assert "GiB" in end.message
    assert "lora.r" in end.message
    assert trained.end("small").state is JobState.SUCCEEDED


def test_a_rank_that_no_module_can_hold_twice_over_is_still_only_a_number(tmp_path: Path) -> None:
    """r larger than both widths of a linear is legal, and trains."""
    spec = make_spec("wide", lora={"r": 64, "lora_alpha": 64}, training={"max_steps": 2, "learning_rate": 1e-2})
    trained = train(make_worker(tiny_llama(), {"wide": make_data(1, [4, 6])}, tmp_path), [spec])
    assert trained.end("wide").state is JobState.SUCCEEDED
