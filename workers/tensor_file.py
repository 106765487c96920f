"""safetensors files, written as a stream of bytes.

The library's own writer keeps a second copy of all tensors, reports a full disk as a text and leaves the hash to a
second pass over the file. The format is small (https://github.com/huggingface/safetensors#format), and what is written
here is to the byte what the library writes. Reading is the library's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

_DTYPES = {torch.float64: "F64", torch.float32: "F32"}
_METADATA = {"format": "pt"}


def encode(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a file that holds these tensors, which lie on the CPU in any layout, one chunk for each.

    Raises:
        ValueError: A tensor's dtype is not one that adapters come in.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"{name} is {tensor.dtype}; adapters and optimizer states are float32 or float64")
    # Wide types first keeps every tensor aligned.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": _METADATA}
    end = 0
    for name in order:
        begin, end = end, end + tensors[name].nbytes
        header[name] = {
            "dtype": _DTYPES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        if tensors[name].numel():
            yield tensors[name].contiguous().view(-1).view(torch.uint8).numpy().data


def decode(content: bytes) -> dict[str, Tensor]:
    """The tensors of a file, in memory of their own.

    Raises:
        ValueError: It is not a safetensors file.
    """
    try:
        return safetensors.torch.load(content)
    except SafetensorError as error:
        raise ValueError(f"is no safetensors file: {error}") from error
