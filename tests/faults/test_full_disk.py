"""A disk that is really full: a small tmpfs, filled at seeded moments, with room made again afterwards."""

from __future__ import annotations

import errno
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.runs import STEP, Run
from tests.nursery import Nursery
from tests.orchestrator.conftest import specs_in

SIZE_BYTES = 16 * 2**20
TRAINING = {"max_steps": 60, "per_device_train_batch_size": 2, "logging_steps": 1, "save_steps": 2}
JOB = {"scheduling": {"packing": "exact"}, "training": TRAINING}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "run"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode != 0:
        pytest.skip(f"this user may not mount a tmpfs: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(ballast: Path) -> None:
    """Take all the room that is left."""
    with ballast.open("ab", buffering=0) as stream:
        size = 2**16
        while size:
            try:
                stream.write(b"\0" * size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                size //= 2


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, rows: Path) -> Path:
    return specs_in(tmp_path_factory.mktemp("disk"), tiny_base, rows)(JOB, JOB)


@pytest.fixture(scope="module")
def whole(nursery: Nursery, specs: Path) -> Run:
    run = Run(nursery, specs, specs.parent / "whole")
    run.finish()
    return run


@pytest.mark.parametrize("seed", range(3))
def test_filled_at_any_moment_it_says_so_and_goes_on_to_the_same_bytes_when_there_is_room(
    nursery: Nursery, specs: Path, whole: Run, small_disk: Path, seed: int
) -> None:
    run = Run(nursery, specs, small_disk)
    ballast = small_disk / "ballast"
    draw = random.Random(seed)
    run.start()
    fills = 0
    for _ in range(3):
        # From where it stands now: only what goes on again can find the disk full anew.
        steps = run.count_told(STEP) + draw.randint(1, 25)
        if not run.wait_until_told(STEP, times=steps):
            break
        before = run.count_told("no room to write")
        fill(ballast)
        # Whoever needs room first says so: a checkpoint, an adapter or the journal.
        fills += run.wait_until_told("no room to write", times=before + 1)
        os.unlink(ballast)
    assert fills
    assert run.wait() == 0, run.told()
    assert run.adapters() == whole.adapters()
    assert run.metrics() == whole.metrics()
    run.check_history()
