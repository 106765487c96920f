"""The multi-adapter linear: y = x Wᵀ + b + Σ over the row's path of s · (dropout(x) Aᵀ) Bᵀ. Mathematics only.

Shape legend: T tokens of a pack, t tokens of one segment, I input features, O output features, R rank.

LoRA: Hu et al. 2021, https://arxiv.org/abs/2106.09685, section 4.1 (W frozen, ΔW = α/r · BA). Scale α/√r:
Kalajdzievski 2023, https://arxiv.org/abs/2312.03732. Keeping only the thin S = dropout(x) Aᵀ between forward and
backward: LoRAFusion, https://arxiv.org/abs/2510.00206.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from workers.products import apart, linear
from workers.seeds import generator


@dataclass(frozen=True, kw_only=True)
class Factors:
    """One adapter's share in one module. Views into the adapter's flat buffers, so nothing here owns memory."""

    a_RI: Tensor
    b_OR: Tensor
    """Best as the transpose of contiguous (R, O): then dB is summed row by row over dY, as it lies in memory."""
    grad_a_RI: Tensor | None
    """Where the backward adds dA; `None` for a frozen ancestor, which only passes gradients through."""
    grad_b_OR: Tensor | None
    scale: float
    a_IR: Tensor = field(init=False, repr=False)
    """Transposes, made once: with many small jobs a view costs as much as a product."""
    b_RO: Tensor = field(init=False, repr=False)
    grad_b_RO: Tensor | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Derive the transposes."""
        object.__setattr__(self, "a_IR", self.a_RI.T)
        object.__setattr__(self, "b_RO", self.b_OR.T)
        object.__setattr__(self, "grad_b_RO", None if self.grad_b_OR is None else self.grad_b_OR.T)


@dataclass(frozen=True, kw_only=True)
class DropoutDraw:
    """Names one job's dropout masks: a function of these four and of the module, of nothing else."""

    probability: float
    seed: int
    step: int
    micro_batch: int

    def mask(self, module: str, shape: tuple[int, int], device: torch.device) -> Tensor:
        """Boolean (t, I), true where the input is kept."""
        draw = generator(self.seed, "dropout", self.step, self.micro_batch, module, device=device)
        keep = torch.empty(shape, device=device).bernoulli_(1.0 - self.probability, generator=draw)
        return keep.bool()

    def apply(self, x_tI: Tensor, mask_tI: Tensor) -> Tensor:
        """Inverted dropout: kept values scaled by 1/(1-p), the others exactly zero even where x is not finite."""
        return torch.where(mask_tI, x_tI, 0.0).mul_(1.0 / (1.0 - self.probability))


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Consecutive tokens of a pack that take the same path of adapters: the rows of one job."""

    start: int
    stop: int
    path: tuple[Mapping[str, Factors], ...]
    """Adapters from the root of the hierarchy to the leaf, each as module name → factors."""
    dropout: DropoutDraw | None = None
    """Applies to the input of the trainable leaf; `None` outside training."""


@dataclass(frozen=True)
class _Branch:
    """A segment's adapters in one module."""

    start: int
    length: int
    factors: tuple[Factors, ...]
    dropout: DropoutDraw | None


class Router:
    """Says, for the pack in flight, which tokens take which adapters. One per base model, shared by its layers."""

    def __init__(self) -> None:
        self._branches: dict[str, tuple[_Branch, ...]] = {}
        self._segments: Sequence[Segment] = ()
        self.token_index_T: Tensor | None = None
        """Where the pack's tokens stand among the flattened positions of the base's input; `None` when they are all
        of them, which is so in every layout without padding."""

    def route(self, segments: Sequence[Segment], token_index_T: Tensor | None = None) -> None:
        """Route the next forward and its backward. Segments must not overlap; tokens outside all get the bare base."""
        self._segments = tuple(segments)
        self._branches = {}
        self.token_index_T = token_index_T

    def clear(self) -> None:
        """Forget the pack, so that no adapter is kept alive by the layers."""
        self.route(())

    def branches(self, module: str) -> tuple[_Branch, ...]:
        """The segments that have an adapter in `module`, computed once a pack."""
        found = self._branches.get(module)
        if found is None:
            found = tuple(
                _Branch(segment.start, segment.stop - segment.start, factors, segment.dropout)
                for segment in self._segments
                if (factors := tuple(adapter[module] for adapter in segment.path if module in adapter))
            )
            self._branches[module] = found
        return found


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
        branches = self._router.branches(self.name)
        if not branches:
            return linear(x, self.weight_OI, self.bias)
        # Shaped outside the function: what it returns must be no view, or a base that adds to it in place is refused.
        y_TO = _PackedLora.apply(
            x.reshape(-1, x.shape[-1]),
            self._anchor,
            self.weight_OI,
            self.bias,
            branches,
            self._router.token_index_T,
            self.name,
        )
        return y_TO.view(*x.shape[:-1], -1)  # pyright: ignore[reportOptionalMemberAccess]


