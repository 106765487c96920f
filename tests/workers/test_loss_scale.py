"""fp16 bases: small gradients survive, and what the scale does to them is taken out again to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from jobs.spec import JobSpec
from tests.models import make_data, make_spec, make_worker, tiny_llama, train
from tests.workers.test_isolation import assert_same_bits
from workers import pack_runner
from workers.loss import head_losses
from workers.loss_scale import loss_scale

LABELS, VOCABULARY, WIDTH = 4096, 32_000, 16


@pytest.mark.parametrize("labels", [1, 2, 3, 4095, 4096, 4097, 10**6])
def test_the_scale_is_a_power_of_two_that_gives_every_label_a_weight_of_eight_to_sixteen(labels: int) -> None:
    scale = loss_scale(torch.float16, labels)
    assert torch.frexp(torch.tensor(scale)).mantissa == 0.5
    assert 8 <= scale / labels <= 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_other_types_need_none(dtype: torch.dtype) -> None:
    assert loss_scale(dtype, 4096) == 1.0


def head_gradient_error(dtype: torch.dtype, scale: float) -> float:
    """Of a mean over many labels and a large vocabulary, against fp64 on the same numbers, relative."""
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(LABELS, WIDTH, generator=draw).to(dtype)
    weight = (0.3 * torch.randn(VOCABULARY, WIDTH, generator=draw)).to(dtype)
    labels = torch.randint(VOCABULARY, (LABELS,), generator=draw)
    ours = hidden.clone().requires_grad_()
    head_losses(ours, weight, None, labels, torch.full((LABELS,), scale / LABELS)).total.backward()
    truth = hidden.double().requires_grad_()
    for start in range(0, LABELS, 512):
        part = slice(start, start + 512)
        logits = F.linear(truth[part], weight.double())
        (F.cross_entropy(logits, labels[part], reduction="sum") / LABELS).backward()
    assert ours.grad is not None
    assert truth.grad is not None
    return float((ours.grad.double() / scale - truth.grad).norm() / truth.grad.norm())


def test_the_heads_gradient_in_fp16_is_no_worse_than_in_bf16() -> None:
    unscaled = head_gradient_error(torch.float16, 1.0)
    scaled = head_gradient_error(torch.float16, loss_scale(torch.float16, LABELS))
    assert scaled <= head_gradient_error(torch.bfloat16, 1.0) < unscaled


def spec_of(name: str, dtype: torch.dtype, **training: Any) -> JobSpec:
    settings = {"max_steps": 6, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "seed": 3}
    return make_spec(name, dtype=dtype, packing="exact", lora={"r": 4}, training=settings | training)


def test_scaling_changes_no_bit_where_nothing_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In fp32, where every gradient is a normal number with and without the scale, both trainings are the same."""
    data = {"job": make_data(1, [5, 3, 8, 2, 6])}
    plain = train(make_worker(tiny_llama(), data, tmp_path / "plain"), [spec_of("job", torch.float32)])
    monkeypatch.setattr(pack_runner, "loss_scale", lambda _, labels: loss_scale(torch.float16, labels))
    scaled = train(make_worker(tiny_llama(), data, tmp_path / "scaled"), [spec_of("job", torch.float32)])
    assert_same_bits(scaled, plain, "job")


def test_in_fp16_an_exact_job_is_bit_equal_alone_and_beside_others_and_learns(tmp_path: Path) -> None:
    data = {name: make_data(seed, [5, 3, 8, 2, 6]) for seed, name in enumerate(("job", "other", "third"))}
    model = torch.float16
    specs = [spec_of(name, model, learning_rate=1e-2) for name in data]
    alone = train(make_worker(tiny_llama(model), data, tmp_path / "alone"), specs[:1])
    together = train(make_worker(tiny_llama(model), data, tmp_path / "together"), [specs[1], specs[0], specs[2]])
    assert_same_bits(together, alone, "job")
    assert not any(step.skipped for step in alone.steps("job"))
    assert min(alone.losses("job")) < alone.losses("job")[0]
