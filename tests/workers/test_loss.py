"""The loss in chunks is the plain cross entropy, in value and in gradient, and holds a chunk of logits at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from workers import chunks, loss
from workers.chunks import chunk_labels
from workers.loss import LabelLosses, head_losses, logit_losses

WIDTH, VOCABULARY, LABELS = 6, 11, 23


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(LABELS, WIDTH, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    weight_VD = torch.randn(VOCABULARY, WIDTH, generator=draw, dtype=torch.float64).to(dtype)
    bias_V = torch.randn(VOCABULARY, generator=draw, dtype=torch.float64).to(dtype)
    labels_N = torch.randint(VOCABULARY, (LABELS,), generator=draw)
    return hidden_ND, weight_VD, bias_V, labels_N, torch.rand(LABELS, generator=draw, dtype=torch.float64)


@pytest.fixture(params=[1, 2, 7, 1000])
def labels_a_chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(chunks, "_CHUNK_LOGITS", request.param * VOCABULARY)
    assert chunk_labels(VOCABULARY) == request.param
    return request.param


@pytest.mark.parametrize("with_bias", [True, False])
def test_losses_hits_and_gradients_are_those_of_plain_cross_entropy(labels_a_chunk: int, with_bias: bool) -> None:
    hidden_ND, weight_VD, bias_V, labels_N, weights_N = inputs(torch.float64)
    bias = bias_V if with_bias else None
    found = head_losses(hidden_ND, weight_VD, bias, labels_N, weights_N)
    (3.0 * found.total).backward()
    again = hidden_ND.detach().clone().requires_grad_()
    logits = F.linear(again, weight_VD, bias)
    losses = F.cross_entropy(logits, labels_N, reduction="none")
    (3.0 * (losses * weights_N).sum()).backward()
    assert hidden_ND.grad is not None
    assert again.grad is not None
    assert (found.losses_N - losses).abs().max() <= 1e-14
    assert (hidden_ND.grad - again.grad).norm() <= 1e-14 * again.grad.norm()
    assert torch.equal(found.hits_N, logits.argmax(-1) == labels_N)
    whole = logit_losses(logits.detach(), labels_N, weights_N)
    assert torch.equal(whole.hits_N, found.hits_N)
    assert float(whole.total) == pytest.approx(float(found.total.detach()), rel=1e-14)


def test_on_bf16_the_loss_is_fp32_of_rounded_logits_and_the_gradient_is_rounded_once(labels_a_chunk: int) -> None:
    hidden_ND, weight_VD, bias_V, labels_N, weights_N = inputs(torch.bfloat16)
    found = head_losses(hidden_ND, weight_VD, bias_V, labels_N, weights_N)
    found.total.backward()
    again = hidden_ND.detach().clone().requires_grad_()
    losses = F.cross_entropy(F.linear(again, weight_VD, bias_V).float(), labels_N, reduction="none")
    (losses * weights_N.float()).sum().backward()
    assert found.losses_N.dtype == torch.float32
    assert (found.losses_N - losses).abs().max() <= 1e-5
    assert hidden_ND.grad is not None
    assert again.grad is not None
    assert (hidden_ND.grad - again.grad).float().norm() <= 1e-2 * again.grad.float().norm()


@pytest.mark.parametrize("position", [0, 11, LABELS - 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_label_that_is_not_finite_changes_no_bit_of_another(
    labels_a_chunk: int, dtype: torch.dtype, position: int
) -> None:
    def run(poisoned: bool) -> tuple[LabelLosses, Tensor]:
        hidden_ND, weight_VD, bias_V, labels_N, weights_N = inputs(dtype)
        if poisoned:
            with torch.no_grad():
                hidden_ND[position] = float("nan")
        found = head_losses(hidden_ND, weight_VD, bias_V, labels_N, weights_N)
        found.total.backward()
        assert hidden_ND.grad is not None
        return found, hidden_ND.grad

    (healthy, gradient), (faulty, other) = run(False), run(True)
    rest = torch.arange(LABELS) != position
    assert faulty.losses_N[position].isnan()
    assert torch.equal(faulty.losses_N[rest], healthy.losses_N[rest])
    assert torch.equal(other[rest], gradient[rest])


def test_never_more_than_a_chunk_of_logits_is_made(labels_a_chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    linear = F.linear

    def watched(*args: Any) -> Tensor:
        made.append(len(args[0]))
        return linear(*args)

    monkeypatch.setattr(loss.F, "linear", watched)
    head_losses(*inputs(torch.float32))
    assert sum(made) == LABELS
    assert max(made) <= labels_a_chunk
