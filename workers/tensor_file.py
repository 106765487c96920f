"""safetensors files, written as a stream of bytes.

The library's own writer keeps a second copy of all tensors, reports a full disk as a text and leaves the hash to a
second pass over the file. The format is small (https://github.com/huggingface/safetensors#format), and what is written
here is to the byte what the library writes. Reading is the library's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

_DTYPES = {torch.float64: "F64", torch.float32: "F32"}
_METADATA = {"format": "pt"}
_CHUNK_BYTES = 4 * 2**20
"""Small tensors are gathered up to this: whoever writes or hashes each by itself waits for Python's lock each time,
which the threads that train hold."""


def encode(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a file that holds these tensors, which lie on the CPU in any layout, a few MiB at a time.

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
    chunk, used = np.empty(0, np.uint8), 0
    for name in order:
        array = tensors[name].numpy()
        if used + array.nbytes > len(chunk):
            if used:
                yield chunk[:used].data
            chunk, used = np.empty(max(array.nbytes, _CHUNK_BYTES), np.uint8), 0
        np.copyto(chunk[used : used + array.nbytes].view(array.dtype).reshape(array.shape), array)
        used += array.nbytes
    if used:
        yield chunk[:used].data


def decode(content: bytes) -> dict[str, Tensor]:
    """The tensors of a file, in memory of their own.

    Raises:
        ValueError: It is not a safetensors file.
    """
    try:
        return safetensors.torch.load(content)
    except SafetensorError as error:
        raise ValueError(f"is no safetensors file: {error}") from error
