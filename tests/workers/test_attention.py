"""Attention over packed rows is attention over each row by itself."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.models import make_data, make_spec, make_worker, tiny_llama, train
from workers import attention
from workers.attention import packed_rows_attention

LENGTHS = (3, 1, 7, 2)
HEADS, WIDTH = 4, 6


class Layer(nn.Module):
    is_causal = True


def inputs(groups: int = HEADS) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return tuple(  # type: ignore[return-value]
        torch.randn(1, heads, sum(LENGTHS), WIDTH, generator=draw, dtype=torch.float64, requires_grad=True)
        for heads in (HEADS, groups, groups)
    )


def written_out(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float, causal: bool = True, window: int | None = None
) -> Tensor:
    """Softmax attention of every row by itself, with every mask spelled out. Returns (1, T, H, D)."""
    key = key.repeat_interleave(HEADS // key.shape[1], dim=1)
    value = value.repeat_interleave(HEADS // value.shape[1], dim=1)
    rows, start = [], 0
    for length in LENGTHS:
        q, k, v = (part[0, :, start : start + length] for part in (query, key, value))
        scores = q @ k.transpose(1, 2) * scale
        for i in range(length):
            for j in range(length):
                hidden = (causal and j > i) or (window is not None and abs(i - j) >= window)
                if hidden:
                    scores[:, i, j] = -math.inf
        rows.append(scores.softmax(-1) @ v)
        start += length
    return torch.cat(rows, dim=1).transpose(0, 1)[None]


@pytest.mark.parametrize("groups", [HEADS, 2, 1])
@pytest.mark.parametrize(
    "given, meaning",
    [
        ({}, {}),
        ({"scaling": 0.3}, {"scale": 0.3}),
        ({"is_causal": False}, {"causal": False}),
        ({"sliding_window": 3}, {"window": 3}),
        ({"sliding_window": 1}, {"window": 1}),
        ({"sliding_window": 100}, {}),
        ({"sliding_window": 2, "is_causal": False}, {"window": 2, "causal": False}),
        ({"softcap": None, "s_aux": None}, {}),
    ],
    ids=str,
)
def test_packed_rows_equal_each_row_attended_by_itself(
    given: dict[str, Any], meaning: dict[str, Any], groups: int
) -> None:
    ours, theirs = inputs(groups), inputs(groups)
    attended, weights = packed_rows_attention(Layer(), *ours, None, row_lengths=LENGTHS, **given)
    expected = written_out(*theirs, **{"scale": 1 / math.sqrt(WIDTH), **meaning})
    assert weights is None
    assert attended.shape == (1, sum(LENGTHS), HEADS, WIDTH)
    assert (attended - expected).norm() <= 1e-13 * expected.norm()
    pull = torch.randn(expected.shape, dtype=torch.float64)
    (attended * pull).sum().backward()
    (expected * pull).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        # A window of one token leaves queries and keys no gradient at all, hence the 1.
        assert (mine.grad - other.grad).norm() <= 1e-12 * max(1.0, float(other.grad.norm()))


@pytest.mark.parametrize("row", range(len(LENGTHS)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("sliding_window", [None, 2])
def test_a_row_of_nan_changes_no_bit_of_another_in_either_direction(
    sliding_window: int | None, dtype: torch.dtype, row: int
) -> None:
    start = sum(LENGTHS[:row])
    poisoned = slice(start, start + LENGTHS[row])
    kept = torch.ones(sum(LENGTHS), dtype=torch.bool)
    kept[poisoned] = False
    results = []
    for poison in (False, True):
        parts = [part.detach().to(dtype) for part in inputs(2)]
        for part in parts:
            if poison:
                part[:, :, poisoned] = float("nan")
            part.requires_grad_()
        attended, _ = packed_rows_attention(Layer(), *parts, None, row_lengths=LENGTHS, sliding_window=sliding_window)
        attended.float().square().sum().backward()
        results.append([attended[:, kept], *(part.grad[:, :, kept] for part in parts if part.grad is not None)])
    assert len(results[0]) == 4
    assert all(torch.equal(healthy, beside_nan) for healthy, beside_nan in zip(*results, strict=True))


@pytest.mark.parametrize("name", ["softcap", "s_aux", "position_bias", "sinks"])
def test_a_modification_of_the_scores_is_refused_rather_than_ignored(name: str) -> None:
    with pytest.raises(NotImplementedError, match=name):
        packed_rows_attention(Layer(), *inputs(), None, row_lengths=LENGTHS, **{name: 1.0})


@pytest.mark.parametrize("given", [{"attention_mask": torch.ones(1)}, {"attention_mask": None, "dropout": 0.1}])
def test_a_mask_or_dropout_is_refused_rather_than_ignored(given: dict[str, Any]) -> None:
    with pytest.raises(NotImplementedError):
        packed_rows_attention(Layer(), *inputs(), row_lengths=LENGTHS, **given)


def varlen_on_a_cpu(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    """What torch's documentation says of its variable-length attention, written out: (T, H, D) in and out."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert cu_seq_q.tolist() == cu_seq_k.tolist()
    assert enable_gqa is (query.shape[1] != key.shape[1])
    left, right = window_size
    borders = cu_seq_q.tolist()
    assert max_q == max_k == max(stop - start for start, stop in itertools.pairwise(borders))
    repeat = query.shape[1] // key.shape[1]
    rows = []
    for start, stop in itertools.pairwise(borders):
        q, k, v = (part[start:stop].transpose(0, 1) for part in (query, key, value))
        k, v = k.repeat_interleave(repeat, dim=0), v.repeat_interleave(repeat, dim=0)
        scores = q @ k.transpose(1, 2) * (scale if scale is not None else WIDTH**-0.5)
        distance = torch.arange(stop - start)[:, None] - torch.arange(stop - start)[None]
        hidden = ((distance > left) & (left >= 0)) | ((-distance > right) & (right >= 0))
        rows.append((scores.masked_fill(hidden, -math.inf).softmax(-1) @ v).transpose(0, 1))
    return torch.cat(rows)


