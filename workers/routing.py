"""Which tokens of a pack take which adapters, and what those adapters are in one place of the base.

Identity is not location: a segment names tokens and a path of adapters, from the root of the hierarchy to the one leaf
that trains, and knows nothing of jobs.

Shape legend: t tokens of one segment, I input features, O output features, R rank (of several factors joined: their
sum).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
from torch import Tensor

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
    b_RO: Tensor = field(init=False, repr=False)
    """Transposes, made once: with many small jobs a view costs as much as a product."""
    grad_b_RO: Tensor | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Derive the transposes."""
        object.__setattr__(self, "b_RO", self.b_OR.T)
        object.__setattr__(self, "grad_b_RO", None if self.grad_b_OR is None else self.grad_b_OR.T)


@dataclass(frozen=True)
class Output:
    """Where one module of a part puts its delta."""

    index: int
    """Of the module within its input group."""
    columns: slice | None
    """Its columns of the part's thin product; `None` where they are all of them."""
    factors: Factors


@dataclass(frozen=True)
class Part:
    """Factors of one adapter that share one input and so one down-projection."""

    modules: tuple[str, ...]
    a_RI: Tensor
    """The A factors of all its modules, one below the other."""
    a_IR: Tensor
    grad_a_RI: Tensor | None
    outputs: tuple[Output, ...]


@dataclass(frozen=True)
class StackOutput:
    """Where one module of a stack's part puts its deltas. S slots."""

    index: int
    """Of the module within its input group."""
    columns: slice
    b_SRO: Tensor
    grad_b_SRO: Tensor
    scale_S: Tensor


@dataclass(frozen=True)
class StackPart:
    """A part of every adapter of a stack at once. S slots."""

    modules: tuple[str, ...]
    a_SRI: Tensor
    grad_a_SRI: Tensor
    outputs: tuple[StackOutput, ...]


class Stack(Protocol):
    """Adapters of one layout, lying side by side."""

    @property
    def num_slots(self) -> int:
        """Adapters that it has room for."""
        ...

    def parts(self, modules: tuple[str, ...], *, joined: bool) -> tuple[StackPart, ...]:
        """As `AdapterFactors.parts`, for all slots."""
        ...

    def give_back(self, index: int) -> None:
        """The slot may be taken again."""
        ...


@dataclass(frozen=True)
class Slot:
    """Where an adapter lies in a stack. A place, never an identity: it is cleared and given to another."""

    stack: Stack
    index: int

    def give_back(self) -> None:
        """The adapter is gone."""
        self.stack.give_back(self.index)


class AdapterFactors(Mapping[str, Factors]):
    """Module name → factors of one adapter; what is derived from them is kept, since every pack asks for it."""

    def __init__(self, factors: Mapping[str, Factors], slot: Slot | None = None) -> None:
        """Take factors that lie in a slot of a stack, or anywhere."""
        self._factors = dict(factors)
        self.slot = slot
        self._parts: dict[tuple[tuple[str, ...], bool], tuple[Part, ...]] = {}

    def __getitem__(self, module: str) -> Factors:
        return self._factors[module]

    def __iter__(self) -> Iterator[str]:
        return iter(self._factors)

    def __len__(self) -> int:
        return len(self._factors)

    def parts(self, modules: tuple[str, ...], *, joined: bool) -> tuple[Part, ...]:
        """This adapter's share in modules that read the same input.

        Args:
            modules: Of one input group, in the group's order; those without factors here are passed over.
            joined: One part for all, where their A factors lie one behind the other in memory. Under dropout every
                module drops inputs of its own, so there they cannot share a product.
        """
        key = (modules, joined)
        found = self._parts.get(key)
        if found is None:
            found = self._parts[key] = self._make_parts(modules, joined)
        return found

    def _make_parts(self, modules: tuple[str, ...], joined: bool) -> tuple[Part, ...]:
        present = [(index, name, self._factors[name]) for index, name in enumerate(modules) if name in self._factors]
        if len(present) > 1 and joined:
            values = _one_behind_the_other([factors.a_RI for _, _, factors in present])
            grads = [factors.grad_a_RI for _, _, factors in present]
            trained = [grad for grad in grads if grad is not None]
            joined_grads = _one_behind_the_other(trained) if len(trained) == len(grads) else None
            if values is not None and (joined_grads is not None or not trained):
                outputs, start = [], 0
                for index, _, factors in present:
                    rank = factors.a_RI.shape[0]
                    outputs.append(Output(index, slice(start, start + rank), factors))
                    start += rank
                names = tuple(name for _, name, _ in present)
                return (Part(names, values, values.T, joined_grads, tuple(outputs)),)
        return tuple(
            Part((name,), factors.a_RI, factors.a_RI.T, factors.grad_a_RI, (Output(index, None, factors),))
            for index, name, factors in present
        )


def _one_behind_the_other(factors_RI: Sequence[Tensor]) -> Tensor | None:
    """All of them as one (ΣR, I) view, or `None` where they do not lie so in memory."""
    first = factors_RI[0]
    end = first.data_ptr()
    for one in factors_RI:
        if not one.is_contiguous() or one.data_ptr() != end or one.shape[1] != first.shape[1]:
            return None
        end += one.numel() * one.element_size()
    rows = sum(one.shape[0] for one in factors_RI)
    return first.as_strided((rows, first.shape[1]), first.stride())


