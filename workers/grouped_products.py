"""Adapter products of many jobs at once: grouped matrix products over adapters that lie side by side in stacks.

For devices where a call costs more than the arithmetic of a small job. torch's grouped product takes tokens sorted by
slot and the end of each slot's tokens; a slot without tokens is an empty group. Every group is a product of its own:
no row meets another job's numbers.

Shape legend: T tokens of a pack, t tokens of one stack, I input features, O output features, R rank (zero-padded), S
slots of a stack.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import grouped_mm

from workers.routing import Branch, Stack, StackOutput, StackPart


@dataclass(frozen=True)
class StackPlan:
    """One stack's part in a pack."""

    stack: Stack
    modules: tuple[str, ...]
    """The input group that it is for."""
    branches: tuple[Branch, ...]
    """In the order of their slots."""
    contiguous: slice | None
    """The stack's tokens in the pack, where they follow each other by slot; `None` where they must be gathered."""

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each slot."""
        lengths = [0] * self.stack.num_slots
        for branch in self.branches:
            assert branch.slot is not None
            lengths[branch.slot.index] += branch.length
        return lengths

    @cached_property
    def num_tokens(self) -> int:
        """Tokens of all slots."""
        return sum(self.lengths)

    @cached_property
    def used(self) -> slice | list[int]:
        """The slots that have tokens: as a slice where they follow each other."""
        slots = [index for index, length in enumerate(self.lengths) if length]
        follows = slots[-1] - slots[0] + 1 == len(slots)
        return slice(slots[0], slots[-1] + 1) if follows else slots

    @property
    def has_dropout(self) -> bool:
        """Whether some branch drops inputs, so that modules cannot share a product."""
        return any(branch.dropout is not None for branch in self.branches)

    def ends_S(self, device: torch.device) -> Tensor:
        """Where each slot's tokens end."""
        return torch.tensor(self.lengths, dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)

    def index_t(self, device: torch.device) -> Tensor:
        """Positions of the stack's tokens in the pack, by slot."""
        spans = [torch.arange(branch.start, branch.start + branch.length) for branch in self.branches]
        return torch.cat(spans).to(device)

    @property
    def parts(self) -> tuple[StackPart, ...]:
        """What is to be computed."""
        return self.stack.parts(self.modules, joined=not self.has_dropout)


def plan(branches: Sequence[Branch], modules: tuple[str, ...]) -> tuple[StackPlan, ...]:
    """Sort branches by stack and slot. All of them must lie in stacks."""
    by_stack: dict[int, list[Branch]] = {}
    for branch in branches:
        assert branch.slot is not None
        by_stack.setdefault(id(branch.slot.stack), []).append(branch)
    plans = []
    for members in by_stack.values():
        members.sort(key=lambda branch: (branch.slot.index, branch.start) if branch.slot else (0, 0))
        follows = all(left.start + left.length == right.start for left, right in pairwise(members))
        contiguous = slice(members[0].start, members[-1].start + members[-1].length) if follows else None
        assert members[0].slot is not None
        plans.append(StackPlan(members[0].slot.stack, modules, tuple(members), contiguous))
    return tuple(plans)


def add_deltas(
    x_TI: Tensor, outputs: Sequence[Tensor], plans: Sequence[StackPlan]
) -> tuple[list[Tensor], list[Tensor]]:
    """Add every job's delta to its tokens of the outputs.

    Returns:
        For the backward: the thin products, a (t, R) for each part of each plan, and the masks of branches under
        dropout.
    """
    thin: list[Tensor] = []
    masks: list[Tensor] = []
    for one in plans:
        parts = one.parts
        dtype, ends_S = parts[0].a_SRI.dtype, one.ends_S(x_TI.device)
        index_t = None if one.contiguous is not None else one.index_t(x_TI.device)
        x_tI = _take(x_TI, one, index_t).to(dtype)
        deltas: dict[int, Tensor] = {}
        for part in parts:
            input_tI = x_tI
            if one.has_dropout:
                own = [*_draw_masks(one, part, x_tI)]
                masks += own
                input_tI = _dropped(one, x_tI, own)
            s_tR = grouped_mm(input_tI, part.a_SRI.transpose(1, 2), offs=ends_S)
            for output in part.outputs:
                scaled_tR = s_tR[:, output.columns] * _scale_t1(one, output)
                deltas[output.index] = grouped_mm(scaled_tR, output.b_SRO, offs=ends_S)
            thin.append(s_tR)
        for index, delta_tO in deltas.items():
            _add(outputs[index], one, index_t, delta_tO)
    return thin, masks


