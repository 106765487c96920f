"""A worker that is told to stop by one thread while another cancels, hands back, assigns and trains.

Nothing raises, no thread waits for ever, and every save that has finished is reported.
"""

from __future__ import annotations

import random
import threading
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from jobs.records import Assignment, BaseKey, CheckpointRecord, CheckpointReport, LogReport, Report
from orchestrator.clusters import End
from orchestrator.clusters.worker_loop import WorkerLoop
from tests.models import make_data, make_spec, make_worker, tiny_llama
from tests.workers.lock_step import LockStep, PlayedExecutor, PlayedLock
from workers import saving
from workers.base_model import BaseModel
from workers.job_run import JobRun
from workers.pack_runner import Taken
from workers.rounds import Rounds
from workers.settings import WorkerSettings
from workers.snapshot import JobSnapshot
from workers.worker import Worker

NAMES = ("one", "two", "three", "four", "five")
DATA = {name: make_data(number, [4, 5]) for number, name in enumerate(NAMES)}
SPECS = {
    name: make_spec(name, lora={"r": 1, "target_modules": ["*q_proj"]}, training={"max_steps": 6, "save_steps": 1})
    for name in NAMES
}
WATCHED = ("workers/worker.py", "workers/saving.py", "workers/endings.py", "workers/job_table.py",
           "workers/report_buffer.py")  # fmt: skip
NUM_SEEDS = 1000
KEY = BaseKey(model_name_or_path="tiny", revision=None, dtype="float32")


class Disk:
    """Notes the saves that have ended while their jobs were here."""

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self.finished: set[tuple[str, int]] = set()

    def save(self, snapshot: JobSnapshot, folder: Path) -> CheckpointRecord:
        return CheckpointRecord(
            job_id=snapshot.identity.job_id,
            attempt=1,
            step=snapshot.standing.step,
            micro_batch=0,
            folder=f"step-{snapshot.standing.step}",
            manifest_sha256="0",
            size_bytes=1,
        )

    def has_ended(self, future: Future[Any]) -> None:
        assert self.worker is not None
        record = future.result().record
        job = self.worker._saver._jobs.get(record.job_id)
        if job is not None and job.under_way is future:
            self.finished.add((record.job_id, record.step))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return make_worker(tiny_llama(num_hidden_layers=1), DATA, tmp_path_factory.mktemp("base"), num_lanes=1).base


