"""A job that fails while a save of it is on its way to a store trains no more, holds up nobody, and keeps the save."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.errors import DataError
from jobs.records import Assignment, CheckpointReport, JobState, LogReport, Report
from tests.stores import claimed
from tests.workers.test_stored_jobs import DATA, ended, faults_of, spec_of, states_of, stepped, worker_in
from workers.lane import Lane
from workers.worker import Worker


class HeldStore:
    """Lets nothing of a job through until it may, and knows how often a lane was asked meanwhile."""

    def __init__(self) -> None:
        self.lets_through = threading.Event()
        self.ran = 0


@pytest.fixture
def held(make_root: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A worker with two jobs, and a store that holds the first upload of one of them."""
    uri = make_root("memory")
    claimed(uri)
    worker, store = worker_in(tmp_path, uri, num_lanes=1), HeldStore()

    def wait(number: int, request: str, name: str) -> None:
        if request == "put_file":
            assert store.lets_through.wait(60)

    faults_of(worker).fails = wait
    worker.assign([Assignment(job_id="moved", spec=spec_of("moved", save_steps=2, max_steps=40))])
    worker.assign([Assignment(job_id="other", spec=spec_of("other", max_steps=40))])
    original = Lane.train

    def counted(self: Lane, *args: Any, **kwargs: Any) -> Any:
        store.ran += 1
        if store.ran >= 500:
            # No `Exception`, which would be taken for the job's own.
            pytest.fail("the worker runs one micro-batch again and again")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Lane, "train", counted)
    stepped(worker, lambda _: worker._saver.is_under_way("moved"))
    yield worker, store
    store.lets_through.set()
    worker._saver._writer.shutdown()


def breaks(worker: Worker, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every micro-batch of `moved` raise from now on."""
    mine = worker.runs()["moved"].adapter.factors
    original = Lane.train

    def train(self: Lane, rows: Any, segments: Any, *args: Any, **kwargs: Any) -> Any:
        losses = original(self, rows, segments, *args, **kwargs)
        if any(segment.path[0] is mine for segment in segments):
            raise error
        return losses

    monkeypatch.setattr(Lane, "train", train)


def steps_in(worker: Worker, num_rounds: int) -> list[Report]:
    return [report for _ in range(num_rounds) for report in worker.step()]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("a row that no kernel likes"), "error"),
        (torch.OutOfMemoryError("CUDA out of memory"), "memory"),
        (DataError("rows.jsonl: row 7"), "data"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_it_ends_when_its_save_is_in_the_store_and_its_neighbour_trains_meanwhile(
    held: tuple[Worker, HeldStore], error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, store = held
    breaks(worker, error, monkeypatch)
    before = worker.runs()["other"].step, store.ran
    reports = steps_in(worker, 9)
    assert "moved" in worker._jobs.failing
    assert states_of("moved", reports) == []
    assert worker.runs()["other"].step == before[0] + 3
    assert store.ran <= before[1] + 9 + 3, "what has failed was run again"
    store.lets_through.set()
    reports += stepped(worker, ended("moved"))
    order = [one for one in reports if one.job_id == "moved" and not isinstance(one, LogReport)]
    assert [type(one).__name__ for one in order] == ["CheckpointReport", "StateReport"]
    assert states_of("moved", reports) == [(JobState.FAILED, reason)]
    reports += stepped(worker, ended("other"))
    assert states_of("other", reports)[-1] == (JobState.SUCCEEDED, "finished")


def test_told_to_stop_meanwhile_the_worker_saves_the_others_and_reports_save_and_failure(
    held: tuple[Worker, HeldStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, store = held
    breaks(worker, ValueError("its own fault"), monkeypatch)
    steps_in(worker, 1)
    told: list[Report] = []
    stopping = threading.Thread(target=lambda: told.extend(worker.preempt()), daemon=True)
    stopping.start()
    store.lets_through.set()
    stopping.join(60)
    assert not stopping.is_alive()
    assert {one.job_id for one in told if isinstance(one, CheckpointReport)} == set(DATA)
    assert states_of("moved", told) == [(JobState.FAILED, "error")]


def test_a_save_that_fails_meanwhile_pauses_nobody_who_is_about_to_end(
    held: tuple[Worker, HeldStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, store = held
    breaks(worker, ValueError("its own fault"), monkeypatch)
    reports = steps_in(worker, 1)
    faults_of(worker).fails = lambda number, request, name: (
        PermissionError("AccessDenied") if request == "put_file" else None
    )
    store.lets_through.set()
    reports += stepped(worker, ended("moved"))
    assert states_of("moved", reports) == [(JobState.FAILED, "error")]
