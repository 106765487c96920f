"""What a job will take, as preflight found it; kept by whoever places jobs, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from jobs.records import BaseKey
from workers.memory import BaseShape, Demand


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a job will take; goes to the placement policy and to `loraloom validate`."""

    base: BaseKey
    base_shape: BaseShape
    demand: Demand
    trainable_parameters: int
    train_rows: int
    eval_rows: int
    train_tokens: int
    """Tokens trained on over all steps, expected from the mean row."""
    total_steps: int
    peak_bytes: int
    """Predicted peak of a worker's process that runs this job alone, base included."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the journal."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The estimate that `to_json` was asked of.

        Raises:
            TypeError: It is of a version with other fields.
        """
        nested = {"base": BaseKey, "base_shape": BaseShape, "demand": Demand}
        return cls(**{key: nested[key](**value) if key in nested else value for key, value in values.items()})
