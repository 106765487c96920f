"""How many labels' logits are held at once; the memory model knows it as well as the loss, and without torch."""

from __future__ import annotations

_CHUNK_LOGITS = 2**22
"""Numbers in a chunk's logits: 16 MiB in fp32, enough labels to fill the product."""


def chunk_labels(vocab_size: int) -> int:
    """Labels whose logits are held at once."""
    return max(1, _CHUNK_LOGITS // vocab_size)
