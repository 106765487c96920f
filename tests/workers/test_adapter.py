"""One flat buffer per job: aligned, without overlap, its padding dead; and the ways to start it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.spec import LoraSpec
from tests.models import make_data, make_spec, make_worker, tiny_gpt2, tiny_llama, train
from workers.adapter import Adapter, allocate, dtype_for, initialise
from workers.optimizer import JobOptimizer
from workers.targets import Target

WIDTHS = {"first": (7, 5, 3), "second": (64, 32, 1), "third": (13, 29, 6)}


def targets(**widths: tuple[int, int, int]) -> dict[str, Target]:
    return {
        name: Target(in_features=inputs, out_features=outputs, r=r, alpha=1.0, scale=1.0 / r)
        for name, (inputs, outputs, r) in (widths or WIDTHS).items()
    }


def fresh(dtype: torch.dtype = torch.float32, **widths: tuple[int, int, int]) -> Adapter:
    return allocate(targets(**widths), dtype=dtype, device=torch.device("cpu"))


def padding_of(adapter: Adapter) -> torch.Tensor:
    """Mask of the flat positions that belong to no factor."""
    before = adapter.values.detach().clone()
    adapter.values.data.fill_(1.0)
    for factors in adapter.factors.values():
        factors.a_RI.zero_()
        factors.b_OR.zero_()
    padding = adapter.values.detach().bool()
    adapter.values.data.copy_(before)
    return padding


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_factors_are_aligned_views_that_do_not_overlap(dtype: torch.dtype) -> None:
    adapter = fresh(dtype)
    number = 0
    for factors in adapter.factors.values():
        for view in (factors.a_RI, factors.b_RO, factors.grad_a_RI, factors.grad_b_RO):
            assert view is not None
            assert view.data_ptr() % 64 == 0
            assert view.is_contiguous()
            number += 1
            view.fill_(number)
    number = 0
    for name, factors in adapter.factors.items():
        inputs, outputs, r = WIDTHS[name]
        for view, shape in (
            (factors.a_RI, (r, inputs)),
            (factors.b_OR, (outputs, r)),
            (factors.grad_a_RI, (r, inputs)),
            (factors.grad_b_OR, (outputs, r)),
        ):
            assert view is not None
            number += 1
            assert view.shape == shape
            assert (view == number).all()
    assert adapter.num_parameters == sum(r * (inputs + outputs) for inputs, outputs, r in WIDTHS.values())
    assert adapter.values.grad is adapter.grads
    assert int(padding_of(adapter).sum()) == adapter.values.numel() - adapter.num_parameters > 0


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd"])
def test_padding_stays_zero_under_decay_and_clipping(optim: str) -> None:
    adapter = fresh()
    initialise(adapter, LoraSpec(init_lora_weights=False), seed=1)
    training = make_spec("job", training={"optim": optim, "weight_decay": 0.5, "learning_rate": 0.1}).training
    optimizer = JobOptimizer(adapter, training, 10)
    draw = torch.Generator().manual_seed(0)
    for _ in range(5):
        for factors in adapter.factors.values():
            assert factors.grad_a_RI is not None
            assert factors.grad_b_OR is not None
            factors.grad_a_RI.normal_(generator=draw)
            factors.grad_b_OR.normal_(generator=draw)
        assert optimizer.step(1.0).applied
    padding = padding_of(adapter)
    assert not adapter.values.detach()[padding].any()
    assert adapter.values.detach()[~padding].all()
    assert not adapter.grads.any()


@pytest.mark.parametrize("how", [True, False, "gaussian", "orthogonal"])
def test_a_start_has_the_spread_that_peft_gives_it(how: Any) -> None:
    inputs, outputs, r = 900, 700, 16
    adapter = fresh(wide=(inputs, outputs, r))
    initialise(adapter, LoraSpec(init_lora_weights=how), seed=1)
    a_RI, b_OR = adapter.factors["wide"].a_RI, adapter.factors["wide"].b_OR

    def is_uniform(values: torch.Tensor, bound: float) -> bool:
        deviation = bound / math.sqrt(3)
        spread = abs(float(values.std()) / deviation - 1) < 0.03
        return spread and 0.99 * bound < float(values.abs().max()) <= bound

    def is_normal(values: torch.Tensor, deviation: float) -> bool:
        kurtosis = float((values / values.std()).pow(4).mean())
        return abs(float(values.std()) / deviation - 1) < 0.03 and abs(kurtosis - 3) < 0.3

    if how in (True, False):
        assert is_uniform(a_RI, 1 / math.sqrt(inputs))
    if how in (True, "gaussian"):
        assert not b_OR.any()
    if how is False:
        assert is_uniform(b_OR, 1 / math.sqrt(r))
    if how == "gaussian":
        assert is_normal(a_RI, 1 / r)
    if how == "orthogonal":
        # Each row is a unit combination of r/2 normal directions, over ten.
        assert abs(float(a_RI.norm()) / math.sqrt(r / 2 * inputs) * 10 - 1) < 0.03
        assert abs(float(b_OR.norm()) / math.sqrt(r / 2 * outputs) * 10 - 1) < 0.03
        assert (b_OR @ a_RI).norm() <= 1e-6 * b_OR.norm() * a_RI.norm()
        assert torch.linalg.matrix_rank(a_RI) == torch.linalg.matrix_rank(b_OR) == r // 2


def test_a_module_starts_from_its_own_stream_whatever_else_is_adapted() -> None:
    few, many = fresh(third=WIDTHS["third"]), fresh()
    state = torch.get_rng_state()
    for adapter in (few, many):
        initialise(adapter, LoraSpec(init_lora_weights=False), 5)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(few.factors["third"].a_RI, many.factors["third"].a_RI)
    assert torch.equal(few.factors["third"].b_OR, many.factors["third"].b_OR)
    twins = fresh(one=(8, 8, 2), two=(8, 8, 2))
    initialise(twins, LoraSpec(init_lora_weights=False), 5)
    assert not torch.equal(twins.factors["one"].a_RI, twins.factors["two"].a_RI)
    other_seed = fresh()
    initialise(other_seed, LoraSpec(init_lora_weights=False), 6)
    assert not torch.equal(other_seed.factors["third"].a_RI, many.factors["third"].a_RI)


def test_an_fp64_adapter_starts_from_the_same_numbers_as_an_fp32_one() -> None:
    assert [dtype_for(dtype) for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64)] == [
        torch.float32,
        torch.float32,
        torch.float32,
        torch.float64,
    ]
    narrow, wide = fresh(torch.float32), fresh(torch.float64)
    for adapter in (narrow, wide):
        initialise(adapter, LoraSpec(), 3)
    for name, factors in narrow.factors.items():
        assert torch.equal(factors.a_RI.double(), wide.factors[name].a_RI)


@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2])
def test_every_start_but_the_random_one_leaves_the_model_as_it_is(build: Any, tmp_path: Path) -> None:
    """On the first step a loss is that of the bare base wherever BA = 0."""
    starts = {"true": True, "gaussian": "gaussian", "orthogonal": "orthogonal", "false": False}
    specs = [
        make_spec(
            name,
            lora={"r": 4, "init_lora_weights": how},
            training={"max_steps": 1, "per_device_train_batch_size": 4, "seed": 3},
        )
        for name, how in starts.items()
    ]
    data = {name: make_data(1, [5, 8, 3, 4]) for name in starts}
    trained = train(make_worker(build(), data, tmp_path), specs)
    first = {name: trained.losses(name)[0] for name in starts}
    assert first["gaussian"] == pytest.approx(first["true"], rel=1e-6)
    assert first["orthogonal"] == pytest.approx(first["true"], rel=1e-5)
    assert abs(first["false"] / first["true"] - 1) > 1e-2