@pytest.fixture(autouse=True)
def no_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs take their steps with gradients of zero: nothing here hangs on numbers."""

    def run(self: Rounds, pack: list[Any]) -> None:
        for member in pack:
            self._take_in(Taken(member, report=member.run.trained(member.work, loss_sum=1.0, seconds=0.0)))

    monkeypatch.setattr(Rounds, "run", run)


def worker_on(base: BaseModel, folder: Path, disk: Disk) -> Worker:
    """A worker on a base that is loaded already."""
    settings = WorkerSettings(
        staging_dir=folder / "staging", checkpoints_dir=folder / "checkpoints", capacity_bytes=2**33, num_lanes=1
    )
    worker = disk.worker = Worker(
        "w0", KEY, settings, load_base=lambda *_: base, load_data=lambda spec, *_: DATA[spec.name]
    )
    worker.load()
    worker._saver._save = disk.save
    worker.assign([Assignment(job_id=name, spec=SPECS[name]) for name in NAMES[:3]])
    return worker


def commands(worker: Worker, draw: random.Random, told: list[Report], num_rounds: int) -> None:
    """What a scheduler may ask of a worker, in some order, at its step boundaries."""
    for _ in range(num_rounds):
        name = draw.choice(NAMES)
        match draw.randrange(5):
            case 0:
                worker.release(name)
            case 1:
                worker.hand_back(name)
            case 2:
                worker.prioritise(name, draw.randrange(5))
            case 3 if name not in worker.runs():
                worker.release(name)
                worker.assign([Assignment(job_id=name, spec=SPECS[name])])
            case _:
                pass
        told += worker.step()


def check(worker: Worker, disk: Disk, told: list[Report]) -> None:
    """Every save that ended while its job was here was reported, and all that are here are saved."""
    told = [*told, *worker.last_reports()]
    reported = {(one.record.job_id, one.record.step) for one in told if isinstance(one, CheckpointReport)}
    assert disk.finished <= reported
    assert all(worker._saver.is_saved(run) for run in worker.runs().values())


@pytest.mark.parametrize("block", range(10))
def test_in_whatever_order_their_lines_run_nothing_raises_and_no_save_is_lost(
    block: int, base: BaseModel, tmp_path: Path
) -> None:
    for seed in range(block * NUM_SEEDS // 10, (block + 1) * NUM_SEEDS // 10):
        steps, disk, told, stopped = LockStep(seed, WATCHED), Disk(), list[Report](), list[Report]()
        worker = worker_on(base, tmp_path, disk)
        worker._lock = PlayedLock(steps)  # pyright: ignore[reportAttributeAccessIssue]
        worker._saver._writer = PlayedExecutor(steps, disk.has_ended)  # pyright: ignore[reportAttributeAccessIssue]
        told += worker.step()
        steps.run(
            partial(commands, worker, random.Random(seed), told, 3),
            lambda worker=worker, stopped=stopped: stopped.extend(worker.preempt()),
        )
        assert steps.errors == [], f"seed {seed}"
        check(worker, disk, told + stopped)


def test_with_real_threads_likewise(base: BaseModel, tmp_path: Path) -> None:
    for seed in range(50):
        disk, told, stopped, errors = Disk(), list[Report](), list[Report](), list[BaseException]()
        worker, draw = worker_on(base, tmp_path, disk), random.Random(seed)
        told += worker.step()

        def stop(worker: Worker = worker, stopped: list[Report] = stopped, errors: list[Any] = errors) -> None:
            try:
                stopped += worker.preempt()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=stop)
        if seed % 2:
            thread.start()
        commands(worker, draw, told, 2)
        if not seed % 2:
            thread.start()
        commands(worker, draw, told, 2)
        thread.join(60)
        assert not thread.is_alive()
        assert errors == []
        check(worker, disk, told + stopped)
        worker._saver._writer.shutdown()


def test_what_breaks_a_preemption_is_reported_with_the_saves_that_had_ended(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk()
    worker = worker_on(base, tmp_path, disk)
    loop = WorkerLoop("w0", lambda: worker, [])
    loop._worker = worker
    loop._outbox.add(worker.step())
    worker._saver._writer.submit(lambda: None).result()

    def broken() -> None:
        raise RuntimeError("dictionary changed size during iteration")

    monkeypatch.setattr(worker._endings, "stop", broken)
    loop.preempt("terminated (SIGTERM)")
    observation = loop.observe(0.0)
    assert {one.record.job_id for one in observation.reports if isinstance(one, CheckpointReport)} == set(NAMES[:3])
    assert observation.end is not None
    assert observation.end.kind is End.LOST
    assert "could be saved: RuntimeError: dictionary changed size" in observation.end.message


def test_one_job_that_cannot_be_copied_keeps_no_other_from_being_saved(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = worker_on(base, tmp_path, Disk())
    worker.step()
    worker._saver._writer.submit(lambda: None).result()
    worker.step()
    capture = saving.capture

    def refused(run: JobRun, **how: Any) -> JobSnapshot:
        if run.job_id == "two":
            raise MemoryError("no room for the copy")
        return capture(run, **how)

    monkeypatch.setattr(saving, "capture", refused)
    worker.runs()["two"].step += 1
    reports = worker.preempt()
    assert all(worker._saver.is_saved(run) for name, run in worker.runs().items() if name != "two")
    assert any(isinstance(one, LogReport) and "no room for the copy" in one.message for one in reports)
