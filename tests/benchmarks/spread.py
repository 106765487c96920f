"""What many adapters cost: the same rows, in every step, over 32 adapters and over 4, in turn."""

from __future__ import annotations

from typing import Any

from tests.benchmarks.alternating import alternate
from tests.benchmarks.engine import Packed
from tests.benchmarks.rows import Feed
from tests.benchmarks.setting import Inputs, Setting

NUM_ROWS = 32
MANY, FEW = 32, 4
MOST = 1.10
"""The same tokens over many adapters may cost this many times what they cost over few."""


class _Named(Packed):
    """Told apart from the other one in the timings."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.name = setting.name


def measure(
    inputs: Inputs, dtype: str, repeats: int, *, num_rows: int = NUM_ROWS, many: int = MANY, few: int = FEW
) -> dict[str, Any]:
    """Seconds over many adapters by seconds over few: taken within a repeat, then the median."""
    settings = [
        Setting(inputs=inputs, num_jobs=jobs, batch_size=num_rows // jobs, dtype=dtype, pinned=True)
        for jobs in (many, few)
    ]
    contenders = [_Named(setting) for setting in settings]
    # Rows that are grouped otherwise are the same rows; the worker of each is held against their lengths.
    timings = {}
    try:
        timings = alternate(contenders, Feed(settings[0]), repeats)
    finally:
        for contender in contenders:
            contender.close()
    many_name, few_name = (setting.name for setting in settings)
    return {
        "dtype": dtype,
        "rows": num_rows,
        "repeats": repeats,
        "many_adapters": many,
        "few_adapters": few,
        "mean_row_tokens": round(timings.mean_row_tokens, 2),
        "many_tokens_per_second": timings.tokens_per_second(many_name),
        "few_tokens_per_second": timings.tokens_per_second(few_name),
        "many_over_few_seconds": timings.speedup(few_name, many_name),
    }


def describe(result: dict[str, Any]) -> str:
    """For people, with the verdict."""
    ratio = result["many_over_few_seconds"]
    return (
        f"{result['dtype']}: {result['rows']} rows over {result['many_adapters']} adapters "
        f"{result['many_tokens_per_second']:.0f} tokens/s, over {result['few_adapters']} "
        f"{result['few_tokens_per_second']:.0f}; they cost {ratio:.2f} times as much "
        f"(at most {MOST:.2f}: {'holds' if ratio <= MOST else 'MISSED'})"
    )
