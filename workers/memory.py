"""Predicted bytes of a base, an adapter and a pack; what fits on a device.

The pack's estimate is an upper bound from the base's shapes: every linear's input and output is kept once for the
backward, and as much again for what lies between them (norms, activations, attention).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from jobs.spec import JobSpec
from workers.dataset import JobData
from workers.targets import LinearShape, Target

_BETWEEN_LINEARS = 2.0
_LOGIT_COPIES = 3
"""Logits, their log-softmax, and their gradient."""
_STATES = 4
"""Weights, gradient and AdamW's two moments."""


@dataclass(frozen=True, kw_only=True)
class BaseShape:
    """What the estimates need to know of a base."""

    num_parameters: int
    itemsize: int
    vocab_size: int
    linear_features: int
    """Σ (inputs + outputs) over its linears."""

    @classmethod
    def of(cls, shapes: Mapping[str, LinearShape], num_parameters: int, itemsize: int, vocab_size: int) -> BaseShape:
        """From the base's linears."""
        features = sum(shape.in_features + shape.out_features for shape in shapes.values())
        return cls(num_parameters=num_parameters, itemsize=itemsize, vocab_size=vocab_size, linear_features=features)

    @property
    def base_bytes(self) -> int:
        """Bytes of the frozen weights."""
        return self.num_parameters * self.itemsize

    def pack_bytes(self, tokens: int, labels: int) -> int:
        """Bytes that a forward and backward over so many tokens and label tokens keep at their peak."""
        activations = tokens * self.linear_features * self.itemsize * _BETWEEN_LINEARS
        logits = labels * self.vocab_size * max(self.itemsize, 4) * _LOGIT_COPIES
        return int(activations + logits)


def adapter_bytes(targets: Mapping[str, Target], itemsize: int = 4) -> int:
    """Bytes of one job's adapter with gradient and moments."""
    return sum(target.num_parameters for target in targets.values()) * itemsize * _STATES


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What one job asks of a worker."""

    adapter_bytes: int
    worst_tokens: int
    """Tokens of its largest possible micro-batch."""
    worst_labels: int


def demand(spec: JobSpec, data: JobData, targets: Mapping[str, Target], itemsize: int = 4) -> Demand:
    """A job's demand, its micro-batches taken at their worst: the longest rows, and those with most labels, at once.

    An evaluation keeps no activations for a backward, but its logits are as large; it counts like training.
    """
    passes = [(data.train, spec.training.per_device_train_batch_size)]
    if data.evaluation is not None:
        passes.append((data.evaluation, spec.training.per_device_eval_batch_size))
    return Demand(
        adapter_bytes=adapter_bytes(targets, itemsize),
        worst_tokens=max(_largest(rows.lengths, size) for rows, size in passes),
        worst_labels=max(_largest(rows.label_counts, size) for rows, size in passes),
    )


def _largest(values: np.ndarray, count: int) -> int:
    """Sum of the `count` largest."""
    return int(np.sort(values)[-count:].sum())


def worker_bytes(base: BaseShape, demands: Iterable[Demand], token_budget: int) -> int:
    """Predicted peak of a worker with these jobs: base, adapters, and one pack as full as packs get."""
    known = list(demands)
    if not known:
        return base.base_bytes
    together = sum(one.worst_tokens for one in known)
    tokens = max(min(token_budget, together), max(one.worst_tokens for one in known))
    share = max(one.worst_labels / one.worst_tokens for one in known)
    return base.base_bytes + sum(one.adapter_bytes for one in known) + base.pack_bytes(tokens, round(tokens * share))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: CUDA has a type for it, torch's CPU allocator only words."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def free_cached_memory(device: torch.device) -> None:
    """Give back what torch's allocator keeps for reuse, so that an allocation of another size finds room."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def device_bytes(device: torch.device) -> int:
    """Bytes that may be used on a device: free memory on a GPU, memory this process may still take on a CPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    available = _meminfo_available()
    limit = _cgroup_headroom()
    return min(available, limit) if limit is not None else available


def _meminfo_available() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemAvailable")


def _cgroup_headroom() -> int | None:
    """What a container may still take (cgroup v2), or `None` without a limit."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text(encoding="ascii").strip()
        used = int((root / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used)
