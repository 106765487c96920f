"""One job's adapter: all its factors in one flat buffer, their gradients in another of the same layout.

Flat storage makes everything that concerns a job as a whole one operation: the optimizer step, the gradient's norm, the
finite check, zeroing, saving. The factors that the layers see are views.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jobs.spec import LoraSpec
from workers.routing import AdapterFactors, Factors, Slot
from workers.seeds import generator
from workers.targets import Target

_ALIGNMENT_BYTES = 64
"""Every factor starts on a cache line, as a tensor of its own would: BLAS kernels differ by alignment."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the factors of an adapter lie in its flat buffers. A factors of an input group lie one behind the other."""

    dtype: torch.dtype
    size: int
    """Numbers in all, alignment included."""
    ranks: dict[str, int]
    """Rows that each module's factors have room for."""
    shapes: dict[str, tuple[int, int]]
    """(inputs, outputs) of each module."""
    a_offsets: dict[str, int]
    b_offsets: dict[str, int]

    @classmethod
    def of(cls, targets: Mapping[str, Target], groups: Sequence[tuple[str, ...]], dtype: torch.dtype) -> Layout:
        """Lay out factors of these ranks.

        Args:
            targets: In the base's order.
            groups: The base's input groups.
            dtype: Of the numbers.
        """
        multiple = _ALIGNMENT_BYTES // dtype.itemsize
        a_offsets: dict[str, int] = {}
        b_offsets: dict[str, int] = {}
        size = 0
        for modules in _grouped(targets, groups):
            for name in modules:
                a_offsets[name], size = size, size + targets[name].r * targets[name].in_features
            size = math.ceil(size / multiple) * multiple
            for name in modules:
                b_offsets[name], size = size, size + targets[name].r * targets[name].out_features
                size = math.ceil(size / multiple) * multiple
        return cls(
            dtype=dtype,
            size=size,
            ranks={name: target.r for name, target in targets.items()},
            shapes={name: (target.in_features, target.out_features) for name, target in targets.items()},
            a_offsets=a_offsets,
            b_offsets=b_offsets,
        )

    def views(self, flat_N: Tensor, name: str, rank: int) -> tuple[Tensor, Tensor]:
        """A (R, I) and B (O, R) of a module in a flat buffer of this layout, wherever that begins in its storage.

        Args:
            flat_N: Factors, their gradients, or what an optimizer keeps for them.
            name: Of the module.
            rank: Rows that it has; there may be room for more.
        """
        (wide, out), begin = self.shapes[name], flat_N.storage_offset()
        # One operation each: the thread that writes checkpoints makes them by the thousand while others train.
        return (
            flat_N.as_strided((rank, wide), (wide, 1), begin + self.a_offsets[name]),
            flat_N.as_strided((out, rank), (1, out), begin + self.b_offsets[name]),
        )


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """The trainable leaf of a job."""

    values: nn.Parameter
    """Flat; the padding between factors is zero and stays so, since it never receives a gradient."""
    grads: Tensor
    """Flat, same layout; the backward adds into it. It is `values.grad` for the optimizer."""
    factors: AdapterFactors
    """Module name → views into `values` and `grads`."""
    targets: Mapping[str, Target]
    layout: Layout

    @property
    def num_parameters(self) -> int:
        """Trainable scalars, without the padding."""
        return sum(factors.a_RI.numel() + factors.b_OR.numel() for factors in self.factors.values())

    def zero_grad(self) -> None:
        """Start a new optimizer batch."""
        self.grads.zero_()


def allocate(
    targets: Mapping[str, Target],
    *,
    dtype: torch.dtype,
    device: torch.device,
    groups: Sequence[tuple[str, ...]] = (),
) -> Adapter:
    """Zero-filled storage of its own for factors of the given targets.

    Args:
        targets: In the base's order.
        dtype: Of weights and gradients.
        device: Where they live.
        groups: The base's input groups, each of which one down-projection then serves.
    """
    layout = Layout.of(targets, groups, dtype)
    values = torch.zeros(layout.size, dtype=dtype, device=device)
    return in_storage(targets, layout, values, torch.zeros_like(values), None)


def in_storage(
    targets: Mapping[str, Target], layout: Layout, values: Tensor, grads: Tensor, slot: Slot | None
) -> Adapter:
    """An adapter in flat buffers that are there already; `slot` says where they lie in a stack, if they do."""
    parameter = nn.Parameter(values)
    parameter.grad = grads
    factors = AdapterFactors(_views(targets, layout, values, grads), slot)
    return Adapter(values=parameter, grads=grads, factors=factors, targets=dict(targets), layout=layout)


def with_gradients_in(adapter: Adapter, grads: Tensor) -> AdapterFactors:
    """The same factors, their gradients added into another flat buffer of at least the adapter's size."""
    return AdapterFactors(_views(adapter.targets, adapter.layout, adapter.values.detach(), grads))


def _views(targets: Mapping[str, Target], layout: Layout, values: Tensor, grads: Tensor) -> dict[str, Factors]:
    factors = {}
    for name, target in targets.items():
        a_RI, b_OR = layout.views(values, name, target.r)
        grad_a_RI, grad_b_OR = layout.views(grads, name, target.r)
        factors[name] = Factors(a_RI=a_RI, b_OR=b_OR, grad_a_RI=grad_a_RI, grad_b_OR=grad_b_OR, scale=target.scale)
    return factors


def _grouped(targets: Mapping[str, Target], groups: Sequence[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """The targets by input group, a module without one by itself, in the order of the first of each."""
    group_of = {name: modules for modules in groups for name in modules}
    done: set[str] = set()
    for name in targets:
        if name not in done:
            together = tuple(one for one in group_of.get(name, (name,)) if one in targets)
            done.update(together)
            yield together


def initialise(adapter: Adapter, spec: LoraSpec, seed: int) -> None:
    """Fill a fresh adapter as PEFT's `init_lora_weights` does, each module from a stream of its own.

    True: A Kaiming-uniform (a = √5), B zero. False: both Kaiming-uniform, so the adapter changes the model from the
    start. gaussian: A normal with standard deviation 1/r, B zero. orthogonal: A and B from orthogonal halves of one
    basis, so that BA is zero while neither is (https://datta0.github.io/posts/rethink-lora-init/).
    """
    how = spec.init_lora_weights
    for name, factors in adapter.factors.items():
        draw = generator(seed, "init", name)
        rank, width = factors.a_RI.shape
        a_RI = torch.empty(rank, width, dtype=torch.float32)
        b_OR = torch.zeros(factors.b_OR.shape, dtype=torch.float32)
        if how == "gaussian":
            nn.init.normal_(a_RI, std=1.0 / rank, generator=draw)
        elif how == "orthogonal":
            basis_RR, _ = torch.linalg.qr(torch.randn(rank, rank, generator=draw))
            a_RI = torch.randn(width, rank // 2, generator=draw).mm(basis_RR[0::2]).T / 10.0
            b_OR = torch.randn(rank // 2, b_OR.shape[0], generator=draw).T.mm(basis_RR[1::2]) / 10.0
        else:
            nn.init.kaiming_uniform_(a_RI, a=math.sqrt(5), generator=draw)
            if how is False:
                nn.init.kaiming_uniform_(b_OR, a=math.sqrt(5), generator=draw)
        factors.a_RI.copy_(a_RI)
        factors.b_OR.copy_(b_OR)


def dtype_for(base: torch.dtype) -> torch.dtype:
    """Adapters are fp32 on every base but an fp64 one, which exists for tests."""
    return torch.float64 if base == torch.float64 else torch.float32
