"""What a measurement is made on: which base, which rows, how many jobs.

Imports neither torch nor the engine, so that a PEFT process which reads a setting holds only what PEFT needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

RANK = 8
ALPHA = 16
LEARNING_RATE = 1e-5
"""Small, so that rows seen again and again do not bring moments down to denormal numbers, which are slow."""
MAX_GRAD_NORM = 1.0
MAX_LENGTH = 64
"""Longer rows are left out or cut; the five tasks then have about 30 tokens a row."""

TORCH_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
"""The names on the command line and those in a spec."""


class TokenRow(Protocol):
    """A row as any contender takes it; the engine's own rows are such."""

    ids: np.ndarray
    """(t,) int64."""
    labelled: np.ndarray
    """(t,) bool: this token is to be predicted."""


class Tokens(NamedTuple):
    """A row without anything of the engine, for processes that shall not import it."""

    ids: np.ndarray
    labelled: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Base and rows of a whole run."""

    model: Path
    """Folder of the base."""
    tasks: tuple[Path, ...]
    """JSONL files of unlike tasks; job i trains on task i modulo their number."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One line of the benchmark."""

    inputs: Inputs
    num_jobs: int
    batch_size: int
    """Rows of a job's micro-batch, one micro-batch a step."""
    dtype: str
    """A key of `TORCH_DTYPES`."""
    pinned: bool = False
    """Every step runs the same `num_jobs · batch_size` rows, a set that depends on their number alone. So 32 jobs of
    one row and 4 jobs of eight can be compared on equal tokens."""

    @property
    def name(self) -> str:
        """As on the command line."""
        return f"{self.num_jobs}x{self.batch_size}"

    @property
    def job_names(self) -> list[str]:
        """In the order of the pack."""
        return [f"job-{number}" for number in range(self.num_jobs)]


def parse_rows(text: str) -> list[tuple[int, int]]:
    """`16x1,8x4` to [(16, 1), (8, 4)].

    Raises:
        ValueError: With what is wrong and how it should look.
    """
    parsed = []
    for part in text.split(","):
        jobs, _, rows = part.strip().partition("x")
        if not (jobs.isdigit() and rows.isdigit() and int(jobs) and int(rows)):
            raise ValueError(f"--rows: {part!r} is not JOBSxROWS, such as 16x1")
        parsed.append((int(jobs), int(rows)))
    return parsed


def parse_dtypes(text: str) -> list[str]:
    """`fp32,bf16` to a list.

    Raises:
        ValueError: A name is unknown.
    """
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in TORCH_DTYPES:
            raise ValueError(f"--dtype: {name!r} is not one of {', '.join(TORCH_DTYPES)}")
    return names
