"""The multi-adapter linear: y = x Wᵀ + b + Σ over the row's path of s · (dropout(x) Aᵀ) Bᵀ. Mathematics only.

Modules that read the same tensor (a transformer's q, k, v; its gate, up) form an input group and run as one operation
of autograd: one down-projection for all their adapters, one gradient for their input.

Shape legend: T tokens of a pack, t tokens of one segment, I input features, O output features, R rank.

LoRA: Hu et al. 2021, https://arxiv.org/abs/2106.09685, section 4.1 (W frozen, ΔW = α/r · BA). Scale α/√r:
Kalajdzievski 2023, https://arxiv.org/abs/2312.03732. Keeping only the thin S = dropout(x) Aᵀ between forward and
backward: LoRAFusion, https://arxiv.org/abs/2510.00206.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from workers.products import apart, linear
from workers.routing import Branch, DropoutDraw, Factors, Part, Router, Segment

__all__ = ["DropoutDraw", "Factors", "MultiAdapterLinear", "Router", "Segment"]


class MultiAdapterLinear(nn.Module):
    """A frozen linear (`nn.Linear`, or transformers' `Conv1D` with its transposed weight) that many adapters share."""

    def __init__(self, base_layer: nn.Linear | Conv1D, name: str, router: Router) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.name = name
        self.is_conv1d = isinstance(base_layer, Conv1D)
        self._router = router
        # An autograd function is recorded only if some input requires a gradient. Adapter weights are not inputs (their
        # gradients go straight into flat buffers) and the first layers' x needs none, so this scalar stands in.
        self._anchor = torch.zeros((), requires_grad=True)
        self._members: tuple[MultiAdapterLinear, ...] = (self,)
        self._ready: tuple[Tensor, int, Tensor] | None = None
        """Computed by the group's first module for this one: the input, its version, and the output."""

    def lead(self, followers: Sequence[MultiAdapterLinear]) -> None:
        """Run these modules' products together with this one's, whenever this one is called."""
        # A plain tuple keeps torch from registering the followers as children of this module.
        self._members = (self, *followers)

    def forget(self) -> None:
        """Drop an output that was computed ahead and not asked for."""
        self._ready = None

    @property
    def weight(self) -> Tensor:
        """The base's weight as the base stores it, for model code that looks at it."""
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        """The base's bias."""
        return self.base_layer.bias

    @property
    def weight_OI(self) -> Tensor:
        """The base's weight with outputs first, whatever the base's own convention."""
        return self.base_layer.weight.T if self.is_conv1d else self.base_layer.weight

    def forward(self, x: Tensor) -> Tensor:
        """x of shape (..., I) to (..., O)."""
        ready, self._ready = self._ready, None
        if ready is not None and ready[0] is x and ready[1] == x._version:
            return ready[2]
        branches = self._router.branches(self.name)
        if not branches:
            return linear(x, self.weight_OI, self.bias)
        # Shaped outside the function: what it returns must be no view, or a base that adds to it in place is refused.
        outputs: tuple[Tensor, ...] = _PackedLora.apply(  # pyright: ignore[reportAssignmentType]
            x.reshape(-1, x.shape[-1]),
            self._anchor,
            tuple((member.weight_OI, member.bias) for member in self._members),
            branches,
            self._router.token_index_T,
        )
        shaped = [y_TO.view(*x.shape[:-1], -1) for y_TO in outputs]
        for member, y in zip(self._members[1:], shaped[1:], strict=True):
            member._ready = (x, x._version, y)
        return shaped[0]


class _PackedLora(torch.autograd.Function):
    """The base products of an input group over all tokens, then each segment's adapters on its own slice.

    Slices, never masks: a NaN in one job's rows must not meet another job's numbers, not even multiplied by zero.
    The adapter branch is computed in the adapter's dtype and rounded once to the base's, as PEFT does.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx,
        x_TI: Tensor,
        anchor: Tensor,
        weights: tuple[tuple[Tensor, Tensor | None], ...],
        branches: tuple[Branch, ...],
        index_T: Tensor | None,
    ) -> tuple[Tensor, ...]:
        input_TI = apart(x_TI)
        outputs = tuple(F.linear(input_TI, weight_OI, bias_O) for weight_OI, bias_O in weights)
        rows_TI = x_TI if index_T is None else x_TI[index_T]
        rows_out = outputs if index_T is None else tuple(y_TO[index_T] for y_TO in outputs)
        thin, masks = _add_deltas(rows_TI, rows_out, branches)
        if index_T is not None:
            for y_TO, rows_TO in zip(outputs, rows_out, strict=True):
                y_TO.index_copy_(0, index_T, rows_TO)
        ctx.save_for_backward(rows_TI, *thin)
        ctx.weights, ctx.branches, ctx.masks, ctx.index_T = weights, branches, masks, index_T
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        rows_TI, *thin = ctx.saved_tensors
        index_T = ctx.index_T
        dx_TI = None
        if ctx.needs_input_grad[0]:
            for (weight_OI, _), dy_TO in zip(ctx.weights, grads, strict=True):
                product_TI = apart(dy_TO)
                dx_TI = product_TI @ weight_OI if dx_TI is None else dx_TI.addmm_(product_TI, weight_OI)
        rows_grads = grads if index_T is None else tuple(dy_TO[index_T] for dy_TO in grads)
        dx_rows_TI = dx_TI if dx_TI is None or index_T is None else dx_TI[index_T]
        _add_gradients(rows_TI, rows_grads, dx_rows_TI, thin, ctx.masks, ctx.branches)
        if dx_TI is not None and dx_rows_TI is not None and index_T is not None:
            dx_TI.index_copy_(0, index_T, dx_rows_TI)
        return dx_TI, None, None, None, None


def _add_deltas(
    x_TI: Tensor, outputs: Sequence[Tensor], branches: Sequence[Branch]
) -> tuple[list[Tensor], list[Tensor]]:
    """Add every branch's delta to its slice of the outputs.

    Returns:
        For the backward, in the order of `_parts`: the thin products (t, R), and the masks of parts under dropout.
    """
    thin: list[Tensor] = []
    masks: list[Tensor] = []
    sliced = zip(branches, _slices(x_TI, branches), _by_branch(outputs, branches), strict=True)
    for branch, x_tI, out in sliced:
        dtype = _dtype(branch)
        same = x_tI.dtype == dtype
        if not same:
            x_tI = x_tI.to(dtype)
        sums = out if same else [y_tO.to(dtype) for y_tO in out]
        for part, dropout in _parts(branch):
            input_tI = x_tI
            if dropout is not None:
                masks.append(dropout.segment_mask(part.modules[0], (x_tI.shape[0], x_tI.shape[1]), x_tI.device))
                input_tI = dropout.apply(x_tI, masks[-1])
            s_tR = torch.mm(input_tI, part.a_IR)
            for output in part.outputs:
                own_tR = s_tR if output.columns is None else s_tR[:, output.columns]
                sums[output.index].addmm_(own_tR, output.factors.b_RO, alpha=output.factors.scale)
            thin.append(s_tR)
        if not same:
            for y_tO, sum_tO in zip(out, sums, strict=True):
                y_tO.copy_(sum_tO)
    return thin, masks


def _add_gradients(
    x_TI: Tensor,
    grads: Sequence[Tensor],
    dx_TI: Tensor | None,
    thin: Sequence[Tensor],
    masks: Sequence[Tensor],
    branches: Sequence[Branch],
) -> None:
    """Add dA and dB to the adapters' own gradients, and what flows through the adapters to `dx_TI`."""
    remaining, remaining_masks = iter(thin), iter(masks)
    dx_slices = _slices(dx_TI, branches) if dx_TI is not None else [None] * len(branches)
    sliced = zip(branches, _slices(x_TI, branches), dx_slices, _by_branch(grads, branches), strict=True)
    for branch, x_tI, dx_tI, out in sliced:
        dtype = _dtype(branch)
        same = x_tI.dtype == dtype
        if not same:
            x_tI, out = x_tI.to(dtype), [dy_tO.to(dtype) for dy_tO in out]
        sum_tI = dx_tI if dx_tI is None or same else dx_tI.to(dtype)
        for part, dropout in _parts(branch):
            s_tR = next(remaining)
            ds_tR = torch.empty_like(s_tR)
            for output in part.outputs:
                factors, dy_tO = output.factors, out[output.index]
                own_tR, own_ds_tR = s_tR, ds_tR
                if output.columns is not None:
                    own_tR, own_ds_tR = s_tR[:, output.columns], ds_tR[:, output.columns]
                own_ds_tR.addmm_(dy_tO, factors.b_OR, beta=0, alpha=factors.scale)
                if factors.grad_b_RO is not None:
                    factors.grad_b_RO.addmm_(own_tR.T, dy_tO, alpha=factors.scale)
            if dropout is None:
                if part.grad_a_RI is not None:
                    part.grad_a_RI.addmm_(ds_tR.T, x_tI)
                if sum_tI is not None:
                    sum_tI.addmm_(ds_tR, part.a_RI)
                continue
            mask_tI = next(remaining_masks)
            if part.grad_a_RI is not None:
                part.grad_a_RI.addmm_(ds_tR.T, dropout.apply(x_tI, mask_tI))
            if sum_tI is not None:
                sum_tI.add_(dropout.apply(ds_tR @ part.a_RI, mask_tI))
        if sum_tI is not None and dx_tI is not None and sum_tI is not dx_tI:
            dx_tI.copy_(sum_tI)


def _parts(branch: Branch) -> Iterator[tuple[Part, DropoutDraw | None]]:
    """All parts of a branch, the frozen ones first, with the dropout that their input takes."""
    for part in branch.ancestors:
        yield part, None
    for part in branch.leaf:
        yield part, branch.dropout


def _dtype(branch: Branch) -> torch.dtype:
    return (branch.leaf or branch.ancestors)[0].a_RI.dtype


def _by_branch(tensors: Sequence[Tensor], branches: Sequence[Branch]) -> Iterator[tuple[Tensor, ...]]:
    """For each branch its slice of every tensor."""
    return zip(*(_slices(one, branches) for one in tensors), strict=True)


def _slices(tokens_TF: Tensor, branches: Sequence[Branch]) -> Sequence[Tensor]:
    """Each branch's own tokens, as views; one call where the branches follow each other through the whole pack."""
    lengths = [branch.length for branch in branches]
    follows = all(left.start + left.length == right.start for left, right in pairwise(branches))
    if follows and branches[0].start == 0 and sum(lengths) == tokens_TF.shape[0]:
        return tokens_TF.split(lengths)
    return [tokens_TF.narrow(0, branch.start, branch.length) for branch in branches]
