"""Label-only loss: logits where there are labels, a chunk of them at a time, one sum per job.

Logits are the largest tensors of small-model training, a row of the vocabulary for each label. They are never kept: the
gradient of a label's loss by its hidden state is known as soon as its logits are, so each chunk is turned into it at
once, and memory does not grow with labels × vocabulary.

Shape legend: N label tokens of the pack, n of one chunk, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from workers.chunks import chunk_labels
from workers.products import apart


@dataclass(frozen=True)
class LabelLosses:
    """What a pack's label tokens say."""

    losses_N: Tensor
    """Cross entropy of every label token, in fp32 (fp64 on an fp64 base), without a graph."""
    hits_N: Tensor
    """Whether the label is the most likely token."""
    total: Tensor
    """Σ weight · loss, which carries the graph."""


def head_losses(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels_N: Tensor, weights_N: Tensor
) -> LabelLosses:
    """Losses of label tokens from the hidden states that predict them, through a linear head.

    Args:
        hidden_ND: Of the positions before the labels.
        weight_VD: The frozen head.
        bias_V: Its bias.
        labels_N: Ids.
        weights_N: What each label's loss counts in the total: 1 / labels of its job's whole optimizer batch.
    """
    total, losses_N, hits_N = _HeadLosses.apply(hidden_ND, weight_VD, bias_V, labels_N, weights_N)  # pyright: ignore[reportGeneralTypeIssues]
    return LabelLosses(losses_N, hits_N, total)


def logit_losses(logits_NV: Tensor, labels_N: Tensor, weights_N: Tensor) -> LabelLosses:
    """The same from logits, for bases that change their logits after the head and must be asked for all of them."""
    losses_N = token_losses(logits_NV, labels_N)
    return LabelLosses(
        losses_N.detach(), logits_NV.detach().argmax(dim=-1) == labels_N, (losses_N * weights_N.to(losses_N)).sum()
    )


def token_losses(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """Cross entropy of every label token, (N,), in fp32 (fp64 for fp64 logits)."""
    logits_NV = logits_NV if logits_NV.dtype.itemsize >= 4 else logits_NV.float()
    return F.cross_entropy(logits_NV, labels_N, reduction="none")


def exact_dtype(hidden_ND: Tensor) -> torch.dtype:
    """What losses are computed in."""
    return torch.float64 if hidden_ND.dtype == torch.float64 else torch.float32


def label_terms(logits_nV: Tensor, labels_n1: Tensor) -> tuple[Tensor, Tensor]:
    """Losses of a chunk's labels, and whether each is the most likely token.

    Softmax works row by row; a plain exponential runs over the borders of rows, and with a NaN in the one it was seen
    to round the next one otherwise.
    """
    return -logits_nV.log_softmax(dim=-1).gather(1, labels_n1)[:, 0], logits_nV.argmax(dim=-1) == labels_n1[:, 0]


def logit_gradients(logits_nV: Tensor, labels_n1: Tensor, weights_n1: Tensor) -> Tensor:
    """Gradient of a chunk's weighted losses by its logits: weight · (softmax - one-hot)."""
    d_logits_nV = logits_nV.softmax(dim=-1).mul_(weights_n1)
    return d_logits_nV.scatter_add_(1, labels_n1, -weights_n1)


class _HeadLosses(torch.autograd.Function):
    """Product with the head, log-softmax, and both their backwards, chunk by chunk in the forward."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels_N: Tensor, weights_N: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        exact = exact_dtype(hidden_ND)
        needs_gradient = ctx.needs_input_grad[0]
        d_hidden_ND = torch.empty_like(hidden_ND) if needs_gradient else None
        losses_N = torch.empty(len(labels_N), dtype=exact, device=hidden_ND.device)
        hits_N = torch.empty(len(labels_N), dtype=torch.bool, device=hidden_ND.device)
        weights_N = weights_N.to(exact)
        size = chunk_labels(weight_VD.shape[0])
        for start in range(0, len(labels_N), size):
            chunk = slice(start, start + size)
            labels_n = labels_N[chunk, None]
            logits_nV = F.linear(apart(hidden_ND[chunk]), weight_VD, bias_V).to(exact)
            losses_N[chunk], hits_N[chunk] = label_terms(logits_nV, labels_n)
            if d_hidden_ND is not None:
                d_logits_nV = logit_gradients(logits_nV, labels_n, weights_N[chunk, None])
                d_hidden_ND[chunk] = apart(d_logits_nV.to(hidden_ND.dtype)) @ weight_VD
        if d_hidden_ND is not None:
            ctx.save_for_backward(d_hidden_ND)
        ctx.mark_non_differentiable(losses_N, hits_N)
        return (losses_N * weights_N).sum(), losses_N, hits_N

    @staticmethod
    @once_differentiable
    def backward(ctx, d_total: Tensor, *_: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (d_hidden_ND,) = ctx.saved_tensors
        return d_hidden_ND * d_total.to(d_hidden_ND.dtype), None, None, None, None


def job_sums(losses_N: Tensor, counts: Sequence[int]) -> tuple[Tensor, ...]:
    """Each job's summed loss, cut from the pack by slices: `counts` label tokens each, in pack order.

    Divided by the label tokens of the job's whole optimizer batch, and added up over jobs, they give every job exactly
    the gradient that it would get alone.
    """
    return tuple(part.sum() for part in losses_N.split(list(counts)))


def exact_rows(hits_N: Tensor, row_counts: Sequence[int]) -> list[bool]:
    """For each row, whether every one of its label tokens is the most likely one: greedy decoding would say it."""
    return [bool(part.all()) for part in hits_N.split(list(row_counts))]
