"""A short piece of chaos; `make chaos` runs a long one."""

from __future__ import annotations

from pathlib import Path

from tests.faults.chaos import chaos
from tests.nursery import Nursery


def test_a_short_history_of_kills_loses_and_doubles_nothing(nursery: Nursery, tmp_path: Path) -> None:
    done = chaos(nursery, tmp_path, seed=20, kills=6, jobs=5, ray_share=0.0)
    assert done.total() >= 4
