"""A service that dies again and again, a short time; `make crashes` is the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def told_by(module: str, *options: str) -> str:
    """By a process of its own: a life is forked from one that has neither torch nor threads."""
    done = subprocess.run(
        [sys.executable, "-m", module, *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_was_answered_survives_death_at_any_point_of_the_journal() -> None:
    told = told_by("tests.faults.crash_points", "--points", "15", "--seed", "1")
    assert "15 deaths:" in told
    assert "none lost, none doubled" in told
    assert " a commit" in told


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(3600)
def test_workers_train_on_while_the_service_is_killed_twenty_times() -> None:
    told = told_by("tests.faults.service_kills", "--kills", "20", "--seed", "11")
    assert "20 kills; jobs that trained through all of them, on one worker in one attempt" in told
