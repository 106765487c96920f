"""Attention for packed rows: every row is a segment of its own and never sees another, not even behind a mask.

One block-diagonal mask over the pack would let a NaN of one row reach all (0 · NaN), and costs the square of the pack.
Here each row is attended by a call of its own. Registered with transformers' attention interface, so every model that
goes through it can be packed without padding.

Shape legend: H query heads, G key/value heads, T tokens of the pack, t tokens of a row, D head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

PACKED_ROWS = "loraloom_packed_rows"
"""Name under which transformers finds this attention."""

_REFUSED = ("softcap", "s_aux", "position_bias", "sinks")


def packed_rows_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    row_lengths: tuple[int, ...],
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend each row of a pack to itself alone.

    Args:
        module: The attention layer that asks.
        query: (1, H, T, D).
        key: (1, G, T, D) with G a divisor of H (grouped-query attention).
        value: (1, G, T, D).
        attention_mask: Must be `None`: the rows' borders are in `row_lengths`.
        row_lengths: Tokens of each row, in pack order; they sum to T.
        scaling: Factor on the scores; 1/√D where `None`.
        dropout: Must be 0: the frozen base runs without its own dropout.
        sliding_window: A token sees only this many last tokens, itself included.
        is_causal: Overrides the layer's own `is_causal`.
        kwargs: What else the model passes on. Score modifications that change the result are refused.

    Returns:
        (1, T, H, D), as transformers expects it, and no weights.

    Raises:
        NotImplementedError: The model modifies attention scores in a way that is not implemented for packed rows;
            the base then falls back to padded rows.
    """
    modified = [name for name in _REFUSED if kwargs.get(name) is not None]
    if modified or attention_mask is not None or dropout:
        raise NotImplementedError(f"packed rows do not support {modified or 'an attention mask or dropout'}")
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    outputs = []
    rows = zip(
        query.split(row_lengths, dim=2), key.split(row_lengths, dim=2), value.split(row_lengths, dim=2), strict=True
    )
    for query_row, key_row, value_row in rows:
        length = query_row.shape[2]
        mask = _window_mask(length, sliding_window, causal, query.device)
        outputs.append(
            scaled_dot_product_attention(
                query_row,
                key_row,
                value_row,
                attn_mask=mask,
                is_causal=causal and mask is None,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _window_mask(length: int, window: int | None, causal: bool, device: torch.device) -> Tensor | None:
    """Boolean (t, t) of a sliding window, or `None` where the row is no longer than the window."""
    if window is None or length <= window:
        return None
    position = torch.arange(length, device=device)
    distance = position[:, None] - position[None, :]
    return (distance >= 0) & (distance < window) if causal else distance.abs() < window


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """Transformers would build a (T, T) mask from restarting positions; packed rows need none."""


def register() -> None:
    """Make `PACKED_ROWS` known to transformers. Safe to call again."""
    AttentionInterface.register(PACKED_ROWS, packed_rows_attention)
    AttentionMaskInterface.register(PACKED_ROWS, _no_mask)
