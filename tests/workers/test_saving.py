"""Copies that wait for a slow disk take no more memory than was meant for them, and nobody waits for ever."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from jobs.records import CheckpointReport, Report
from tests.models import admit, make_data, make_spec, make_worker, tiny_llama
from workers import checkpoint, saving
from workers.worker import Worker

NAMES = [f"job-{number}" for number in range(5)]
DATA = {name: make_data(number, [5, 9, 7, 4]) for number, name in enumerate(NAMES)}


class Disk:
    """Writes nothing until it may."""

    def __init__(self) -> None:
        self.is_free = threading.Event()

    def save(self, snapshot: Any, folder: Path) -> Any:
        assert self.is_free.wait(60)
        return checkpoint.save(snapshot, folder)


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """Five equal jobs, room for two copies."""
    worker = make_worker(tiny_llama(), DATA, tmp_path / "staging", checkpoints_dir=tmp_path / "checkpoints")
    runs = admit(worker, [make_spec(name, training={"max_steps": 50, "save_steps": 1}) for name in NAMES]).runs
    one = 3 * runs[NAMES[0]].adapter.values.nbytes
    monkeypatch.setattr(saving, "_MOST_BYTES", 2 * one + one // 2)
    return worker


def under_way(worker: Worker) -> list[str]:
    return [name for name in NAMES if worker._saver.is_under_way(name)]


def saved(reports: list[Report]) -> list[str]:
    return [report.record.job_id for report in reports if isinstance(report, CheckpointReport)]


def test_jobs_train_on_while_no_more_copies_wait_than_there_is_room_for(worker: Worker) -> None:
    disk = Disk()
    worker._saver._save = disk.save
    for _ in range(6):
        worker.step()
        assert len(under_way(worker)) <= 2
    assert len(under_way(worker)) == 2
    assert [run.step for run in worker.runs().values()] == [6] * 5
    disk.is_free.set()
    reports = []
    for _ in range(40):
        reports += worker.step()
        worker._saver._writer.submit(lambda: None).result()
    # Whoever has waited longest is next, so that none is always behind others.
    numbers = [saved(reports).count(name) for name in NAMES]
    assert min(numbers) > 0


def test_all_are_saved_before_a_preemption_ends(worker: Worker) -> None:
    reports = worker.step()
    reports += worker.preempt()
    assert set(saved(reports)) == set(NAMES)
    assert not under_way(worker)


def test_a_copy_that_is_larger_than_the_room_is_taken_by_itself(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "_MOST_BYTES", 1)
    disk = Disk()
    worker._saver._save = disk.save
    worker.step()
    assert len(under_way(worker)) == 1
    disk.is_free.set()
    assert set(saved(worker.preempt())) == set(NAMES)
