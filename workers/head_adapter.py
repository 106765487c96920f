"""Losses through a head that carries adapters: logits = h Wᵀ + b + Σ over the row's path of s · (dropout(h) Aᵀ) Bᵀ.

The head is no module that is called: its product, the losses and their gradients are computed together, a chunk of
labels at a time (`loss.py`). Its adapters are computed in the same chunks, each job's on its own slice of the labels.

Shape legend: N label tokens of a pack, n of one job or of one chunk, t tokens of one segment, D width, V vocabulary,
R rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from workers.chunks import chunk_labels
from workers.dataset import Row
from workers.loss import LabelLosses, exact_dtype, head_losses, label_terms, logit_gradients
from workers.products import apart
from workers.routing import DropoutDraw, Factors, Segment


@dataclass(frozen=True, kw_only=True)
class HeadRun:
    """Label tokens that follow each other in a pack and take the same factors on the head."""

    num_labels: int
    factors: tuple[Factors, ...] = ()
    """From the root of the hierarchy to the leaf; none where the head stays bare."""
    draw: DropoutDraw | None = None
    """Applies to the input of the last factors."""
    module: str = ""
    """The head's name, which the dropout mask is drawn for."""
    num_tokens: int = 0
    """Of the segment."""
    predict_n: np.ndarray | None = None
    """Which of the segment's tokens predict its labels."""

    def mask(self, width: int, device: torch.device) -> Tensor | None:
        """(n, D), true where the input is kept: the rows of the segment's mask that predict a label."""
        if self.draw is None:
            return None
        assert self.predict_n is not None
        mask_tD = self.draw.segment_mask(self.module, (self.num_tokens, width), device)
        return mask_tD[torch.from_numpy(self.predict_n).to(device)]


def find_head_runs(rows: Sequence[Row], segments: Sequence[Segment], head: str) -> list[HeadRun] | None:
    """The labels of a pack cut where the head's factors change; `None` where no segment has any.

    Args:
        rows: In pack order.
        segments: Token ranges over the rows end to end, with their adapters.
        head: The output head's module name.
    """
    if not any(head in adapter for segment in segments for adapter in segment.path):
        return None
    starts = np.cumsum([0, *(len(row.ids) for row in rows)])[:-1]
    predict_N = np.concatenate(
        [start + np.flatnonzero(row.labelled) - 1 for start, row in zip(starts, rows, strict=True)]
    )
    runs: list[HeadRun] = []
    done = 0
    for segment in sorted(segments, key=lambda one: one.start):
        factors = tuple(adapter[head] for adapter in segment.path if head in adapter)
        if not factors:
            continue
        first, last = np.searchsorted(predict_N, (segment.start, segment.stop)).tolist()
        if first > done:
            runs.append(HeadRun(num_labels=first - done))
        if last > first:
            runs.append(
                HeadRun(
                    num_labels=last - first,
                    factors=factors,
                    draw=segment.dropout if head in segment.path[-1] else None,
                    module=head,
                    num_tokens=segment.stop - segment.start,
                    predict_n=predict_N[first:last] - segment.start,
                )
            )
        done = last
    if done < len(predict_N):
        runs.append(HeadRun(num_labels=len(predict_N) - done))
    return runs


def adapted_head_losses(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    labels_N: Tensor,
    weights_N: Tensor,
    runs: Sequence[HeadRun],
) -> LabelLosses:
    """As `head_losses`, with each run's own factors added to the head.

    With gradients enabled, dA and dB are added to the factors' own gradients at once, for a total whose gradient is
    one; what flows to the hidden states waits for the backward.
    """
    lengths = [run.num_labels for run in runs]
    parts = []
    for run, hidden_nD, labels_n, weights_n in zip(
        runs, hidden_ND.split(lengths), labels_N.split(lengths), weights_N.split(lengths), strict=True
    ):
        if not run.factors:
            parts.append(head_losses(hidden_nD, weight_VD, bias_V, labels_n, weights_n))
            continue
        # Where nothing below the head trains, hidden states need no gradient, and this scalar keeps the graph alive.
        anchor = torch.zeros((), requires_grad=True)
        total, losses_n, hits_n = _AdaptedHeadLosses.apply(  # pyright: ignore[reportGeneralTypeIssues]
            hidden_nD, anchor, weight_VD, bias_V, labels_n, weights_n, run, torch.is_grad_enabled()
        )
        parts.append(LabelLosses(losses_n, hits_n, total))
    return LabelLosses(
        torch.cat([part.losses_N for part in parts]),
        torch.cat([part.hits_N for part in parts]),
        torch.stack([part.total for part in parts]).sum(),
    )


def adapted_logits(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, runs: Sequence[HeadRun]) -> Tensor:
    """(N, V) through the head and each run's factors, without a graph."""
    logits = []
    with torch.no_grad():
        for run, hidden_nD in zip(runs, hidden_ND.split([run.num_labels for run in runs]), strict=True):
            logits_nV = F.linear(apart(hidden_nD), weight_VD, bias_V)
            if run.factors:
                parts = list(_parts(run, hidden_nD, run.mask(hidden_nD.shape[1], hidden_nD.device)))
                logits_nV = _add_deltas(logits_nV, parts)
            logits.append(logits_nV)
    return torch.cat(logits)


