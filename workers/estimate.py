"""What a job will take, as preflight found it; kept by whoever places jobs, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from jobs.records import BaseKey
from workers.memory import BaseShape, Demand

FORMAT = 3
"""Of an estimate as JSON. To be raised whenever a field changes its meaning or is added: one of another format is not
read, and the job is looked into again."""


@dataclass(frozen=True, kw_only=True)
class RowCounts:
    """What became of the rows of a job's data sets, training and evaluation together."""

    read: int = 0
    truncated: int = 0
    dropped: int = 0
    """Rows of which nothing is learned."""
    skipped: int = 0
    """Rows that could not be used and were passed over, as `max_skipped_rows` allows."""
    columns_unused: tuple[str, ...] = ()
    """Columns that change nothing."""

    def __str__(self) -> str:
        skipped = f", {self.skipped:,} passed over as they cannot be used" if self.skipped else ""
        unused = f"; columns not used: {', '.join(self.columns_unused)}" if self.columns_unused else ""
        return f"{self.read:,} rows read, {self.truncated:,} truncated, {self.dropped:,} dropped{skipped}{unused}"


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
    notes: tuple[str, ...] = ()
    """What is no error and would surprise later."""
    rows: RowCounts = RowCounts()
    """What became of the rows that were read."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the journal."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The estimate that `to_json` was asked of.

        Raises:
            ValueError: It is of another format, written by another version.
        """
        known = dict(values)
        found = known.pop("format", 1)
        if found != FORMAT:
            raise ValueError(f"an estimate of format {found} cannot be read; this version has {FORMAT}")
        nested = {"base": BaseKey, "base_shape": BaseShape, "demand": Demand}
        try:
            made: dict[str, Any] = {k: nested[k](**value) if k in nested else value for k, value in known.items()}
            made["notes"] = tuple(made.get("notes", ()))
            made["rows"] = RowCounts(**{**made["rows"], "columns_unused": tuple(made["rows"]["columns_unused"])})
            return cls(**made)
        except (TypeError, KeyError) as error:
            raise ValueError(f"an estimate cannot be read: {error}") from error
