"""The streamed writer against the library's own."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from torch import Tensor

from workers.tensor_file import decode, encode

CASES: dict[str, dict[str, Tensor]] = {
    "nothing": {},
    "one": {"a": torch.randn(3, 2)},
    "a transposed one": {"a": torch.randn(3, 2).T},
    "a slice": {"a": torch.randn(8, 6)[1:5, ::2]},
    "both widths": {"b": torch.randn(3), "z": torch.randn(2, dtype=torch.float64), "a": torch.randn(1)},
    "none of it": {"a": torch.randn(0, 4), "b": torch.randn(2)},
    "a number": {"a": torch.tensor(1.5)},
    "names to escape": {'q"uote\\ and\nline': torch.randn(2), "Größe": torch.randn(2), "\x01": torch.randn(1)},
    "special numbers": {"a": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])},
}


@pytest.mark.parametrize("tensors", CASES.values(), ids=CASES.keys())
def test_bytes_are_the_library_s(tensors: dict[str, Tensor]) -> None:
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    content = b"".join(encode(tensors))
    assert content == safetensors.torch.save(contiguous, metadata={"format": "pt"})
    back = decode(content)
    assert back.keys() == tensors.keys()
    assert all(back[name].numpy().tobytes() == contiguous[name].numpy().tobytes() for name in back)


def test_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match="a is torch"):
        list(encode({"a": torch.arange(3)}))


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"\xff" * 64, b"".join(encode({"a": torch.ones(9)}))[:-1]])
def test_other_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="no safetensors file"):
        decode(content)
