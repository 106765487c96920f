"""Adapter products segment by segment: a loop over jobs, each on its own slice of the pack.

For CPUs, where a call costs little, and the form that takes everything: any rank, any type, paths of any length. The
grouped form (`grouped_products.py`) is held against it.

Shape legend: T tokens of a pack, t tokens of one segment, I input features, O output features, R rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from workers.routing import Branch, DropoutDraw, Part


def add_deltas(
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


def add_gradients(
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
