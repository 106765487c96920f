"""Adapters of one layout side by side in one allocation, so that one grouped product serves them all.

Shape legend: S slots, R rank (zero-padded to what grouped products take), I input features, O output features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from workers.adapter import Adapter, Layout, in_storage
from workers.routing import Slot, StackOutput, StackPart
from workers.targets import Target

_SLOTS = 8
"""Adapters of one stack. A new stack is begun when all of its kind are full."""
_STRIDE_BYTES = 16
"""Grouped products want every row to begin at a multiple of it."""


class AdapterStack:
    """Room for adapters with the same targets and padded ranks."""

    def __init__(self, layout: Layout, device: torch.device, num_slots: int = _SLOTS) -> None:
        """Zero-filled slots; padding of ranks is zero and stays so, since its gradient is a product with zeros."""
        self.layout = layout
        self.values = torch.zeros(num_slots, layout.size, dtype=layout.dtype, device=device)
        self.grads = torch.zeros_like(self.values)
        self._scales: dict[str, Tensor] = {
            name: torch.zeros(num_slots, dtype=layout.dtype, device=device) for name in layout.ranks
        }
        self._free = list(range(num_slots))
        self._parts: dict[tuple[tuple[str, ...], bool], tuple[StackPart, ...]] = {}

    @property
    def num_slots(self) -> int:
        """Adapters that it has room for."""
        return len(self.values)

    @property
    def is_full(self) -> bool:
        """Whether no slot is free."""
        return not self._free

    def take(self, targets: Mapping[str, Target]) -> Adapter:
        """An adapter in the first free slot, all zeros."""
        index = self._free.pop(0)
        # Cleared now, not when it was given back: whoever still looks at a job that ended sees what it was.
        self.values[index].zero_()
        self.grads[index].zero_()
        for name, target in targets.items():
            self._scales[name][index] = target.scale
        return in_storage(targets, self.layout, self.values[index], self.grads[index], Slot(self, index))

    def give_back(self, index: int) -> None:
        """The slot may be taken again."""
        self._free = sorted([*self._free, index])

    def parts(self, modules: tuple[str, ...], *, joined: bool) -> tuple[StackPart, ...]:
        """As `AdapterFactors.parts`, for all slots."""
        key = (modules, joined)
        if key not in self._parts:
            present = [(index, name) for index, name in enumerate(modules) if name in self.layout.ranks]
            together = [present] if joined else [[one] for one in present]
            self._parts[key] = tuple(self._part(some) for some in together if some)
        return self._parts[key]

    def _part(self, present: Sequence[tuple[int, str]]) -> StackPart:
        layout = self.layout
        first = present[0][1]
        ranks = [layout.ranks[name] for _, name in present]
        outputs, start = [], 0
        for (index, name), rank in zip(present, ranks, strict=True):
            b_shape = (rank, layout.shapes[name][1])
            outputs.append(
                StackOutput(
                    index,
                    slice(start, start + rank),
                    _all_slots(self.values, layout.b_offsets[name], *b_shape),
                    _all_slots(self.grads, layout.b_offsets[name], *b_shape),
                    self._scales[name],
                )
            )
            start += rank
        # A factors of an input group lie one behind the other.
        a_shape = (sum(ranks), layout.shapes[first][0])
        return StackPart(
            tuple(name for _, name in present),
            _all_slots(self.values, layout.a_offsets[first], *a_shape),
            _all_slots(self.grads, layout.a_offsets[first], *a_shape),
            tuple(outputs),
        )


class AdapterStacks:
    """All stacks of a worker."""

    def __init__(self, groups: Sequence[tuple[str, ...]], dtype: torch.dtype, device: torch.device) -> None:
        self._groups, self._dtype, self._device = tuple(groups), dtype, device
        self._stacks: list[AdapterStack] = []

    def allocate(self, targets: Mapping[str, Target]) -> Adapter | None:
        """A zero-filled adapter in a slot, or `None` where grouped products cannot take its shapes."""
        multiple = _STRIDE_BYTES // self._dtype.itemsize
        # The head's factors lie there with the others, but no grouped product reads them.
        inside = [target for target in targets.values() if not target.is_head]
        if not inside or any(target.in_features % multiple or target.out_features % multiple for target in inside):
            return None
        padded = {name: replace(one, r=-(-one.r // multiple) * multiple) for name, one in targets.items()}
        layout = Layout.of(padded, self._groups, self._dtype)
        stack = next((one for one in self._stacks if one.layout == layout and not one.is_full), None)
        if stack is None:
            stack = AdapterStack(layout, self._device)
            self._stacks.append(stack)
        return stack.take(targets)


def _all_slots(storage_SN: Tensor, offset: int, rows: int, columns: int) -> Tensor:
    """(S, rows, columns) of what begins at `offset` in every slot."""
    return storage_SN[:, offset : offset + rows * columns].unflatten(1, (rows, columns))
