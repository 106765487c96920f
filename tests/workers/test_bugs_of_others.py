"""Faults that other trainers have had, and that must stay absent here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from jobs.records import LogReport
from jobs.spec import JobSpec
from tests.models import Trained, make_data, make_spec, make_worker, tiny_llama, train
from workers.dataset import JobData, TokenisedRows

KEYS_OF_PEFT_0_10 = frozenset(
    [
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "layer_replication",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_dropout",
        "megatron_config",
        "megatron_core",
        "modules_to_save",
        "peft_type",
        "r",
        "rank_pattern",
        "revision",
        "target_modules",
        "task_type",
        "use_dora",
        "use_rslora",
    ]
)
"""The fields of `LoraConfig` as PEFT 0.10 had it, which refuses others."""


def mean_loss(rows: TokenisedRows) -> float:
    """Σ losses / Σ labels of the bare model, row by row."""
    model, losses, labels = tiny_llama(), 0.0, 0
    with torch.no_grad():
        for row in rows:
            ids, labelled = torch.as_tensor(row.ids), torch.as_tensor(row.labelled)[1:]
            logits = model(ids[None].long()).logits[0, :-1][labelled]
            losses += float(F.cross_entropy(logits, ids[1:][labelled].long(), reduction="sum"))
            labels += int(labelled.sum())
    return losses / labels


def trained_with(training: dict[str, Any], data: JobData, folder: Path, *, held_out: bool = False) -> Trained:
    spec = make_spec("job", packing="exact", training=training, **({"val_size": 2} if held_out else {}))
    return train(make_worker(tiny_llama(), {"job": data}, folder), [spec])


def test_accumulation_weighs_labels_and_not_micro_batches(tmp_path: Path) -> None:
    """4 rows of 3, 5, 9 and 21 labels in one micro-batch or in four: transformers#35203, trl#2604."""
    data = make_data(1, [4, 6, 10, 22], share_labelled=1.0)
    plain = {"optim": "sgd", "lr_scheduler_type": "constant", "learning_rate": 0.1, "max_steps": 1}
    whole, parts = (
        trained_with(
            {**plain, "per_device_train_batch_size": size, "gradient_accumulation_steps": 4 // size},
            data,
            tmp_path / str(size),
        )
        for size in (4, 1)
    )
    assert [step.label_tokens for step in (*whole.steps("job"), *parts.steps("job"))] == [38, 38]
    # B is zero, so the first loss is the bare model's.
    expected = pytest.approx(mean_loss(data.train), rel=1e-6)
    assert whole.losses("job") == [expected]
    assert parts.losses("job") == [expected]
    for name, factors in whole.final("job").items():
        assert factors[1].norm() > 0
        for a, b in zip(factors, parts.final("job")[name], strict=True):
            assert (a - b).norm() <= 1e-6 * max(1.0, float(a.norm()))


def test_the_loss_of_an_evaluation_is_one_value_whatever_the_batch(tmp_path: Path) -> None:
    """5 rows of unlike lengths in batches of 1, 2 and 5: transformers#39241, #24839."""
    data = make_data(2, [3, 4], held_out=[2, 5, 9, 14, 21])
    assert data.evaluation is not None
    losses = [
        trained_with({"max_steps": 1, "per_device_eval_batch_size": size}, data, tmp_path / str(size), held_out=True)
        .evaluations("job")[0]
        .loss
        for size in (1, 2, 5)
    ]
    assert losses == [pytest.approx(mean_loss(data.evaluation), rel=1e-6)] * 3


@pytest.mark.parametrize(
    "lora", [{}, {"rank_pattern": {"q_proj": 2}, "use_rslora": True}, {"exclude_modules": ["q_proj"]}]
)
def test_peft_of_two_years_ago_knows_every_key_of_the_configuration(lora: dict[str, Any], tmp_path: Path) -> None:
    spec = make_spec("job", lora=lora, training={"max_steps": 1})
    staged = (
        train(make_worker(tiny_llama(), {"job": make_data(1, [4, 5])}, tmp_path), [spec]).end("job").staged_artifact
    )
    assert staged is not None
    config = json.loads((Path(staged) / "adapter_config.json").read_text(encoding="utf-8"))
    assert set(config) <= KEYS_OF_PEFT_0_10


@pytest.mark.parametrize(
    "training, expected",
    [
        ({"max_steps": 10, "eval_strategy": "steps", "eval_steps": 0.25}, [0, 3, 6, 9, 10]),
        ({"max_steps": 4, "eval_strategy": "steps", "eval_steps": 0.5}, [0, 2, 4]),
    ],
)
def test_evaluations_a_share_of_all_steps_apart(training: dict[str, Any], expected: list[int], tmp_path: Path) -> None:
    """As transformers rounds it: ceil(steps × share)."""
    trained = trained_with(training, make_data(1, [3, 4, 5], held_out=[4]), tmp_path, held_out=True)
    assert [report.step for report in trained.evaluations("job")] == expected


@pytest.mark.parametrize(
    "training, every",
    [({"save_strategy": "epoch"}, 3), ({"save_steps": 0.25}, 2), ({"save_strategy": "no"}, None), ({}, 100)],
)
def test_checkpoints_are_as_far_apart_as_asked(training: dict[str, Any], every: int | None, tmp_path: Path) -> None:
    sized = {"per_device_train_batch_size": 2, "num_train_epochs": 2, **training}
    trained = trained_with(sized, make_data(1, [3, 4, 5, 6, 7]), tmp_path)
    assert trained.runs["job"].total_steps == 6
    assert trained.runs["job"].save_interval == every


def test_an_optimizer_of_8_bits_trains_as_adamw_and_the_log_says_so_once(tmp_path: Path) -> None:
    def finals(optim: str) -> Trained:
        spec = JobSpec.model_validate(make_spec("job", training={"max_steps": 3, "optim": optim}).model_dump())
        return train(make_worker(tiny_llama(), {"job": make_data(1, [4, 5])}, tmp_path / optim), [spec])

    small, full = finals("adamw_8bit"), finals("adamw_torch")
    for name, factors in small.final("job").items():
        assert all(torch.equal(a, b) for a, b in zip(factors, full.final("job")[name], strict=True))
    said = [
        report.message for report in small.reports if isinstance(report, LogReport) and "adamw_8bit" in report.message
    ]
    assert len(said) == 1
    assert "states stay fp32" in said[0]