class _PackedLora(torch.autograd.Function):
    """Base product over all tokens, then each segment's adapters on its own slice.

    Slices, never masks: a NaN in one job's rows must not meet another job's numbers, not even multiplied by zero.
    The adapter branch is computed in the adapter's dtype and rounded once to the base's, as PEFT does.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx,
        x_TI: Tensor,
        anchor: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        branches: tuple[_Branch, ...],
        token_index_T: Tensor | None,
        module: str,
    ) -> Tensor:
        y_TO = F.linear(apart(x_TI), weight_OI, bias_O)
        rows_TI, out_TO = (x_TI, y_TO) if token_index_T is None else (x_TI[token_index_T], y_TO[token_index_T])
        dtype = branches[0].factors[-1].a_RI.dtype
        thin: list[Tensor] = []
        masks: list[Tensor | None] = []
        for branch, x_tI, out_tO in zip(branches, _slices(rows_TI, branches), _slices(out_TO, branches), strict=True):
            mask_tI = None
            if x_tI.dtype != dtype:
                x_tI = x_tI.to(dtype)
            sum_tO = out_tO if out_tO.dtype == dtype else out_tO.to(dtype)
            for factors in branch.factors:
                input_tI = x_tI
                if branch.dropout is not None and factors is branch.factors[-1]:
                    mask_tI = branch.dropout.mask(module, (x_tI.shape[0], x_tI.shape[1]), x_tI.device)
                    input_tI = branch.dropout.apply(x_tI, mask_tI)
                s_tR = torch.mm(input_tI, factors.a_IR)
                sum_tO.addmm_(s_tR, factors.b_RO, alpha=factors.scale)
                thin.append(s_tR)
            masks.append(mask_tI)
            if sum_tO is not out_tO:
                out_tO.copy_(sum_tO)
        if token_index_T is not None:
            y_TO.index_copy_(0, token_index_T, out_TO)
        ctx.save_for_backward(rows_TI, weight_OI, *thin)
        ctx.branches, ctx.masks, ctx.token_index_T, ctx.adapter_dtype = branches, masks, token_index_T, dtype
        return y_TO

    @staticmethod
    @once_differentiable
    def backward(ctx, dy_TO: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        rows_TI, weight_OI, *thin = ctx.saved_tensors
        branches, dtype, index_T = ctx.branches, ctx.adapter_dtype, ctx.token_index_T
        dx_TI = apart(dy_TO) @ weight_OI if ctx.needs_input_grad[0] else None
        dy_rows_TO = dy_TO if index_T is None else dy_TO[index_T]
        dx_rows_TI = dx_TI if dx_TI is None or index_T is None else dx_TI[index_T]
        dx_slices = _slices(dx_rows_TI, branches) if dx_rows_TI is not None else [None] * len(branches)
        remaining = iter(thin)
        for branch, mask_tI, x_tI, dy_tO, dx_tI in zip(
            branches, ctx.masks, _slices(rows_TI, branches), _slices(dy_rows_TO, branches), dx_slices, strict=True
        ):
            if x_tI.dtype != dtype:
                x_tI, dy_tO = x_tI.to(dtype), dy_tO.to(dtype)
            sum_tI = dx_tI if dx_tI is None or dx_tI.dtype == dtype else dx_tI.to(dtype)
            for factors in branch.factors:
                s_tR = next(remaining)
                ds_tR = torch.mm(dy_tO, factors.b_OR)
                dropout = branch.dropout if factors is branch.factors[-1] else None
                if factors.grad_b_RO is not None:
                    factors.grad_b_RO.addmm_(s_tR.T, dy_tO, alpha=factors.scale)
                if factors.grad_a_RI is not None:
                    input_tI = x_tI if dropout is None else dropout.apply(x_tI, mask_tI)
                    factors.grad_a_RI.addmm_(ds_tR.T, input_tI, alpha=factors.scale)
                if sum_tI is None:
                    continue
                if dropout is None:
                    sum_tI.addmm_(ds_tR, factors.a_RI, alpha=factors.scale)
                else:
                    sum_tI.add_(dropout.apply(ds_tR @ factors.a_RI, mask_tI), alpha=factors.scale)
            if sum_tI is not None and dx_tI is not None and sum_tI is not dx_tI:
                dx_tI.copy_(sum_tI)
        if dx_TI is not None and dx_rows_TI is not None and index_T is not None:
            dx_TI.index_copy_(0, index_T, dx_rows_TI)
        return dx_TI, None, None, None, None, None, None


def _slices(tokens_TF: Tensor, branches: Sequence[_Branch]) -> Sequence[Tensor]:
    """Each branch's own tokens, as views; one call where the branches follow each other through the whole pack."""
    lengths = [branch.length for branch in branches]
    follows = all(left.start + left.length == right.start for left, right in pairwise(branches))
    if follows and branches[0].start == 0 and sum(lengths) == tokens_TF.shape[0]:
        return tokens_TF.split(lengths)
    return [tokens_TF.narrow(0, branch.start, branch.length) for branch in branches]
