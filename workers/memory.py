"""Predicted bytes of a base, an adapter and a pack; what fits on a device.

Before anything has run, a pack's bytes are an upper bound from the base's shapes: every linear's input and output is
kept once for the backward, and as much again for what lies between them (norms, activations, attention). A worker then
fits its own figures to what it measures (`memory_fit.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jobs.spec import JobSpec
from workers.chunks import chunk_labels

if TYPE_CHECKING:  # the control plane reckons with demands and loads no torch
    from workers.dataset import JobData, TokenisedRows
    from workers.structure import Structure
    from workers.targets import Target

PROCESS_BYTES = 600 * 2**20
"""What a worker's process takes before it holds a weight: Python, torch, transformers, datasets. Measured: 520 MiB."""
MAX_TOKEN_BUDGET = 4096
"""Beyond it a pack gains no speed on any device that was measured, and only costs memory."""
MIN_TOKEN_BUDGET = 128

_BETWEEN_LINEARS = 2.0
_CHECKPOINTED = 0.35
"""Share of a pack's activations that is left with gradient checkpointing. Measured on SmolLM2: 0.26."""
_LOGIT_COPIES = 3
"""Logits, their log-softmax, and their gradient."""
_CHUNKS = 8
"""Lanes that may each hold a chunk of logits."""
_STATES = 4
"""Weights, gradient and AdamW's two moments."""


@dataclass(frozen=True, kw_only=True)
class PackLoad:
    """What a pack's memory depends on."""

    tokens: int
    labels: int
    squares: int = 0
    """Σ over rows of length squared: what attention that keeps its scores would hold."""
    checkpointing: bool = False


@dataclass(frozen=True, kw_only=True)
class BaseShape:
    """What the estimates need to know of a base."""

    num_parameters: int
    itemsize: int
    vocab_size: int
    linear_features: int
    """Σ (inputs + outputs) over its linears."""
    chunked_head: bool = True
    """False where the model changes its logits after the head, so that all of a pack's are held at once."""

    @classmethod
    def of(cls, structure: Structure, itemsize: int) -> BaseShape:
        """From the base's structure."""
        return cls(
            num_parameters=structure.num_parameters,
            itemsize=itemsize,
            vocab_size=structure.num_ids,
            linear_features=sum(one.in_features + one.out_features for one in structure.shapes.values()),
            chunked_head=structure.plain_head,
        )

    @property
    def base_bytes(self) -> int:
        """Bytes of the frozen weights."""
        return self.num_parameters * self.itemsize

    @property
    def token_bytes(self) -> int:
        """Bytes that a token's activations take."""
        return int(self.linear_features * self.itemsize * _BETWEEN_LINEARS)

    def pack_bytes(self, load: PackLoad) -> int:
        """Bytes that a forward and backward over so many tokens and label tokens keep at their peak."""
        activations = load.tokens * self.token_bytes * (_CHECKPOINTED if load.checkpointing else 1.0)
        most = _CHUNKS * chunk_labels(self.vocab_size) if self.chunked_head else load.labels
        logits = min(load.labels, most) * self.vocab_size * max(self.itemsize, 4) * _LOGIT_COPIES
        return int(activations + logits)


def adapter_bytes(targets: Mapping[str, Target], itemsize: int = 4) -> int:
    """Bytes of one job's adapter with gradient and moments."""
    return sum(target.num_parameters for target in targets.values()) * itemsize * _STATES


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What one job asks of a worker."""

    adapter_bytes: int
    """Its adapter with gradient and moments, and what factors on the output head keep beside a pack's activations."""
    worst_tokens: int
    """Tokens of its largest possible micro-batch."""
    worst_labels: int
    worst_squares: int = 0
    """Σ length² of the rows that have most."""
    checkpointing: bool = False


