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
from workers.routing import AdapterFactors, Factors
from workers.seeds import generator
from workers.targets import Target

_ALIGNMENT_BYTES = 64
"""Every factor starts on a cache line, as a tensor of its own would: BLAS kernels differ by alignment."""


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
    groups: tuple[tuple[str, ...], ...]
    """The base's input groups, which order the buffers."""

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
    """Zero-filled storage for factors of the given targets.

    Args:
        targets: In the base's order.
        dtype: Of weights and gradients.
        device: Where they live.
        groups: The base's input groups: their A factors lie one behind the other, so that one product serves them all.
    """
    size, _ = _offsets(targets, groups, dtype)
    values = torch.zeros(size, dtype=dtype, device=device)
    grads = torch.zeros_like(values)
    parameter = nn.Parameter(values)
    parameter.grad = grads
    return Adapter(
        values=parameter,
        grads=grads,
        factors=_views(targets, groups, values, grads),
        targets=dict(targets),
        groups=tuple(groups),
    )


def with_gradients_in(adapter: Adapter, grads: Tensor) -> AdapterFactors:
    """The same factors, their gradients added into another flat buffer of at least the adapter's size."""
    return _views(adapter.targets, adapter.groups, adapter.values.detach(), grads)


def _views(
    targets: Mapping[str, Target], groups: Sequence[tuple[str, ...]], values: Tensor, grads: Tensor
) -> AdapterFactors:
    _, offsets = _offsets(targets, groups, values.dtype)

    def view(flat: Tensor, offset: int, rows: int, columns: int) -> Tensor:
        return flat[offset : offset + rows * columns].view(rows, columns)

    return AdapterFactors(
        {
            name: Factors(
                a_RI=view(values, offsets[name][0], target.r, target.in_features),
                b_OR=view(values, offsets[name][1], target.r, target.out_features).T,
                grad_a_RI=view(grads, offsets[name][0], target.r, target.in_features),
                grad_b_OR=view(grads, offsets[name][1], target.r, target.out_features).T,
                scale=target.scale,
            )
            for name, target in targets.items()
        }
    )


def _offsets(
    targets: Mapping[str, Target], groups: Sequence[tuple[str, ...]], dtype: torch.dtype
) -> tuple[int, dict[str, tuple[int, int]]]:
    """Numbers in all, and for each module where its A and its B begin."""
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
    return size, {name: (a_offsets[name], b_offsets[name]) for name in targets}


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
