"""A process that is killed while it saves in a loop: everything it had told the journal is there and whole."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

from jobs.checkpoints import folder_name
from jobs.records import CheckpointRecord
from orchestrator.job_files import JobFiles
from tests.kills import killed
from tests.workers.snapshots import IDENTITY, assert_same, make_snapshot
from workers.checkpoint import load, save
from workers.retention import superseded
from workers.snapshot import JobSnapshot

NUM_KILLS = 25
KEEP = 2


def snapshot_of(step: int) -> JobSnapshot:
    return make_snapshot(step=step, seed=step, half_done=step % 2 == 1)


def folder_of(root: Path) -> Path:
    return root / "checkpoints" / "job-1"


def save_forever(root: Path, tell: Callable[[str], None]) -> None:
    """Save, tell, delete the old ones: the order of a run."""
    files = JobFiles(root)
    records: list[CheckpointRecord] = []
    for step in itertools.count(1):
        record = save(snapshot_of(step), folder_of(root))
        tell(f"{record.step} {record.micro_batch} {record.manifest_sha256} {record.size_bytes}")
        records = [record, *records]
        files.prune("job-1", superseded(records, KEEP))
        records = records[:KEEP]


def record_of(line: str) -> CheckpointRecord:
    step, part, sha256, size = line.split()
    return CheckpointRecord(
        job_id="job-1",
        attempt=3,
        step=int(step),
        micro_batch=int(part),
        folder=folder_name(step=int(step), micro_batch=int(part), attempt=3),
        manifest_sha256=sha256,
        size_bytes=int(size),
    )


def test_killed_at_random_instants(tmp_path: Path) -> None:
    draw = random.Random(11)
    leftovers = 0
    for kill in range(NUM_KILLS):
        root = tmp_path / str(kill)
        folder = folder_of(root)
        lines = killed(partial(save_forever, root), after_lines=draw.randint(1, 6), seconds=draw.uniform(0.0, 0.01))
        told = [record_of(line) for line in lines][::-1][:KEEP]
        for record in told:
            assert_same(load(folder, record, IDENTITY), snapshot_of(record.step))
        kept = {record.folder for record in told}
        # At most one is published and not told yet, or told and its predecessor not deleted yet.
        assert len({path.name for path in folder.iterdir() if path.name.startswith("step-")} - kept) <= 1
        leftovers += len(JobFiles(root).sweep("job-1", told))
        assert {path.name for path in folder.iterdir()} == kept
    assert leftovers > 0, "no kill came in the middle of anything"
