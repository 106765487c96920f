"""What a user meets after a fault: a checkpoint that rotted, a full disk, a second run, a signal in an odd moment."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from jobs.spec import TrainingSpec
from orchestrator.interruption import GRACE_SECONDS
from tests.faults.runs import Run
from tests.nursery import Nursery
from tests.orchestrator.conftest import WriteSpecs, specs_in
from tests.tiny_base import write_rows, write_tiny_base
from workers.cursor import Cursor

TRAINING: dict[str, Any] = {
    "max_steps": 40,
    "per_device_train_batch_size": 2,
    "logging_steps": 1,
    "save_steps": 4,
}
EXACT: dict[str, Any] = {"scheduling": {"packing": "exact"}, "training": TRAINING}


@pytest.fixture
def run(nursery: Nursery, write_specs: WriteSpecs, tmp_path: Path) -> Run:
    return Run(nursery, write_specs(EXACT), tmp_path / "run")


@pytest.fixture(scope="module")
def whole(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, rows: Path) -> Run:
    folder = tmp_path_factory.mktemp("whole")
    run = Run(nursery, specs_in(folder, tiny_base, rows)(EXACT), folder / "whole")
    run.finish()
    return run


def test_a_checkpoint_that_rotted_is_quarantined_the_one_before_is_used_and_the_user_is_told(
    run: Run, whole: Run
) -> None:
    # Whoever publishes the third has committed the second.
    run.start(die_in=("rename", 3, "/checkpoints/job-0/"))
    assert run.wait() == -signal.SIGKILL
    with run.journal() as journal:
        newest, before, *_ = journal.checkpoints("job-0")
    damaged = run.folder / "checkpoints/job-0" / newest.folder / "optimizer.safetensors"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 4
    damaged.write_bytes(content)
    told = run.finish()
    assert f"resumed at step {before.step} of 40" in told
    assert "checkpoint_quarantined" in told
    assert "optimizer.safetensors has sha256" in told
    assert [one.name for one in (run.folder / "checkpoints/job-0/quarantine").iterdir()] == [newest.folder]
    assert run.adapters() == whole.adapters()
    assert run.metrics() == whole.metrics()
    run.check_history()


@pytest.mark.parametrize("first", [1, 9], ids=["first save", "later save"])
def test_on_a_full_disk_a_job_is_held_with_the_reason_and_goes_on_when_there_is_room(
    run: Run, whole: Run, first: int
) -> None:
    told = run.finish(no_room=("checkpoints", first, first))
    assert "PAUSED (disk_full): no room to write" in told
    assert "free some space or raise the quota" in told
    assert "RUNNING (room)" in told
    assert run.adapters() == whole.adapters()
    assert run.metrics() == whole.metrics()
    run.check_history()


def test_without_room_for_the_adapter_the_job_is_held_at_its_end(run: Run, whole: Run) -> None:
    told = run.finish(no_room=("artifacts", 1, 1))
    assert "PAUSED (disk_full)" in told
    assert run.adapters() == whole.adapters()
    run.check_history()


def test_an_adapter_that_was_published_and_not_yet_confirmed_is_verified_and_not_trained_again(
    run: Run, whole: Run
) -> None:
    # The first time is for the staging folder; the second flushes the rename by which the adapter is published.
    run.start(die_in=("fsync", 2, "/artifacts$"))
    assert run.wait() == -signal.SIGKILL
    assert "SUCCEEDED" not in run.told()
    trained = run.rows.read_text()
    told = run.finish()
    assert "finished in an earlier run" in told
    assert run.rows.read_text() == trained
    assert run.adapters() == whole.adapters()
    run.check_history()


def test_two_runs_never_share_a_directory_and_the_second_says_who_has_it(run: Run, nursery: Nursery) -> None:
    run.start()
    assert run.wait_until_told(r" step \d+/")
    second = Run(nursery, run.specs, run.folder)
    second.start()
    assert second.wait() == 1
    assert f"is being written by process {run.pid}" in second.told()
    run.signal(signal.SIGKILL)
    run.wait()
    run.finish()
    run.check_history()


def test_a_changed_spec_is_refused_with_what_changed_and_nothing_is_lost(run: Run, write_specs: WriteSpecs) -> None:
    assert run.stopped(10, 0.0, signal.SIGTERM) == 128 + signal.SIGTERM
    stood = run.last_steps()
    original = run.specs.read_text()
    run.specs = write_specs({**EXACT, "training": {**TRAINING, "learning_rate": 0.5}}, name="changed.yaml")
    run.start()
    assert run.wait() == 2
    assert "changed.yaml:1: name: the job has begun in" in run.told()
    assert "training.learning_rate: 0.01 then, 0.5 now" in run.told()
    run.specs.write_text(original)
    run.finish()
    assert run.resumed_at() == stood


def test_a_job_that_fails_keeps_its_last_good_checkpoint_and_can_be_begun_anew_with_another_spec(
    run: Run, write_specs: WriteSpecs, tmp_path: Path
) -> None:
    training = TrainingSpec.model_validate({**TRAINING, "save_steps": 1, "max_nonfinite_steps": 1})
    # The last row of the first epoch has no finite loss; all before it train.
    last = int(Cursor(num_rows=24, training=training).order(0)[-1])
    rows = write_rows(tmp_path / "poisoned.jsonl", 24, poisoned=[last])
    base = write_tiny_base(tmp_path / "poisoned", poisoned=True)
    healthy = run.specs
    bad = {"datasets": [{"path": str(rows)}], "val_size": 0, "model": {"model_name_or_path": str(base)}}
    run.specs = write_specs({**bad, "training": training.model_dump(exclude_unset=True)}, name="bad.yaml")
    run.start()
    assert run.wait() == 1
    told = run.told()
    assert "FAILED (nonfinite)" in told
    with run.journal() as journal:
        [job] = journal.jobs()
        kept = journal.checkpoints("job-0")
    assert job.num_charged == 1
    assert kept
    assert f"checkpoint of step {kept[0].step} is kept" in told
    run.specs = healthy
    run.finish()
    with run.journal() as journal:
        assert [one.id for one in journal.jobs()] == ["job-0", "job-0.2"]
    assert (run.folder / "checkpoints/job-0" / kept[0].folder).is_dir()


def test_a_second_signal_ends_at_once_and_leaves_the_last_checkpoint_whole(run: Run, whole: Run) -> None:
    run.start()
    assert run.wait_until_told(r" step \d+/", times=10)
    run.signal(signal.SIGTERM)
    run.signal(signal.SIGTERM)
    assert run.wait() == 128 + signal.SIGTERM
    run.finish()
    assert run.adapters() == whole.adapters()
    run.check_history()


@pytest.mark.parametrize("milliseconds", [0, 300, 700, 1000])
def test_terminated_while_it_starts_it_ends_soon_and_goes_on_later(run: Run, milliseconds: int) -> None:
    """Checks, tokenising and loading take about a second; nothing is there to be saved yet."""
    import time

    run.start()
    time.sleep(milliseconds / 1000)
    run.signal(signal.SIGTERM)
    began = time.monotonic()
    code = run.wait()
    # On a quick machine it may be done before the last of the signals.
    assert code in (-signal.SIGTERM, 128 + signal.SIGTERM) or (code == 0 and "SUCCEEDED" in run.told()), run.told()
    assert time.monotonic() - began < GRACE_SECONDS
    run.finish()
    run.check_history()
