"""An adapter on the output head trains as PEFT trains it, alone and in packs with jobs that leave the head bare."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.spec import JobSpec
from tests.models import Trained, admit, make_data, make_spec, make_worker, norms_in_own_dtype, tiny_llama, train
from tests.parity.oracle import Errors, OracleRun, compare, point_five, train_alone
from workers import head_adapter

NUM_STEPS = 6
DTYPE = torch.float64
LORA: dict[str, dict[str, Any]] = {
    "head": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "lm_head"]},
    "dropped": {"r": 3, "lora_alpha": 5, "target_modules": ["v_proj", "lm_head"], "lora_dropout": 0.2},
    "only": {"r": 2, "lora_alpha": 3, "target_modules": ["lm_head"], "init_lora_weights": False},
    "bare": {"r": 4, "lora_alpha": 4, "target_modules": ["q_proj", "down_proj"], "lora_dropout": 0.1},
}
DATA = {
    "head": make_data(1, [2, 9, 5, 12, 3, 7, 6], held_out=[5, 3]),
    "dropped": make_data(2, [6, 2, 11, 4, 3, 8, 5]),
    "only": make_data(3, [4, 13, 2, 7, 7]),
    "bare": make_data(4, [8, 2, 3, 10, 5]),
}


def spec_of(name: str) -> JobSpec:
    training = {
        "max_steps": NUM_STEPS,
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 2 if name == "dropped" else 1,
        "learning_rate": 1e-2,
        "max_grad_norm": 0.5,
        "seed": len(name),
    }
    return make_spec(name, dtype=DTYPE, lora=LORA[name], training=training)


def together(folder: Path, names: tuple[str, ...], **settings: Any) -> Trained:
    with norms_in_own_dtype():
        return train(make_worker(tiny_llama(DTYPE), DATA, folder, **settings), [spec_of(name) for name in names])


@cache
def oracle(name: str) -> OracleRun:
    """The job alone in PEFT."""
    with norms_in_own_dtype():
        worker = make_worker(tiny_llama(DTYPE), DATA, Path("never-written"))
        initial = admit(worker, [spec_of(name)]).initial[name]
        return train_alone(tiny_llama(DTYPE), spec_of(name), DATA[name].train, initial, num_steps=NUM_STEPS)


def assert_as_peft(trained: Trained, names: tuple[str, ...]) -> None:
    bound = point_five(DTYPE, ())
    for name in names:
        errors: Errors = compare(trained.losses(name), trained.final(name), oracle(name))
        assert errors.loss <= bound.loss, name
        assert errors.adapter <= bound.adapter, name
        norms = [step.grad_norm for step in trained.steps(name)]
        assert norms == pytest.approx(oracle(name).grad_norms, rel=1e-7)


@pytest.mark.parametrize("names", [("head",), ("dropped",), ("only",), tuple(LORA), tuple(LORA)[::-1]], ids="+".join)
@pytest.mark.parametrize("settings", [{}, {"layout": "padded"}, {"num_lanes": 2}], ids=["packed", "padded", "lanes"])
def test_head_adapters_learn_what_peft_makes_them_learn(
    names: tuple[str, ...], settings: dict[str, Any], tmp_path: Path
) -> None:
    assert_as_peft(together(tmp_path, names, **settings), names)


def test_labels_taken_in_several_chunks_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_adapter, "chunk_labels", lambda vocab_size: 2)
    assert_as_peft(together(tmp_path, tuple(LORA)), tuple(LORA))
