"""How fast a simulated device trains, and where that comes from.

Published: Qwen2.5-7B on an A100 takes 10 % more time an iteration with 8 rows than with 1 (PLoRA, arXiv:2508.02932).
Between 1 and 8 rows time is taken to grow in a straight line; beyond 8, of which nothing is known, in proportion to the
rows, so that no more than 8 / 1.1 = 7.3 times the speed of one row is ever gained. A job whose own micro-batch has 8
rows or more gains nothing from neighbours.

Our own benchmark (tests/benchmarks/README.md): many jobs of one row reach 0.84 of the frozen base's own speed over the
same rows, one job of 8 rows 0.82. So a pack of many adapters costs what one of as many rows costs, and rows alone
count. Both sides of every comparison run on this engine; what it gains over others is left out.

Assumed, since only ratios matter: 0.25 s an iteration of one row on 7.6 billion parameters, in proportion for smaller
bases; all rows as long as the longest; 8 rows fill a pack. Memory is `workers.memory`'s, for the shapes of Qwen2.5.
"""

from __future__ import annotations

from dataclasses import dataclass

from jobs.records import BaseKey
from workers.memory import BaseShape, Demand

PACK_ROWS = 8
ROW_TOKENS = 256
TOKEN_BUDGET = PACK_ROWS * ROW_TOKENS
_MORE_AT_FULL_PACK = 0.10
_SECONDS_PER_PARAMETER = 0.25 / 7.6e9
_FP32_STATES = 16
"""Bytes a trained number takes: weight, gradient and two moments."""


@dataclass(frozen=True, kw_only=True)
class SimBase:
    """A base model as the simulator needs it."""

    key: BaseKey
    shape: BaseShape

    @property
    def row_seconds(self) -> float:
        """Device-seconds a row takes in a full pack: the least there is."""
        return self.pack_seconds(PACK_ROWS) / PACK_ROWS

    def pack_seconds(self, rows: int) -> float:
        """Seconds of an iteration over so many rows."""
        alone = self.shape.num_parameters * _SECONDS_PER_PARAMETER
        full = alone * (1 + _MORE_AT_FULL_PACK)
        if rows >= PACK_ROWS:
            return full * rows / PACK_ROWS
        return alone * (1 + _MORE_AT_FULL_PACK * (rows - 1) / (PACK_ROWS - 1))

    def demand(self, rank: int, rows: int) -> Demand:
        """What a job with adapters on all linears asks for."""
        return Demand(
            adapter_bytes=self.shape.linear_features * rank * _FP32_STATES,
            worst_tokens=rows * ROW_TOKENS,
            worst_labels=rows * ROW_TOKENS // 4,
        )


def _base(name: str, parameters: float, hidden: int, inner: int, layers: int, narrow: int) -> SimBase:
    features = layers * (4 * hidden + 2 * (hidden + narrow) + 3 * (hidden + inner))
    return SimBase(
        key=BaseKey(model_name_or_path=name, revision=None, dtype="bfloat16"),
        shape=BaseShape(num_parameters=int(parameters), itemsize=2, vocab_size=151_936, linear_features=features),
    )


BASES = (
    _base("Qwen/Qwen2.5-7B", 7.6e9, 3584, 18944, 28, 512),
    _base("Qwen/Qwen2.5-3B", 3.1e9, 2048, 11008, 36, 256),
    _base("Qwen/Qwen2.5-1.5B", 1.5e9, 1536, 8960, 28, 256),
)
