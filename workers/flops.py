"""How many floating-point operations a pack needs: the useful ones, counted from shapes.

A multiply-add is two. A frozen linear has a forward (2 per parameter and token) and a backward for its input (2 more),
no weight gradient; an adapter has a forward, a backward for its input and one for its factors (6 per parameter and
token). Attention of a causal row of L tokens needs 2 · L² · D forward (half of QKᵀ and half of the weighted sum), twice
that backward (Korthikanti et al. 2022, https://arxiv.org/abs/2205.05198, appendix A, halved for the mask). Below the
lowest adapter of a pack no backward is run. What is computed again for gradient checkpointing, and padding, is not
useful work and not counted.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workers.batcher import Kind

if TYPE_CHECKING:
    from workers.base_model import BaseModel
    from workers.structure import LinearShape
    from workers.targets import Target

_LAYER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")


@dataclass(frozen=True, kw_only=True)
class AdapterCost:
    """What operations depend on in an adapter."""

    num_parameters: int
    """Of its factors within the base's body, which run over all tokens."""
    head_parameters: int = 0
    """Of those on the output head, which run over label tokens."""
    lowest: int
    """Place of its first linear in the order of the base's: below it the backward ends."""


@dataclass(frozen=True, kw_only=True)
class FlopLoad:
    """What one job has in a pack."""

    adapter: AdapterCost
    tokens: int
    labels: int
    squares: int
    """Σ over its rows of length squared."""


class FlopCount:
    """Counts for one base."""

    def __init__(
        self,
        shapes: Mapping[str, LinearShape],
        groups: Sequence[Sequence[str]],
        *,
        vocab_size: int,
        width: int,
        attention_width: int,
        num_layers: int,
    ) -> None:
        """Take in the structure.

        Args:
            shapes: The base's linears in the order in which they run, the head left out.
            groups: Those among them that read the very same tensor.
            vocab_size: Rows of the head.
            width: Of the hidden states.
            attention_width: Query heads times their width.
            num_layers: That attend.
        """
        first = {name: group[0] for group in groups for name in group}
        order = {name: index for index, name in enumerate(shapes)}
        self._place = {name: order[first.get(name, name)] for name in shapes}
        """When the input of a linear is known: those of a group share it."""
        self._layer = {name: int(found[1]) for name in shapes if (found := _LAYER.search(name))}
        self._linears = [(self._place[name], shape.in_features * shape.out_features) for name, shape in shapes.items()]
        self._all_linears = sum(parameters for _, parameters in self._linears)
        self._head = vocab_size * width
        self._attention_width = attention_width
        self._num_layers = num_layers
        self._backward_by_lowest: dict[int, tuple[int, int]] = {}
        """Lowest adapter → parameters of the linears, and number of layers that attend, with a backward."""

    @classmethod
    def of(cls, base: BaseModel) -> FlopCount:
        """Of a loaded base."""
        config = base.model.config.get_text_config()
        heads = getattr(config, "num_attention_heads", None)
        # Some bases have another number in each layer, or none: their attention is left out of the count.
        heads = heads if isinstance(heads, int) else 0
        head_width = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0)
        return cls(
            base.shapes,
            base.groups,
            vocab_size=base.vocab_size,
            width=config.hidden_size,
            attention_width=heads * head_width,
            num_layers=config.num_hidden_layers,
        )

    def adapter(self, targets: Mapping[str, Target]) -> AdapterCost:
        """Of a job's factors, by full module name."""
        return AdapterCost(
            num_parameters=sum(one.num_parameters for one in targets.values() if not one.is_head),
            head_parameters=sum(one.num_parameters for one in targets.values() if one.is_head),
            lowest=min(
                (self._place[name] for name, one in targets.items() if not one.is_head), default=len(self._linears)
            ),
        )

    def pack(self, kind: Kind, loads: Collection[FlopLoad]) -> int:
        """Operations of what runs in one forward, and in its backward where it trains."""
        trains = kind is Kind.TRAIN
        tokens = sum(load.tokens for load in loads)
        attention = 2 * self._attention_width * sum(load.squares for load in loads)
        total = 2 * tokens * self._all_linears + attention * self._num_layers
        lowest = min((load.adapter.lowest for load in loads), default=len(self._linears))
        # Where factors on the head are all that trains, hidden states need no gradient.
        into_body = trains and lowest < len(self._linears)
        total += (4 if into_body else 2) * self._head * sum(load.labels for load in loads)
        total += (6 if trains else 2) * sum(load.adapter.head_parameters * load.labels for load in loads)
        total += (6 if trains else 2) * sum(load.adapter.num_parameters * load.tokens for load in loads)
        if trains:
            linears, layers = self._backward(lowest)
            total += 2 * tokens * linears + 2 * attention * layers
        return total

    def _backward(self, lowest: int) -> tuple[int, int]:
        """Where an input has a gradient: above the lowest adapter, in its layer's attention if it has a part in it."""
        if lowest not in self._backward_by_lowest:
            linears = sum(parameters for place, parameters in self._linears if place > lowest)
            self._backward_by_lowest[lowest] = linears, self._num_layers - self._first_attention(lowest)
        return self._backward_by_lowest[lowest]

    def _first_attention(self, lowest: int) -> int:
        """The first layer whose attention has a backward."""
        layer = min((layer for name, layer in self._layer.items() if self._place[name] >= lowest), default=None)
        if layer is None:
            return self._num_layers if self._layer else 0
        first = min(self._place[name] for name, other in self._layer.items() if other == layer)
        return layer if lowest <= first else layer + 1
