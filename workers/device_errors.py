"""What an error says of the device it came from: that memory ran out, or that the device is lost to this process.

PyTorch's types are known by their names, so that the control plane can ask without loading it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_OUT_OF_MEMORY = re.compile(
    "DefaultCPUAllocator|(CUDA|HIP)( driver)? error: out of memory|(CUBLAS|CUDNN|CUSOLVER)_STATUS_ALLOC_FAILED"
)
_DEVICE_ERROR = re.compile(
    "(CUDA|HIP)( driver)? error:|(cuBLAS|cuDNN|NCCL|cuSOLVER) error:"
    "|device-side assert|illegal memory access|misaligned address|unspecified launch failure"
    "|uncorrectable (ECC|NVLink) error|(CUBLAS|CUDNN)_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR)",
    re.IGNORECASE,
)
_NOT_STICKY = re.compile(
    "invalid (argument|configuration argument|device ordinal|device function|resource handle)"
    "|no kernel image is available|operation not (supported|permitted)|too many resources requested for launch"
    "|CUBLAS_STATUS_(NOT_SUPPORTED|INVALID_VALUE)|CUDNN_STATUS_(NOT_SUPPORTED|BAD_PARAM)",
    re.IGNORECASE,
)
"""Errors of one call, after which the context works on: https://docs.nvidia.com/cuda/cuda-runtime-api, cudaError."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: PyTorch has a type for its own allocator; all others only have a message."""
    if isinstance(error, MemoryError) or _is_a(error, "OutOfMemoryError"):
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


def is_sticky(error: BaseException) -> bool:
    """Whether the device's context is corrupted, so that every later call of this process fails on that device.

    Such are a device-side assert, an illegal or misaligned address, a launch failure, an uncorrectable ECC error. Of an
    `AcceleratorError` that is not known to concern one call alone the same is assumed. Errors that an error was raised
    from are looked at as well.
    """
    return any(_is_sticky(one) for one in chain_of(error))


def is_of_the_device(error: BaseException) -> bool:
    """Whether an error says something of a device and of who else is on it, and nothing of what was run."""
    return is_out_of_memory(error) or is_sticky(error)


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """An error, those that it was raised from or while handling, and those that it groups; each once."""
    left, seen = [error], set[int]()
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        left += [other for other in (one.__cause__, one.__context__) if other is not None]
        if isinstance(one, BaseExceptionGroup):
            left += one.exceptions


def _is_sticky(error: BaseException) -> bool:
    message = str(error)
    if is_out_of_memory(error) or _NOT_STICKY.search(message) is not None:
        return False
    if _is_a(error, "AcceleratorError"):
        return True
    return isinstance(error, RuntimeError) and _DEVICE_ERROR.search(message) is not None


def _is_a(error: BaseException, name: str) -> bool:
    return any(one.__name__ == name for one in type(error).__mro__)
