"""Attention for packed rows: every row is a segment of its own and never sees another, not even behind a mask.

One block-diagonal mask over the pack would let a NaN of one row reach all (0 · NaN), and costs the square of the pack.
Here rows are attended one by one, or by a kernel that takes the borders of rows. Registered with transformers'
attention interface, so every model that goes through it can be packed without padding.

Shape legend: H query heads, G key/value heads, T tokens of the pack, t tokens of a row, D head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

PACKED_ROWS = "loraloom_packed_rows"
"""Name under which transformers finds this attention."""

_VARLEN_DTYPES = (torch.bfloat16, torch.float16)
"""What variable-length attention takes."""

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
    deterministic: bool = False,
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
        deterministic: The backward must give the same bits each time.
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
    if takes_one_call(query.device.type, query.dtype, deterministic=deterministic):
        return _in_one_call(query, key, value, row_lengths, scaling, sliding_window, causal), None
    return _row_by_row(query, key, value, row_lengths, scaling, sliding_window, causal), None


@contextmanager
def deterministic_kernels(device: torch.device) -> Iterator[None]:
    """Keep attention to kernels whose backward gives the same bits each time, in all threads of the process.

    On a GPU the backward of flash and of memory-efficient attention adds up the gradient of the queries in whatever
    order its blocks end (https://docs.pytorch.org/docs/stable/generated/torch.use_deterministic_algorithms.html); plain
    products do not. On a CPU every kernel is deterministic.
    """
    with sdpa_kernel(SDPBackend.MATH) if device.type == "cuda" else nullcontext():
        yield


def takes_one_call(device_type: str, dtype: torch.dtype, *, deterministic: bool) -> bool:
    """Whether the rows of a pack are attended by one variable-length call, whose backward is not deterministic."""
    return device_type == "cuda" and dtype in _VARLEN_DTYPES and not deterministic


def _in_one_call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    row_lengths: tuple[int, ...],
    scaling: float | None,
    window: int | None,
    causal: bool,
) -> Tensor:
    """All rows by torch's variable-length attention, which knows where each begins. It has no form for CPUs."""
    ends = torch.tensor((0, *row_lengths), dtype=torch.int32).cumsum(0, dtype=torch.int32).to(query.device)
    longest = max(row_lengths)
    reach = -1 if window is None else window - 1
    query_THD, key_THD, value_THD = (part[0].transpose(0, 1) for part in (query, key, value))
    out_THD = varlen_attn(
        query_THD,
        key_THD,
        value_THD,
        ends,
        ends,
        longest,
        longest,
        scale=scaling,
        window_size=(reach, 0 if causal else reach),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(out_THD, Tensor)
    return out_THD[None]


def _row_by_row(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    row_lengths: tuple[int, ...],
    scaling: float | None,
    sliding_window: int | None,
    causal: bool,
) -> Tensor:
    """Each row by a call of its own: on CPUs, and what the one call is held against."""
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
    return torch.cat(outputs, dim=2).transpose(1, 2)


def _window_mask(length: int, window: int | None, causal: bool, device: torch.device) -> Tensor | None:
    """Boolean (t, t) of a sliding window, or `None` where the row is no longer than the window."""
    if window is None or length <= window:
        return None
    position = torch.arange(length, device=device)
    distance = position[:, None] - position[None, :]
    return (distance >= 0) & (distance < window) if causal else distance.abs() < window


def honours(sees_tt: Tensor, window: int | None, causal: bool) -> bool:
    """Whether packed rows let each token see what the model's own mask does.

    A layer passes a sliding window on beside its mask; whatever else its mask says, chunks for example, comes by the
    mask alone and would be lost.

    Args:
        sees_tt: The model's mask for a row of t tokens that reaches beyond its windows, true where a token is seen.
        window: What the layer passes on as `sliding_window`.
        causal: Whether it asks for causal attention.
    """
    length = len(sees_tt)
    ours_tt = _window_mask(length, window, causal, sees_tt.device)
    if ours_tt is None:
        ours_tt = torch.ones_like(sees_tt)
        ours_tt = ours_tt.tril() if causal else ours_tt
    return torch.equal(ours_tt, sees_tt)


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """Transformers would build a (T, T) mask from restarting positions; packed rows need none."""


def register() -> None:
    """Make `PACKED_ROWS` known to transformers. Safe to call again."""
    AttentionInterface.register(PACKED_ROWS, packed_rows_attention)
    AttentionMaskInterface.register(PACKED_ROWS, _no_mask)
