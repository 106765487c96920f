"""Over one flat buffer the optimizer does what torch.optim does to separate tensors; a bad step does nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import get_scheduler

from jobs.spec import LoraSpec, TrainingSpec
from tests.models import make_spec
from workers.adapter import Adapter, allocate, initialise
from workers.optimizer import JobOptimizer, warmup_steps
from workers.targets import Target

TOTAL_STEPS = 12


def adapter_of() -> Adapter:
    targets = {
        f"module-{number}": Target(in_features=9 + number, out_features=7, r=3 + number, alpha=1.0, scale=1.0)
        for number in range(3)
    }
    adapter = allocate(targets, dtype=torch.float64, device=torch.device("cpu"))
    initialise(adapter, LoraSpec(init_lora_weights=False), seed=1)
    return adapter


def training_of(**training: Any) -> TrainingSpec:
    return make_spec("job", training={"learning_rate": 0.05, **training}).training


def tensors_of(adapter: Adapter) -> list[torch.Tensor]:
    return [view for factors in adapter.factors.values() for view in (factors.a_RI, factors.b_OR)]


def fill_gradients(adapter: Adapter, draw: torch.Generator, size: float) -> list[torch.Tensor]:
    filled = []
    for factors in adapter.factors.values():
        for gradient in (factors.grad_a_RI, factors.grad_b_OR):
            assert gradient is not None
            gradient.copy_(torch.randn(gradient.shape, generator=draw, dtype=gradient.dtype) * size)
            filled.append(gradient.clone())
    return filled


@pytest.mark.parametrize(
    "settings",
    [
        {"optim": "adamw_torch"},
        {"optim": "adamw_torch", "weight_decay": 0.3, "adam_beta1": 0.7, "adam_beta2": 0.9, "adam_epsilon": 1e-3},
        {"optim": "sgd", "weight_decay": 0.2},
        {"optim": "adamw_torch", "max_grad_norm": 0.0, "lr_scheduler_type": "cosine", "warmup_steps": 0.25},
        {"optim": "sgd", "max_grad_norm": 0.1, "lr_scheduler_type": "inverse_sqrt", "warmup_steps": 4},
        {"lr_scheduler_type": "cosine_with_restarts"},
        {"lr_scheduler_type": "polynomial", "warmup_steps": 1},
        {"lr_scheduler_type": "constant"},
        {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 5},
    ],
    ids=str,
)
def test_steps_are_those_of_torch_optim_on_separate_tensors(settings: dict[str, Any]) -> None:
    training = training_of(**settings)
    adapter = adapter_of()
    ours = JobOptimizer(adapter, training, TOTAL_STEPS)
    parameters = [torch.nn.Parameter(view.clone()) for view in tensors_of(adapter)]
    if training.optim == "sgd":
        theirs = torch.optim.SGD(parameters, lr=0.05, weight_decay=training.weight_decay)
    else:
        betas = (training.adam_beta1, training.adam_beta2)
        theirs = torch.optim.AdamW(
            parameters, lr=0.05, betas=betas, eps=training.adam_epsilon, weight_decay=training.weight_decay
        )
    warmup = training.warmup_steps
    schedule = get_scheduler(
        training.lr_scheduler_type,
        theirs,
        num_warmup_steps=math.ceil(warmup * TOTAL_STEPS) if warmup < 1 else warmup,
        num_training_steps=TOTAL_STEPS,
    )
    draw = torch.Generator().manual_seed(0)
    for step in range(TOTAL_STEPS):
        gradients = fill_gradients(adapter, draw, size=10.0 if step % 2 else 1e-3)
        update = ours.step(1.0)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        limit = training.max_grad_norm or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
        assert update.applied
        assert update.learning_rate == schedule.get_last_lr()[0]
        assert update.grad_norm == pytest.approx(norm, rel=1e-12)
        theirs.step()
        schedule.step()
        for mine, other in zip(tensors_of(adapter), parameters, strict=True):
            assert (mine - other).norm() <= 1e-13 * other.norm()
        assert not adapter.grads.any()


@pytest.mark.parametrize("where", ["gradient", "loss"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("optim", ["adamw_torch", "sgd"])
def test_a_step_that_is_not_finite_changes_neither_weights_nor_moments_nor_schedule(
    optim: str, value: float, where: str
) -> None:
    training = training_of(optim=optim, weight_decay=0.5, warmup_steps=5)
    disturbed, calm = adapter_of(), adapter_of()
    optimizers = [JobOptimizer(adapter, training, TOTAL_STEPS) for adapter in (disturbed, calm)]
    draws = [torch.Generator().manual_seed(0) for _ in range(2)]
    for step in range(4):
        for adapter, draw in zip((disturbed, calm), draws, strict=True):
            fill_gradients(adapter, draw, 1.0)
        assert all(optimizer.step(1.0).applied for optimizer in optimizers)
        if step == 1:
            fill_gradients(disturbed, torch.Generator().manual_seed(9), 1.0)
            if where == "gradient":
                disturbed.grads[3] = value
            update = optimizers[0].step(value if where == "loss" else 1.0)
            assert not update.applied
            assert not disturbed.grads.any()
    assert torch.equal(disturbed.values, calm.values)
    states = [optimizer._optimizer.state_dict()["state"] for optimizer in optimizers]
    assert states[0].keys() == states[1].keys()
    for key, state in states[1].items():
        assert all(
            torch.equal(states[0][key][name], value)
            if isinstance(value, torch.Tensor)
            else states[0][key][name] == value
            for name, value in state.items()
        )
    rates = [optimizer._optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    assert rates[0] == rates[1]


def test_the_norm_that_is_reported_is_the_one_before_clipping() -> None:
    adapter = adapter_of()
    optimizer = JobOptimizer(adapter, training_of(max_grad_norm=0.5), TOTAL_STEPS)
    adapter.grads[:4] = 3.0
    assert optimizer.step(1.0).grad_norm == pytest.approx(6.0, rel=1e-15)


@pytest.mark.parametrize(
    "wanted, total, expected", [(0, 10, 0), (3, 10, 3), (0.1, 10, 1), (0.25, 10, 3), (0.5, 7, 4), (0.999, 3, 3)]
)
def test_warm_up_below_one_is_a_share_of_all_steps_rounded_up(wanted: float, total: int, expected: int) -> None:
    assert warmup_steps(training_of(warmup_steps=wanted), total) == expected
