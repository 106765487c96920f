"""The files of a base's weights as they lie on disk: which there are, whether they are whole, what type they hold.

Only names, sizes and headers are read. What is wrong here would otherwise be noticed after every job of the base had
been placed and its worker had begun to load.

Format of a safetensors file: https://huggingface.co/docs/safetensors, eight bytes of length, a JSON header, the data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from jobs.errors import BaseModelError

SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_MOST_HEADER_BYTES = 100_000_000
"""What the safetensors library itself allows."""
_OTHERS = frozenset({".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".ckpt", ".onnx"})
TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, kw_only=True)
class WeightFiles:
    """A base's weights on disk."""

    files: tuple[Path, ...]
    dtype: str | None
    """Of the first tensor of real numbers, which is what transformers takes for the type of all."""


def find_weights(folder: Path) -> WeightFiles:
    """Find the files that transformers would load, in its order of preference, and check that each is whole.

    Raises:
        BaseModelError: There are none, one is missing, cut off or damaged; the message says which, and what to do.
    """
    if (folder / SAFETENSORS[0]).is_file():
        files, index = (folder / SAFETENSORS[0],), {}
    elif (folder / SAFETENSORS[1]).is_file():
        files, index = _shards(folder, SAFETENSORS[1])
    elif (folder / PICKLED[0]).is_file():
        files, index = (folder / PICKLED[0],), {}
    elif (folder / PICKLED[1]).is_file():
        files, index = _shards(folder, PICKLED[1])
    else:
        _no_weights(folder)
    contents = {file: _header(file) if file.suffix == ".safetensors" else _pickled(file) for file in files}
    for name, file in index.items():
        if name not in contents[file]:
            _refuse(folder, f"{file.name} does not hold the tensor {name} that its index names; fetch it again")
    return WeightFiles(files=files, dtype=_dtype(contents[files[0]]))


def _shards(folder: Path, index_name: str) -> tuple[tuple[Path, ...], dict[str, Path]]:
    """The files that an index names, in the order of their names, and which holds each tensor."""
    try:
        names: dict[str, str] = json.loads((folder / index_name).read_bytes())["weight_map"]
        shards = sorted(set(names.values()))
        index = {name: folder / shard for name, shard in names.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BaseModelError(
            f"{index_name}, which lists the files of the weights, cannot be read: {error or type(error).__name__}; "
            "fetch it again",
            value=str(folder),
        ) from error
    if not shards:
        _refuse(folder, f"{index_name} names no files, so there are no weights")
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        _refuse(
            folder,
            f"{len(missing)} of {len(shards)} files of the weights are missing: {shown} ({index_name} names them); "
            "copy or download them into the folder",
        )
    return tuple(folder / shard for shard in shards), index


def _header(file: Path) -> dict[str, str]:
    """Tensor name → type as safetensors spells it, the size of the file held against what the header promises."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, _MOST_HEADER_BYTES):
                _refuse(file.parent, f"{file.name} is cut off or damaged: its header does not fit; fetch it again")
            tensors: dict[str, Any] = json.loads(stream.read(length))
        tensors.pop("__metadata__", None)
        end = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
        types = {name: str(tensor["dtype"]) for name, tensor in tensors.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise BaseModelError(
            f"the header of {file.name} is damaged ({error or type(error).__name__}); fetch the file again",
            value=str(file.parent),
        ) from error
    if not types:
        _refuse(file.parent, f"{file.name} holds no tensors")
    if size != 8 + length + end:
        _refuse(
            file.parent,
            f"{file.name} is {size:,} bytes long and its header promises {8 + length + end:,}: it is cut off or "
            "damaged; fetch it again",
        )
    return types


def _pickled(file: Path) -> dict[str, str]:
    """Tensor name → type of a `.bin` file, no numbers read, no code of the file run."""
    try:
        tensors = torch.load(file, map_location="meta", weights_only=True)
        return {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}
    except Exception as error:  # pickle and torch raise what they like over a broken file
        told = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BaseModelError(
            f"{file.name} is damaged or holds more than tensors, which is not loaded for safety: {told[:160]}; "
            "load it where you trust it and save it with save_pretrained, which writes model.safetensors",
            value=str(file.parent),
        ) from error


def _dtype(types: Mapping[str, str]) -> str | None:
    known = (TYPES.get(one, one) for one in types.values())
    return next((one for one in known if one in TYPES.values()), None)


def _no_weights(folder: Path) -> NoReturn:
    others = sorted(file.name for file in folder.iterdir() if file.suffix in _OTHERS)
    if not others:
        _refuse(folder, f"the folder holds no weights: there is no {SAFETENSORS[0]} in it")
    _refuse(
        folder,
        f"the folder holds no weights that can be loaded: {', '.join(others[:3])} is none of {SAFETENSORS[0]} and "
        f"{PICKLED[0]}; load the model in transformers and save it with save_pretrained",
    )


def _refuse(folder: Path, message: str) -> NoReturn:
    raise BaseModelError(message, value=str(folder))
