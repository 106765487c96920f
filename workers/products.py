"""Products with a frozen weight in which no row reads another.

oneDNN's 16-bit product on CPUs with AMX reads past the end of a row whose length is no multiple of 32 and multiplies
what it finds there by zero: the first numbers of the next row. A NaN in one job's row then reaches the last row of the
job before it (seen with torch 2.13, for one in the backward of a head over 50,257 words). Rows that are followed by
zeros give the same bits without the leak.

Shape legend: T rows, I input features, O output features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_TILE = 32
"""Numbers of 16 bits in one row of an AMX tile."""


def apart(x: Tensor) -> Tensor:
    """x itself, or where rows could be read across, equal rows with zeros behind each."""
    width = x.shape[-1]
    if not _reads_across(x, width):
        return x
    return F.pad(x, (0, -width % _TILE))[..., :width]


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """x Wᵀ + b for a frozen weight: (..., I) to (..., O)."""
    if _reads_across(x, weight_OI.shape[1]) or _reads_across(x, weight_OI.shape[0]):
        y_TO = _RowsApart.apply(x.reshape(-1, x.shape[-1]), weight_OI, bias_O)
        return y_TO.view(*x.shape[:-1], -1)  # pyright: ignore[reportOptionalMemberAccess]
    return F.linear(x, weight_OI, bias_O)


def _reads_across(x: Tensor, width: int) -> bool:
    return x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float16) and width % _TILE != 0


class _RowsApart(torch.autograd.Function):
    """The linear with its rows kept apart in both directions."""

    @staticmethod
    def forward(ctx, x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(weight_OI)
        return F.linear(apart(x_TI), weight_OI, bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy_TO: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (weight_OI,) = ctx.saved_tensors
        return apart(dy_TO) @ weight_OI, None, None
