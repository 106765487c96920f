"""Modules that read one tensor are found, and run together give what each gives by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.models import tiny_gpt2, tiny_llama
from tests.workers.test_lora import Pair
from workers.input_groups import find_input_groups
from workers.lora import DropoutDraw, MultiAdapterLinear, Router, Segment
from workers.structure import linears

INPUTS, OUTPUTS = 6, 5
NAMES = ("q", "k", "v")


def test_of_a_llama_q_k_v_and_gate_up_read_the_same() -> None:
    model = tiny_llama()
    groups = find_input_groups(model, linears(model))
    attention = [f"model.layers.{layer}.self_attn" for layer in range(3)]
    mlp = [f"model.layers.{layer}.mlp" for layer in range(3)]
    assert {frozenset(group) for group in groups} == {
        *(frozenset(f"{one}.{name}_proj" for name in "qkv") for one in attention),
        *(frozenset({f"{one}.gate_proj", f"{one}.up_proj"}) for one in mlp),
    }


def test_a_gpt2_has_no_two_that_read_the_same() -> None:
    model = tiny_gpt2()
    assert find_input_groups(model, linears(model)) == ()


def group() -> tuple[dict[str, MultiAdapterLinear], Router]:
    torch.manual_seed(0)
    router = Router([NAMES])
    layers = {
        name: MultiAdapterLinear(nn.Linear(INPUTS, OUTPUTS).double().requires_grad_(False), name, router)
        for name in NAMES
    }
    layers["q"].lead([layers["k"], layers["v"]])
    return layers, router


@pytest.mark.parametrize("present", [NAMES, ("q",), ("v",), ("k", "v")])
@pytest.mark.parametrize("probability", [0.0, 0.4])
def test_a_group_gives_what_its_modules_give_by_the_formula(probability: float, present: tuple[str, ...]) -> None:
    layers, router = group()
    dropout = DropoutDraw(probability=probability, seed=3, step=1, micro_batch=0) if probability else None
    first = {name: Pair.random(2 + number, scale=0.5 * (1 + number)) for number, name in enumerate(present)}
    second = {name: Pair.random(3, scale=2.0) for name in NAMES}
    router.route(
        [
            Segment(start=0, stop=4, path=({name: pair.factors for name, pair in first.items()},), dropout=dropout),
            Segment(start=4, stop=9, path=({name: pair.factors for name, pair in second.items()},)),
        ]
    )
    x = torch.randn(9, INPUTS, dtype=torch.float64, requires_grad=True)
    weights = {name: torch.randn(9, OUTPUTS, dtype=torch.float64) for name in NAMES}
    outputs = {name: layers[name](x) for name in NAMES}
    sum((outputs[name] * weights[name]).sum() for name in NAMES).backward()  # type: ignore[union-attr]

    again = x.detach().clone().requires_grad_()
    expected: dict[str, Tensor] = {}
    for name in NAMES:
        delta = torch.zeros(4, OUTPUTS, dtype=torch.float64)
        if name in first:
            keep: Any = 1.0
            if dropout is not None:
                keep = dropout.mask(name, (4, INPUTS), x.device).double() / (1 - probability)
            delta = first[name].delta(again[:4] * keep)
        base = again @ layers[name].weight.T + layers[name].bias
        expected[name] = base + torch.cat([delta, second[name].delta(again[4:])])
    sum((expected[name] * weights[name]).sum() for name in NAMES).backward()  # type: ignore[union-attr]
    for name in NAMES:
        assert (outputs[name] - expected[name]).norm() <= 1e-13 * expected[name].norm()
    assert x.grad is not None
    assert again.grad is not None
    assert (x.grad - again.grad).norm() <= 1e-13 * again.grad.norm()
    for pair in [*first.values(), *second.values()]:
        pair.assert_gradients_equal()


def test_a_module_asked_with_another_or_a_changed_input_computes_anew() -> None:
    layers, router = group()
    router.route([Segment(start=0, stop=2, path=({name: Pair.random(2, scale=1.0).factors for name in NAMES},))])
    with torch.no_grad():
        x = torch.randn(2, INPUTS, dtype=torch.float64)
        layers["q"](x)
        other = torch.randn(2, INPUTS, dtype=torch.float64)
        of_other = layers["k"](other)
        layers["q"](x)
        x.copy_(other)
        of_changed = layers["k"](x)
    assert torch.equal(of_other, of_changed)