def demand(spec: JobSpec, data: JobData, targets: Mapping[str, Target], itemsize: int = 4) -> Demand:
    """A job's demand, its micro-batches taken at their worst: the longest rows, and those with most labels, at once.

    An evaluation keeps no activations for a backward, but its logits are as large; it counts like training.
    """
    passes: list[tuple[TokenisedRows, int]] = [(data.train, spec.training.per_device_train_batch_size)]
    if data.evaluation is not None:
        passes.append((data.evaluation, spec.training.per_device_eval_batch_size))
    worst_tokens = max(_largest(rows.lengths, size) for rows, size in passes)
    worst_labels = max(_largest(rows.label_counts, size) for rows, size in passes)
    head = next((target for target in targets.values() if target.is_head), None)
    more = 0 if head is None else _head_bytes(head, worst_tokens, worst_labels, itemsize)
    return Demand(
        adapter_bytes=adapter_bytes(targets, itemsize) + more,
        worst_tokens=worst_tokens,
        worst_labels=worst_labels,
        worst_squares=max(_largest(rows.lengths**2, size) for rows, size in passes),
        checkpointing=spec.training.gradient_checkpointing,
    )


def _head_bytes(head: Target, tokens: int, labels: int, itemsize: int) -> int:
    """What factors on the head need for a micro-batch: copies of a chunk of logits, hidden states under dropout."""
    chunk = min(labels, chunk_labels(head.out_features))
    # Of the chunk: the sum in the adapter's dtype, the same rounded, its gradient; inputs and what flows back to them.
    logits = chunk * (3 * head.out_features + 3 * head.in_features) * itemsize
    # The mask is drawn for all tokens, in fp32 and then as booleans; gradients of all labels wait for the backward.
    return logits + tokens * head.in_features * 5 + labels * head.in_features * (itemsize + 1)


def _largest(values: np.ndarray, count: int) -> int:
    """Sum of the `count` largest."""
    return int(np.sort(values)[-count:].sum())


def worker_bytes(
    base: BaseShape,
    demands: Iterable[Demand],
    token_budget: int,
    pack_bytes: Callable[[PackLoad], int] | None = None,
) -> int:
    """Predicted peak of a worker with these jobs: base, adapters, and one pack as full as packs get.

    Args:
        base: The frozen base.
        demands: Of its jobs.
        token_budget: Tokens that a pack of several may hold.
        pack_bytes: What a pack takes; from the base's shapes alone where `None`.
    """
    known = list(demands)
    if not known:
        return base.base_bytes
    predict = base.pack_bytes if pack_bytes is None else pack_bytes
    # Packs hold jobs of one kind: the dearest of either is what counts.
    kinds = [[one for one in known if one.checkpointing is kind] for kind in (False, True)]
    dearest = max(predict(_worst_pack(kind, token_budget)) for kind in kinds if kind)
    return base.base_bytes + sum(one.adapter_bytes for one in known) + dearest


def _worst_pack(demands: list[Demand], token_budget: int) -> PackLoad:
    """The fullest pack of these jobs: at most the budget, or one micro-batch that is larger."""
    together = sum(one.worst_tokens for one in demands)
    tokens = max(min(token_budget, together), max(one.worst_tokens for one in demands))
    return PackLoad(
        tokens=tokens,
        labels=round(tokens * max(one.worst_labels / one.worst_tokens for one in demands)),
        squares=round(tokens * max(one.worst_squares / one.worst_tokens for one in demands)),
        checkpointing=demands[0].checkpointing,
    )


def find_token_budget(base: BaseShape, demands: Iterable[Demand], capacity_bytes: int) -> int:
    """Tokens that a pack may hold beside a base and its adapters, as a power of two.

    Rounded so that a little more or less free memory gives the same packs, and so the same bits. Where the adapters
    leave less than half of the room, not all will be there at once, and packs get that half.
    """
    room = capacity_bytes - base.base_bytes
    free = max(room - sum(one.adapter_bytes for one in demands), room // 2)
    tokens = max(1, free // base.token_bytes)
    return min(MAX_TOKEN_BUDGET, max(MIN_TOKEN_BUDGET, 2 ** (tokens.bit_length() - 1)))
