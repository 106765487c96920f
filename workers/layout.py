"""How the rows of a pack are laid out for the base: end to end without padding, or padded where a model needs it.

Shape legend: T tokens of the pack, B rows, L longest row, N label tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workers.dataset import Row


@dataclass(frozen=True, kw_only=True)
class LaidOut:
    """A pack as the base model takes it."""

    inputs: dict[str, Any]
    """Keyword arguments of the model's forward."""
    token_index_T: Tensor | None
    """Positions of the pack's tokens among the flattened inputs; `None` where they are all of them."""
    predict_N: Tensor
    """Flattened input positions whose logits predict the labels, in pack order."""
    labels_N: Tensor
    num_padding: int
    """Positions computed for nothing."""


LayOut = Callable[[Sequence[Row], torch.device], LaidOut]
"""Either of the two below."""


def packed(rows: Sequence[Row], device: torch.device) -> LaidOut:
    """Rows end to end in one (1, T) sequence, positions restarting at each."""
    lengths = tuple(len(row.ids) for row in rows)
    ids_T, predict, labels = _tokens_and_labels(rows, np.concatenate([[0], np.cumsum(lengths)])[:-1], device)
    positions_T = torch.from_numpy(np.concatenate([np.arange(length) for length in lengths])).to(device)
    return LaidOut(
        inputs={"input_ids": ids_T[None], "position_ids": positions_T[None], "row_lengths": lengths},
        token_index_T=None,
        predict_N=predict,
        labels_N=labels,
        num_padding=0,
    )


def padded(rows: Sequence[Row], device: torch.device) -> LaidOut:
    """Rows side by side in (B, L), padded at the end, for models whose attention cannot take packed rows.

    Padding is known by position and never by id: the padding id of many tokenizers is their end token.
    """
    longest = max(len(row.ids) for row in rows)
    starts = np.arange(len(rows)) * longest
    ids_T, predict, labels = _tokens_and_labels(rows, starts, device)
    index_T = torch.from_numpy(
        np.concatenate([start + np.arange(len(row.ids)) for start, row in zip(starts, rows, strict=True)])
    ).to(device)
    size = len(rows) * longest
    shape = (len(rows), longest)
    ids = ids_T.new_zeros(size).index_copy_(0, index_T, ids_T).view(shape)
    mask = ids_T.new_zeros(size).index_fill_(0, index_T, 1).view(shape)
    return LaidOut(
        inputs={"input_ids": ids, "attention_mask": mask},
        token_index_T=None if len(index_T) == size else index_T,
        predict_N=predict,
        labels_N=labels,
        num_padding=size - len(index_T),
    )


def _tokens_and_labels(rows: Sequence[Row], starts: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """All ids end to end, and for each label token the position before it and its id."""
    ids = np.concatenate([row.ids for row in rows])
    labelled = [np.flatnonzero(row.labelled) for row in rows]
    predict = np.concatenate([start + at - 1 for start, at in zip(starts, labelled, strict=True)])
    labels = np.concatenate([row.ids[at] for row, at in zip(rows, labelled, strict=True)])
    return (
        torch.from_numpy(ids).to(device),
        torch.from_numpy(predict).to(device),
        torch.from_numpy(labels).to(device),
    )