@pytest.mark.parametrize("groups", [HEADS, 2, 1])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_variable_length_attention_is_asked_for_what_rows_one_by_one_give(
    scaling: float | None, window: int | None, causal: bool, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "varlen_attn", varlen_on_a_cpu)
    query, key, value = inputs(groups)
    ours = attention._in_one_call(query, key, value, LENGTHS, scaling, window, causal)
    twin = attention._row_by_row(query, key, value, LENGTHS, scaling, window, causal)
    assert ours.shape == twin.shape
    assert (ours - twin).abs().max() <= 1e-12


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("packing", ["shared", "exact"])
def test_exact_jobs_ask_for_a_backward_that_repeats_its_bits(
    packing: str, checkpointing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU the one call's backward adds up in any order; recomputed layers must be asked the same way."""
    asked: list[bool] = []
    allowed: list[torch.device] = []
    takes_one_call, kernels = attention.takes_one_call, attention.deterministic_kernels

    def watched(device_type: str, dtype: torch.dtype, *, deterministic: bool) -> bool:
        if torch.is_grad_enabled():
            asked.append(deterministic)
        return takes_one_call(device_type, dtype, deterministic=deterministic)

    def entered(device: torch.device) -> Any:
        allowed.append(device)
        return kernels(device)

    monkeypatch.setattr(attention, "takes_one_call", watched)
    monkeypatch.setattr(attention, "deterministic_kernels", entered)
    spec = make_spec("job", packing=packing, training={"max_steps": 2, "gradient_checkpointing": checkpointing})
    train(make_worker(tiny_llama(), {"job": make_data(1, [5, 3])}, tmp_path), [spec])
    assert len(asked) == 2 * 3 * (2 if checkpointing else 1)
    assert set(asked) == {packing == "exact"}
    assert len(allowed) == (2 if packing == "exact" else 0)


def test_only_a_gpu_in_16_bits_takes_one_call_and_never_where_bits_must_repeat() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        assert attention.takes_one_call("cuda", dtype, deterministic=False)
        assert not attention.takes_one_call("cuda", dtype, deterministic=True)
        assert not attention.takes_one_call("cpu", dtype, deterministic=False)
    assert not attention.takes_one_call("cuda", torch.float32, deterministic=False)
    with attention.deterministic_kernels(torch.device("cuda")):
        assert torch.backends.cuda.math_sdp_enabled()
        assert not torch.backends.cuda.flash_sdp_enabled()
        assert not torch.backends.cuda.mem_efficient_sdp_enabled()
        assert not torch.backends.cuda.cudnn_sdp_enabled()