def add_gradients(
    x_TI: Tensor,
    grads: Sequence[Tensor],
    dx_TI: Tensor | None,
    thin: Sequence[Tensor],
    masks: Sequence[Tensor],
    plans: Sequence[StackPlan],
) -> None:
    """Add dA and dB to the adapters' own gradients, and what flows through the adapters to `dx_TI`."""
    remaining, remaining_masks = iter(thin), iter(masks)
    for one in plans:
        parts = one.parts
        dtype, ends_S = parts[0].a_SRI.dtype, one.ends_S(x_TI.device)
        index_t = None if one.contiguous is not None else one.index_t(x_TI.device)
        x_tI = _take(x_TI, one, index_t).to(dtype)
        d_tI = None
        for part in parts:
            s_tR = next(remaining)
            ds_tR = torch.empty_like(s_tR)
            for output in part.outputs:
                dy_tO = _take(grads[output.index], one, index_t).to(dtype)
                scale_t1 = _scale_t1(one, output)
                product_tR = grouped_mm(dy_tO, output.b_SRO.transpose(1, 2), offs=ends_S)
                torch.mul(product_tR, scale_t1, out=ds_tR[:, output.columns])
                scaled_tR = s_tR[:, output.columns] * scale_t1
                _add_to_used(output.grad_b_SRO, one, grouped_mm(scaled_tR.T, dy_tO, offs=ends_S))
            own = [next(remaining_masks) for branch in one.branches if branch.dropout is not None]
            input_tI = _dropped(one, x_tI, own) if own else x_tI
            _add_to_used(part.grad_a_SRI, one, grouped_mm(ds_tR.T, input_tI, offs=ends_S))
            if dx_TI is None:
                continue
            through_tI = grouped_mm(ds_tR, part.a_SRI, offs=ends_S)
            if own:
                through_tI = _dropped(one, through_tI, own)
            d_tI = through_tI if d_tI is None else d_tI.add_(through_tI)
        if dx_TI is not None and d_tI is not None:
            _add(dx_TI, one, index_t, d_tI)


def _add_to_used(grads_SXY: Tensor, one: StackPlan, added_SXY: Tensor) -> None:
    """Add to the slots that have tokens and touch no other: another lane may be writing those."""
    if isinstance(one.used, slice):
        grads_SXY[one.used].add_(added_SXY[one.used])
        return
    for slot in one.used:
        grads_SXY[slot].add_(added_SXY[slot])


def _take(tokens_TF: Tensor, one: StackPlan, index_t: Tensor | None) -> Tensor:
    """The stack's tokens, sorted by slot."""
    return tokens_TF[one.contiguous] if index_t is None else tokens_TF[index_t]


def _add(tokens_TF: Tensor, one: StackPlan, index_t: Tensor | None, delta_tF: Tensor) -> None:
    """Add in the delta's type and round once to the tokens'."""
    summed_tF = _take(tokens_TF, one, index_t) + delta_tF
    if index_t is None:
        tokens_TF[one.contiguous].copy_(summed_tF)
    else:
        tokens_TF.index_copy_(0, index_t, summed_tF.to(tokens_TF.dtype))


def _scale_t1(one: StackPlan, output: StackOutput) -> Tensor:
    """Each token's α/r."""
    lengths_S = torch.tensor(one.lengths, device=output.scale_S.device)
    return output.scale_S.repeat_interleave(lengths_S, output_size=one.num_tokens)[:, None]


def _draw_masks(one: StackPlan, part: StackPart, x_tI: Tensor) -> Iterator[Tensor]:
    for branch in one.branches:
        if branch.dropout is not None:
            shape = (branch.length, x_tI.shape[1])
            yield branch.dropout.segment_mask(part.modules[0], shape, x_tI.device)


def _dropped(one: StackPlan, x_tI: Tensor, masks: Sequence[Tensor]) -> Tensor:
    """A copy in which every branch under dropout has its own inputs dropped."""
    dropped_tI = x_tI.clone()
    remaining, start = iter(masks), 0
    for branch in one.branches:
        if branch.dropout is not None:
            own_tI = dropped_tI[start : start + branch.length]
            own_tI.copy_(branch.dropout.apply(own_tI, next(remaining)))
        start += branch.length
    return dropped_tI
