"""A process that is killed while it saves in a loop: everything it had told the journal is there and whole."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from pathlib import Path

import pytest

from jobs.checkpoints import CheckpointRecord
from tests.workers.snapshots import IDENTITY, assert_same, make_snapshot
from workers.checkpoint import load, save
from workers.retention import prune, sweep

NUM_KILLS = 25
KEEP = 2


def save_forever(folder: Path, first_step: int, acknowledge: int) -> None:
    """Save, tell, forget the old ones: the order of a run. A record is one write to a pipe, hence whole or absent."""
    records: list[CheckpointRecord] = []
    for step in itertools.count(first_step):
        record = save(make_snapshot(step=step, seed=step, half_done=step % 2 == 1), folder)
        os.write(
            acknowledge, f"{record.step} {record.micro_batch} {record.manifest_sha256} {record.size_bytes}\n".encode()
        )
        records = [record, *records]
        records = [one for one in records if one not in prune(records, KEEP, folder)]


def killed_run(folder: Path, first_step: int, seconds: float) -> list[CheckpointRecord]:
    """What a run had acknowledged when it was killed, newest first."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            save_forever(folder, first_step, writing)
        finally:
            os._exit(1)
    os.close(writing)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL, "the run ended by itself"
    with os.fdopen(reading) as lines:
        records = [
            CheckpointRecord(
                job_id="job-1",
                attempt=3,
                step=int(step),
                micro_batch=int(part),
                folder=f"step-{int(step):06d}.{int(part):02d}-a3",
                manifest_sha256=sha256,
                size_bytes=int(size),
            )
            for step, part, sha256, size in (line.split() for line in lines)
        ]
    return records[::-1]


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


@pytest.mark.timeout(120)
def test_killed_at_random_instants(tmp_path: Path) -> None:
    draw = random.Random(11)
    step = 1
    leftovers = 0
    for kill in range(NUM_KILLS):
        folder = tmp_path / str(kill % 5)
        records = killed_run(folder, step, draw.uniform(0.005, 0.12))
        for record in records[:KEEP]:
            assert_same(
                load(folder, record, IDENTITY),
                make_snapshot(step=record.step, seed=record.step, half_done=record.step % 2 == 1),
            )
        kept = {record.folder for record in records[:KEEP]}
        # At most one is published and not told yet, or told and its predecessor not deleted yet.
        assert len({name for name in names_in(folder) if name.startswith("step-")} - kept) <= 1
        leftovers += len(sweep(folder, records[:KEEP]))
        assert names_in(folder) == kept
        sweep(folder, [])
        step += len(records) + 1
    # The instants were such that something was under way at most of them.
    assert leftovers > NUM_KILLS // 2
    assert step > 3 * NUM_KILLS
