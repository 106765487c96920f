"""The multi-adapter linear: y = x Wᵀ + b + Σ over the row's path of s · (dropout(x) Aᵀ) Bᵀ. Mathematics only.

Modules that read the same tensor (a transformer's q, k, v; its gate, up) form an input group and run as one operation
of autograd: one down-projection for all their adapters, one gradient for their input.

Shape legend: T tokens of a pack, t tokens of one segment, I input features, O output features, R rank.

LoRA: Hu et al. 2021, https://arxiv.org/abs/2106.09685, section 4.1 (W frozen, ΔW = α/r · BA). Scale α/√r:
Kalajdzievski 2023, https://arxiv.org/abs/2312.03732. Keeping only the thin S = dropout(x) Aᵀ between forward and
backward: LoRAFusion, https://arxiv.org/abs/2510.00206.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from workers import grouped_products, segment_products
from workers.grouped_products import StackPlan
from workers.products import apart, linear
from workers.routing import Branch, DropoutDraw, Factors, Router, Segment

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
            self._router.plans(self.name, grouped_products.plan),
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
        plans: tuple[StackPlan, ...] | None,
        index_T: Tensor | None,
    ) -> tuple[Tensor, ...]:
        input_TI = apart(x_TI)
        outputs = tuple(F.linear(input_TI, weight_OI, bias_O) for weight_OI, bias_O in weights)
        rows_TI = x_TI if index_T is None else x_TI[index_T]
        rows_out = outputs if index_T is None else tuple(y_TO[index_T] for y_TO in outputs)
        if plans is None:
            thin, masks = segment_products.add_deltas(rows_TI, rows_out, branches)
        else:
            thin, masks = grouped_products.add_deltas(rows_TI, rows_out, plans)
        if index_T is not None:
            for y_TO, rows_TO in zip(outputs, rows_out, strict=True):
                y_TO.index_copy_(0, index_T, rows_TO)
        ctx.save_for_backward(rows_TI, *thin)
        ctx.weights, ctx.branches, ctx.plans, ctx.masks, ctx.index_T = weights, branches, plans, masks, index_T
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
        if ctx.plans is None:
            segment_products.add_gradients(rows_TI, rows_grads, dx_rows_TI, thin, ctx.masks, ctx.branches)
        else:
            grouped_products.add_gradients(rows_TI, rows_grads, dx_rows_TI, thin, ctx.masks, ctx.plans)
        if dx_TI is not None and dx_rows_TI is not None and index_T is not None:
            dx_TI.index_copy_(0, index_T, dx_rows_TI)
        return dx_TI, None, None, None, None, None
