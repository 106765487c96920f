"""The multi-adapter linear equals the formula written out, in both directions, for every way of routing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from workers.lora import DropoutDraw, Factors, MultiAdapterLinear, Router, Segment

INPUTS, OUTPUTS = 6, 5
MODULE = "block.linear"


@dataclass
class Pair:
    """One adapter twice: as the layer takes it, and as leaves of autograd for the formula."""

    factors: Factors
    a_RI: Tensor
    b_OR: Tensor

    @classmethod
    def random(cls, rank: int, *, scale: float, trainable: bool = True, dtype: torch.dtype = torch.float64) -> Pair:
        a_RI, b_OR = torch.randn(rank, INPUTS, dtype=dtype), torch.randn(OUTPUTS, rank, dtype=dtype)
        factors = Factors(
            a_RI=a_RI.clone(),
            b_OR=b_OR.clone(),
            grad_a_RI=torch.zeros_like(a_RI) if trainable else None,
            grad_b_OR=torch.zeros_like(b_OR) if trainable else None,
            scale=scale,
        )
        return cls(factors, a_RI.requires_grad_(), b_OR.requires_grad_())

    def delta(self, x_TI: Tensor) -> Tensor:
        return self.factors.scale * (x_TI @ self.a_RI.T) @ self.b_OR.T

    def assert_gradients_equal(self) -> None:
        for ours, theirs in ((self.factors.grad_a_RI, self.a_RI.grad), (self.factors.grad_b_OR, self.b_OR.grad)):
            assert ours is not None
            assert theirs is not None
            assert theirs.norm() > 0
            assert (ours - theirs).norm() <= 1e-13 * theirs.norm()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def base_layer(kind: type[nn.Module], dtype: torch.dtype = torch.float64) -> nn.Linear | Conv1D:
    layer = nn.Linear(INPUTS, OUTPUTS) if kind is nn.Linear else Conv1D(OUTPUTS, INPUTS)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return layer.to(dtype).requires_grad_(False)


def layer_of(kind: type[nn.Module], dtype: torch.dtype = torch.float64) -> tuple[MultiAdapterLinear, Router]:
    router = Router()
    return MultiAdapterLinear(base_layer(kind, dtype), MODULE, router), router


def whole(layer: MultiAdapterLinear, x: Tensor) -> Tensor:
    return x @ layer.weight_OI.T + layer.bias


def same(ours: Tensor, theirs: Tensor) -> bool:
    return bool((ours - theirs).norm() <= 1e-13 * theirs.norm())


BOTH_KINDS = pytest.mark.parametrize("kind", [nn.Linear, Conv1D])


@BOTH_KINDS
def test_each_segment_gets_its_own_adapter_and_the_rest_the_bare_base(kind: type[nn.Module]) -> None:
    layer, router = layer_of(kind)
    first, second = Pair.random(2, scale=0.5), Pair.random(3, scale=2.0)
    elsewhere = Pair.random(1, scale=1.0)
    router.route(
        [
            Segment(start=0, stop=4, path=({MODULE: first.factors},)),
            Segment(start=4, stop=5, path=({"another.module": elsewhere.factors},)),
            Segment(start=7, stop=9, path=({MODULE: second.factors},)),
        ]
    )
    x = torch.randn(1, 10, INPUTS, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    weights = torch.randn_like(y)
    (y * weights).sum().backward()

    again = x.detach()[0].clone().requires_grad_()
    expected = whole(layer, again)
    expected = torch.cat(
        [
            expected[:4] + first.delta(again[:4]),
            expected[4:7],
            expected[7:9] + second.delta(again[7:9]),
            expected[9:],
        ]
    )
    (expected * weights[0]).sum().backward()
    assert same(y[0].detach(), expected.detach())
    assert x.grad is not None
    assert again.grad is not None
    assert same(x.grad[0], again.grad)
    first.assert_gradients_equal()
    second.assert_gradients_equal()
    assert layer.weight.grad is None
    assert elsewhere.factors.grad_a_RI is not None
    assert not elsewhere.factors.grad_a_RI.any()


@BOTH_KINDS
def test_padded_positions_get_the_bare_base_and_tokens_their_adapters(kind: type[nn.Module]) -> None:
    layer, router = layer_of(kind)
    pair = Pair.random(2, scale=0.5)
    tokens = torch.tensor([0, 1, 3, 4, 5])
    router.route([Segment(start=2, stop=5, path=({MODULE: pair.factors},))], tokens)
    x = torch.randn(2, 3, INPUTS, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    weights = torch.randn_like(y)
    (y * weights).sum().backward()

    again = x.detach().reshape(6, INPUTS).clone().requires_grad_()
    expected = whole(layer, again)
    expected = torch.cat([expected[:3], expected[3:] + pair.delta(again[3:])])
    (expected * weights.reshape(6, OUTPUTS)).sum().backward()
    assert same(y.detach().reshape(6, OUTPUTS), expected.detach())
    assert x.grad is not None
    assert again.grad is not None
    assert same(x.grad.reshape(6, INPUTS), again.grad)
    pair.assert_gradients_equal()


@pytest.mark.parametrize("probability", [0.0, 0.5])
def test_a_path_of_two_adds_both_deltas_and_trains_the_leaf_alone(probability: float) -> None:
    layer, router = layer_of(nn.Linear)
    ancestor, leaf = Pair.random(3, scale=1.5, trainable=False), Pair.random(2, scale=0.7)
    frozen = ancestor.a_RI.detach().clone(), ancestor.b_OR.detach().clone()
    dropout = DropoutDraw(probability=probability, seed=3, step=5, micro_batch=1) if probability else None
    path = ({MODULE: ancestor.factors}, {MODULE: leaf.factors})
    segments = [Segment(start=1, stop=6, path=path, dropout=dropout)]
    x = torch.randn(7, INPUTS, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(7, OUTPUTS, dtype=torch.float64)
    keep = dropout.mask(MODULE, (5, INPUTS), x.device).double() / (1 - probability) if dropout else 1.0

    def written_out(x_TI: Tensor) -> Tensor:
        y = whole(layer, x_TI)
        return torch.cat([y[:1], y[1:6] + ancestor.delta(x_TI[1:6]) + leaf.delta(x_TI[1:6] * keep), y[6:]])

    router.route(segments)
    y = layer(x)
    (y * weights).sum().backward()
    again = x.detach().clone().requires_grad_()
    (written_out(again) * weights).sum().backward()
    assert same(y.detach(), written_out(again).detach())
    assert again.grad is not None
    assert x.grad is not None
    assert same(x.grad, again.grad)
    leaf.assert_gradients_equal()
    assert torch.equal(ancestor.factors.a_RI, frozen[0])
    assert torch.equal(ancestor.factors.b_OR, frozen[1])

    def scalar(x_TI: Tensor) -> Tensor:
        router.route(segments)
        with torch.no_grad():
            return (layer(x_TI) * weights).sum()

    assert (x.grad - numeric_gradient(scalar, x.detach())).norm() <= 1e-8 * x.grad.norm()


def numeric_gradient(function: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-5) -> Tensor:
    """Central differences."""
    gradient = torch.zeros_like(at)
    for position in range(at.numel()):
        shift = torch.zeros_like(at).view(-1)
        shift[position] = step
        shift = shift.view_as(at)
        gradient.view(-1)[position] = (function(at + shift) - function(at - shift)) / (2 * step)
    return gradient


def test_an_ancestor_without_a_leaf_in_the_module_passes_gradients_and_gets_none() -> None:
    layer, router = layer_of(nn.Linear)
    ancestor = Pair.random(3, scale=1.5, trainable=False)
    router.route([Segment(start=0, stop=4, path=({MODULE: ancestor.factors}, {}))])
    x = torch.randn(4, INPUTS, dtype=torch.float64, requires_grad=True)
    layer(x).sum().backward()
    again = x.detach().clone().requires_grad_()
    (whole(layer, again) + ancestor.delta(again)).sum().backward()
    assert x.grad is not None
    assert again.grad is not None
    assert same(x.grad, again.grad)


def test_gradients_add_up_over_micro_batches_and_need_no_input_gradient() -> None:
    layer, router = layer_of(nn.Linear)
    pair = Pair.random(2, scale=1.0)
    for _ in range(2):
        x = torch.randn(3, INPUTS, dtype=torch.float64)
        router.route([Segment(start=0, stop=3, path=({MODULE: pair.factors},))])
        layer(x).square().sum().backward()
        (whole(layer, x) + pair.delta(x)).square().sum().backward()
    pair.assert_gradients_equal()


def test_a_cleared_router_keeps_no_adapter_and_gives_the_bare_base() -> None:
    layer, router = layer_of(nn.Linear)
    router.route([Segment(start=0, stop=3, path=({MODULE: Pair.random(2, scale=1.0).factors},))])
    x = torch.randn(3, INPUTS, dtype=torch.float64)
    assert not same(layer(x), whole(layer, x))
    router.clear()
    assert same(layer(x), whole(layer, x))
    assert router._branches == {MODULE: ()}
    assert router._segments == ()


def test_on_a_bf16_base_the_branch_is_computed_in_fp32_and_rounded_once() -> None:
    layer, router = layer_of(nn.Linear, torch.bfloat16)
    pair = Pair.random(4, scale=0.3, dtype=torch.float32)
    x = torch.randn(40, INPUTS).bfloat16()
    router.route([Segment(start=0, stop=40, path=({MODULE: pair.factors},))])
    with torch.no_grad():
        base = nn.functional.linear(x, layer.weight, layer.bias).double()
        delta = 0.3 * (x.double() @ pair.a_RI.double().T) @ pair.b_OR.double().T
        once = (base + delta).bfloat16()
        twice = (base + delta.bfloat16().double()).bfloat16()
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, once)
    assert not torch.equal(once, twice)
