"""Random draws as pure functions of (a job's seed, what for): never a global generator, never a neighbour."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *parts: str | int) -> int:
    """A 63-bit seed for one purpose, such as `derive_seed(42, "dropout", step, micro_batch, module)`.

    BLAKE2b over the unambiguous text of all parts: near seeds and near steps give unrelated streams.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (seed, *parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *parts: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator seeded by `derive_seed(seed, *parts)`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *parts))