@dataclass(frozen=True)
class _Part:
    """One adapter's factors over a chunk of labels."""

    factors: Factors
    input_nD: Tensor
    """In the adapter's dtype, dropout applied."""
    draw: DropoutDraw | None
    mask_nD: Tensor | None

    @cached_property
    def thin_nR(self) -> Tensor:
        """S = dropout(h) Aᵀ."""
        return self.input_nD @ self.factors.a_RI.T


def _parts(run: HeadRun, hidden_nD: Tensor, mask_nD: Tensor | None) -> Iterator[_Part]:
    input_nD = hidden_nD.to(run.factors[0].a_RI.dtype)
    *above, leaf = run.factors
    for factors in above:
        yield _Part(factors, input_nD, None, None)
    if run.draw is None or mask_nD is None:
        yield _Part(leaf, input_nD, None, None)
    else:
        yield _Part(leaf, run.draw.apply(input_nD, mask_nD), run.draw, mask_nD)


def _add_deltas(logits_nV: Tensor, parts: Sequence[_Part]) -> Tensor:
    """Logits with the adapters' share, computed in the adapters' dtype and rounded once to the base's."""
    sum_nV = logits_nV.to(parts[0].input_nD.dtype)
    for part in parts:
        sum_nV.addmm_(part.thin_nR, part.factors.b_RO, alpha=part.factors.scale)
    return sum_nV.to(logits_nV.dtype)


def _add_gradients(d_logits_nV: Tensor, parts: Sequence[_Part], d_hidden_nD: Tensor | None) -> None:
    """Add dA and dB to the adapters' gradients, and what flows through the adapters to `d_hidden_nD`."""
    d_logits_nV = d_logits_nV.to(parts[0].input_nD.dtype)
    sum_nD = None if d_hidden_nD is None else d_hidden_nD.to(d_logits_nV.dtype)
    for part in parts:
        factors = part.factors
        d_thin_nR = torch.mm(d_logits_nV, factors.b_OR).mul_(factors.scale)
        if factors.grad_b_RO is not None:
            factors.grad_b_RO.addmm_(part.thin_nR.T, d_logits_nV, alpha=factors.scale)
        if factors.grad_a_RI is not None:
            factors.grad_a_RI.addmm_(d_thin_nR.T, part.input_nD)
        if sum_nD is None:
            continue
        if part.draw is None or part.mask_nD is None:
            sum_nD.addmm_(d_thin_nR, factors.a_RI)
        else:
            sum_nD.add_(part.draw.apply(d_thin_nR @ factors.a_RI, part.mask_nD))
    if d_hidden_nD is not None and sum_nD is not None and sum_nD is not d_hidden_nD:
        d_hidden_nD.copy_(sum_nD)


class _AdaptedHeadLosses(torch.autograd.Function):
    """`_HeadLosses` of `loss.py` for the labels of one job that has factors on the head."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx,
        hidden_nD: Tensor,
        anchor: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        labels_n: Tensor,
        weights_n: Tensor,
        run: HeadRun,
        with_gradients: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        exact = exact_dtype(hidden_nD)
        d_hidden_nD = torch.empty_like(hidden_nD) if with_gradients and ctx.needs_input_grad[0] else None
        losses_n = torch.empty(len(labels_n), dtype=exact, device=hidden_nD.device)
        hits_n = torch.empty(len(labels_n), dtype=torch.bool, device=hidden_nD.device)
        weights_n = weights_n.to(exact)
        mask_nD = run.mask(hidden_nD.shape[1], hidden_nD.device)
        size = chunk_labels(weight_VD.shape[0])
        for start in range(0, len(labels_n), size):
            chunk = slice(start, start + size)
            parts = list(_parts(run, hidden_nD[chunk], None if mask_nD is None else mask_nD[chunk]))
            logits_nV = _add_deltas(F.linear(apart(hidden_nD[chunk]), weight_VD, bias_V), parts).to(exact)
            losses_n[chunk], hits_n[chunk] = label_terms(logits_nV, labels_n[chunk, None])
            if not with_gradients:
                continue
            d_logits_nV = logit_gradients(logits_nV, labels_n[chunk, None], weights_n[chunk, None]).to(hidden_nD.dtype)
            d_chunk_nD = None if d_hidden_nD is None else d_hidden_nD[chunk]
            if d_chunk_nD is not None:
                d_chunk_nD.copy_(apart(d_logits_nV) @ weight_VD)
            _add_gradients(d_logits_nV, parts, d_chunk_nD)
        ctx.d_hidden_nD = d_hidden_nD
        ctx.mark_non_differentiable(losses_n, hits_n)
        return (losses_n * weights_n).sum(), losses_n, hits_n

    @staticmethod
    @once_differentiable
    def backward(ctx, d_total: Tensor, *_: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        d_hidden_nD = ctx.d_hidden_nD
        d_hidden_nD = None if d_hidden_nD is None else d_hidden_nD * d_total.to(d_hidden_nD.dtype)
        return d_hidden_nD, None, None, None, None, None, None, None