@dataclass(frozen=True, kw_only=True)
class DropoutDraw:
    """Names one job's dropout masks: a function of these four and of the module, of nothing else."""

    probability: float
    seed: int
    step: int
    micro_batch: int
    share: TokenShare | None = None
    """Set where a segment holds only some of the micro-batch's rows: the mask is drawn for all and cut."""

    def mask(self, module: str, shape: tuple[int, int], device: torch.device) -> Tensor:
        """Boolean (t, I), true where the input is kept."""
        draw = generator(self.seed, "dropout", self.step, self.micro_batch, module, device=device)
        keep = torch.empty(shape, device=device).bernoulli_(1.0 - self.probability, generator=draw)
        return keep.bool()

    def segment_mask(self, module: str, shape: tuple[int, int], device: torch.device) -> Tensor:
        """The mask of the segment's own tokens, (t, I)."""
        if self.share is None:
            return self.mask(module, shape, device)
        return self.mask(module, (self.share.num_tokens, shape[1]), device)[self.share.selected_t.to(device)]

    def apply(self, x_tI: Tensor, mask_tI: Tensor) -> Tensor:
        """Inverted dropout: kept values scaled by 1/(1-p), the others exactly zero even where x is not finite."""
        return torch.where(mask_tI, x_tI, 0.0).mul_(1.0 / (1.0 - self.probability))


@dataclass(frozen=True, kw_only=True)
class TokenShare:
    """Which tokens of a micro-batch a segment holds."""

    num_tokens: int
    """Of the whole micro-batch."""
    selected_t: Tensor
    """Positions within it, in the segment's order."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Consecutive tokens of a pack that take the same path of adapters: rows of one job."""

    start: int
    stop: int
    path: tuple[Mapping[str, Factors], ...]
    """Adapters from the root of the hierarchy to the leaf, each as module name → factors."""
    dropout: DropoutDraw | None = None
    """Applies to the input of the trainable leaf; `None` outside training."""


@dataclass(frozen=True)
class Branch:
    """A segment's adapters in one input group."""

    start: int
    length: int
    ancestors: tuple[Part, ...]
    leaf: tuple[Part, ...]
    dropout: DropoutDraw | None
    slot: Slot | None = None
    """Of the leaf, where it lies in a stack and nothing is above it."""


_Plan = TypeVar("_Plan")


class Router:
    """Says, for the pack in flight, which tokens take which adapters. One per lane, shared by its layers."""

    def __init__(self, groups: Sequence[tuple[str, ...]] = ()) -> None:
        """Take note of the base's input groups: modules that read the same tensor, the first called named first."""
        self._groups = {modules[0]: modules for modules in groups}
        self._branches: dict[str, tuple[Branch, ...]] = {}
        self._plans: dict[object, object] = {}
        self._segments: Sequence[Segment] = ()
        self.token_index_T: Tensor | None = None
        """Where the pack's tokens stand among the flattened positions of the base's input; `None` when they are all
        of them, which is so in every layout without padding."""

    def route(self, segments: Sequence[Segment], token_index_T: Tensor | None = None) -> None:
        """Route the next forward and its backward. Segments must not overlap; tokens outside all get the bare base."""
        self._segments = tuple(segments)
        self._branches = {}
        self._plans = {}
        self.token_index_T = token_index_T

    def clear(self) -> None:
        """Forget the pack, so that no adapter is kept alive by the layers."""
        self.route(())

    def group(self, module: str) -> tuple[str, ...]:
        """The modules whose adapters `module` runs when it is called: its input group where it is the first of one."""
        return self._groups.get(module, (module,))

    def branches(self, module: str) -> tuple[Branch, ...]:
        """The segments that have an adapter in the group of `module`, computed once a pack."""
        found = self._branches.get(module)
        if found is None:
            modules = self.group(module)
            branches = []
            for segment in self._segments:
                if not segment.path:
                    continue
                *above, leaf = (_with_parts(adapter) for adapter in segment.path)
                ancestors = tuple(part for one in above for part in one.parts(modules, joined=True))
                own = leaf.parts(modules, joined=segment.dropout is None)
                if ancestors or own:
                    length = segment.stop - segment.start
                    slot = leaf.slot if not above else None
                    branches.append(Branch(segment.start, length, ancestors, own, segment.dropout, slot))
            found = self._branches[module] = tuple(branches)
        return found

    def plans(self, module: str, make: Callable[[Sequence[Branch], tuple[str, ...]], _Plan]) -> _Plan | None:
        """What `make` plans for the branches of `module`, once a pack; `None` unless all of them lie in stacks."""
        branches = self.branches(module)
        if any(branch.slot is None for branch in branches):
            return None
        found = self._plans.get(module)
        if found is None:
            found = self._plans[module] = make(branches, self.group(module))
        return found  # pyright: ignore[reportReturnType]


def _with_parts(adapter: Mapping[str, Factors]) -> AdapterFactors:
    return adapter if isinstance(adapter, AdapterFactors) else AdapterFactors(adapter)
