"""No row of a product reads another, in any width and type: one row of NaN leaves every other bit alone."""

from __future__ import annotations

import pytest
import torch

from workers.products import apart, linear


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("width", [31, 33, 48, 97, 577])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_of_nan_changes_no_other_row_in_either_direction(threads: int, width: int, dtype: torch.dtype) -> None:
    torch.set_num_threads(threads)
    draw = torch.Generator().manual_seed(width)
    for num_rows in (3, 130):
        for other in (32, 65):
            for inputs, outputs in ((width, other), (other, width)):
                weight_OI = torch.randn(outputs, inputs, generator=draw).to(dtype)
                bias_O = torch.randn(outputs, generator=draw).to(dtype)
                x_TI = torch.randn(num_rows, inputs, generator=draw).to(dtype)
                dy_TO = torch.randn(num_rows, outputs, generator=draw).to(dtype)
                poisoned = num_rows // 2
                kept = torch.arange(num_rows) != poisoned
                results = []
                for value in (None, float("nan"), float("inf")):
                    x, dy = x_TI.clone(), dy_TO.clone()
                    if value is not None:
                        x[poisoned], dy[poisoned] = value, value
                    x.requires_grad_()
                    y = linear(x, weight_OI, bias_O)
                    y.backward(dy)
                    assert x.grad is not None
                    results.append((y.detach()[kept], x.grad[kept]))
                healthy = results[0]
                for ours in results[1:]:
                    assert torch.equal(ours[0], healthy[0])
                    assert torch.equal(ours[1], healthy[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rows_set_apart_have_the_same_values_with_zeros_behind_each(dtype: torch.dtype) -> None:
    x = torch.randn(5, 7, 33).to(dtype)
    separated = apart(x)
    assert torch.equal(separated, x)
    behind = separated.as_strided((5 * 7, 31), (64, 1), storage_offset=33)
    assert torch.equal(behind, torch.zeros_like(behind))
    even = torch.randn(4, 64).to(dtype)
    assert apart(even) is even


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_product_is_torchs_own(dtype: torch.dtype) -> None:
    x = torch.randn(2, 9, 33, dtype=dtype, requires_grad=True)
    weight_OI, bias_O = torch.randn(17, 33, dtype=dtype), torch.randn(17, dtype=dtype)
    y = linear(x, weight_OI, bias_O)
    y.sum().backward()
    assert x.grad is not None
    again = x.detach().clone().requires_grad_()
    expected = torch.nn.functional.linear(again, weight_OI, bias_O)
    expected.sum().backward()
    assert torch.equal(y, expected)
    assert again.grad is not None
    assert (x.grad - again.grad).float().norm() <= 2**-8 * again.grad.float().norm()
