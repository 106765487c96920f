"""Label-only loss: logits where there are labels, one mean per job.

Shape legend: N label tokens of the pack, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def token_losses(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """Cross entropy of every label token, (N,), in fp32 (fp64 for fp64 logits)."""
    logits_NV = logits_NV if logits_NV.dtype.itemsize >= 4 else logits_NV.float()
    return F.cross_entropy(logits_NV, labels_N, reduction="none")


def job_sums(losses_N: Tensor, counts: Sequence[int]) -> tuple[Tensor, ...]:
    """Each job's summed loss, cut from the pack by slices: `counts` label tokens each, in pack order.

    Divided by the label tokens of the job's whole optimizer batch, and added up over jobs, they give every job exactly
    the gradient that it would get alone.
    """
    return tuple(part.sum() for part in losses_N.split(list(counts)))


def exact_rows(logits_NV: Tensor, labels_N: Tensor, row_counts: Sequence[int]) -> list[bool]:
    """For each row, whether every one of its label tokens is the most likely one: greedy decoding would say it."""
    hits_N = logits_NV.argmax(dim=-1) == labels_N
    return [bool(part.all()) for part in hits_N.split(list(row_counts))]
