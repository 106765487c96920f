"""A job that is called back is saved where it stands and leaves; elsewhere it ends with the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.checkpoints import DiskFullError
from jobs.records import Assignment, CheckpointReport, JobState, Report, StateReport
from tests.models import Trained, make_data, make_spec, make_worker, tiny_llama, train
from workers import checkpoint
from workers.worker import Worker

DATA = {name: make_data(number, [5, 9, 7, 4, 8, 6]) for number, name in enumerate(("called", "other"))}
TRAINING = {"max_steps": 6, "gradient_accumulation_steps": 3, "per_device_train_batch_size": 1, "weight_decay": 0.1}


def spec_of(name: str) -> Any:
    return make_spec(name, packing="exact", lora={"r": 4, "lora_dropout": 0.1}, training=TRAINING)


def worker_in(folder: Path) -> Worker:
    return make_worker(tiny_llama(), DATA, folder / "staging", checkpoints_dir=folder / "checkpoints")


def stepped(worker: Worker, until: Any) -> list[Report]:
    reports: list[Report] = []
    for _ in range(1000):
        reports += worker.step()
        if until(reports):
            return reports
    pytest.fail("it never happened")


def has_left(reports: list[Report]) -> bool:
    return any(isinstance(one, StateReport) and one.reason == "handed_back" for one in reports)


@pytest.mark.parametrize("rounds", [0, 1, 4, 5])
def test_called_back_at_any_micro_batch_it_goes_on_elsewhere_to_the_same_bytes(rounds: int, tmp_path: Path) -> None:
    whole = train(worker_in(tmp_path / "whole"), [spec_of("called"), spec_of("other")])
    worker = worker_in(tmp_path / "parts")
    worker.assign([Assignment(job_id=name, spec=spec_of(name)) for name in DATA])
    for _ in range(rounds):
        worker.step()
    worker.hand_back("called")
    reports = stepped(worker, has_left)
    assert list(worker.runs()) == ["other"]
    assert [one.state for one in reports if isinstance(one, StateReport) and one.reason == "handed_back"] == [
        JobState.PENDING
    ]
    saved = tuple(one.record for one in reports if isinstance(one, CheckpointReport))
    assert bool(saved) == bool(rounds)
    elsewhere = worker_in(tmp_path / "parts")
    elsewhere.assign([Assignment(job_id="called", spec=spec_of("called"), attempt=2, checkpoints=saved)])
    elsewhere._admit()
    trained = Trained(runs=elsewhere.runs(), initial={})
    while not elsewhere.is_idle:
        elsewhere.step()
    while not worker.is_idle:
        worker.step()
    for name in DATA:
        files = [tmp_path / part / "staging" / name / "adapter_model.safetensors" for part in ("whole", "parts")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert trained.runs["called"].tokens == whole.runs["called"].tokens


def test_one_that_waits_for_room_leaves_without_having_begun(tmp_path: Path) -> None:
    worker = worker_in(tmp_path)
    worker.assign([Assignment(job_id="called", spec=spec_of("called"))])
    worker.hand_back("called")
    reports = stepped(worker, has_left)
    assert not worker.runs()
    assert worker.is_idle
    assert [one.message for one in reports if isinstance(one, StateReport)][-1] in ("had not begun", "saved at step 0")


def test_on_a_full_disk_it_stays_until_it_could_be_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = True
    save = checkpoint.save

    def refused(*args: Any) -> Any:
        if full:
            raise DiskFullError(tmp_path, needed_bytes=1, free_bytes=0)
        return save(*args)

    worker = worker_in(tmp_path)
    worker._saver._save = refused
    worker._saver._now = lambda: 0.0
    worker.assign([Assignment(job_id=name, spec=spec_of(name)) for name in DATA])
    worker.step()
    worker.hand_back("called")
    reports = stepped(worker, lambda told: any(getattr(one, "state", None) is JobState.PAUSED for one in told))
    assert not has_left(reports)
    assert "called" in worker.runs()
    full = False
    worker._saver._now = lambda: 1e9
    assert has_left(stepped(worker, has_left))
