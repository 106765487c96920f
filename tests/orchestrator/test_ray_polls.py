"""A Ray or a worker that cannot be asked is reported, and lost after a limit."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.clusters import End, Observation
from orchestrator.clusters import ray_service as service_module
from orchestrator.clusters import ray_workers as workers_module
from orchestrator.clusters.ray_service import RayService
from orchestrator.clusters.ray_workers import Handle, RayWorkers


class Actor:
    """Answers under its own name, as a reference."""

    def __init__(self, name: str) -> None:
        self.observe = SimpleNamespace(remote=lambda *_: name)


@pytest.fixture
def ray_of(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What each worker answers, by its name: an observation or an error."""
    answers: dict[str, Any] = {}

    def get(ref: str) -> Observation:
        if isinstance(answers[ref], Exception):
            raise answers[ref]
        return answers[ref]

    monkeypatch.setattr(workers_module.ray, "get", get)
    monkeypatch.setattr(workers_module.ray, "wait", lambda refs, **_: (refs, []))
    monkeypatch.setattr(workers_module.ray, "kill", lambda *_, **__: None)
    return answers


def observed(worker_id: str) -> Observation:
    return Observation(worker_id=worker_id, reports=(), status=None)


@pytest.mark.parametrize("error", [ValueError("bad pickle"), RuntimeError("x"), ModuleNotFoundError("No module")])
def test_a_worker_whose_answers_cannot_be_read_is_lost_after_three_and_its_neighbour_is_heard(
    ray_of: dict[str, Any], error: Exception
) -> None:
    said: list[str] = []
    workers = RayWorkers(lease_seconds=60.0, say=said.append)
    workers._workers = {name: Handle(Actor(name)) for name in ("w0", "w1")}
    ray_of |= {"w0": error, "w1": observed("w1")}
    for number in (1, 2):
        assert [one.worker_id for one in workers.poll(0.0)] == ["w1"]
        assert len(said) == number
    found = {one.worker_id: one.end for one in workers.poll(0.0)}
    assert found["w1"] is None
    end = found["w0"]
    assert end is not None
    assert end.kind is End.LOST
    assert "3 times in a row" in end.message
    assert str(error) in end.message
    assert [one.worker_id for one in workers.poll(0.0)] == ["w1"]


def test_one_that_answers_in_between_is_not_lost(ray_of: dict[str, Any]) -> None:
    workers = RayWorkers(lease_seconds=60.0)
    workers._workers = {"w0": Handle(Actor("w0"))}
    for _ in range(4):
        for answer in (ValueError("x"), ValueError("x"), observed("w0")):
            ray_of["w0"] = answer
            assert all(one.end is None for one in workers.poll(0.0))


class Joined(RayService):
    """Without a Ray."""

    def _join(self) -> None:
        self._nodes = SimpleNamespace(look=self._look)  # type: ignore[assignment]

    def _look(self) -> bool:
        raise RuntimeError("the GCS does not know")

    def _is_there(self) -> bool:
        return True


def test_a_ray_that_cannot_be_asked_is_told_of_and_after_a_lease_all_its_workers_are_lost(
    ray_of: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, said = [1000.0], list[str]()
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    service = Joined("0a", address="127.0.0.1:1", lease_seconds=60.0, say=said.append)
    service._workers = {name: Handle(Actor(name)) for name in ("w0", "w1")}
    for _ in range(service_module._MOST_FAILED_POLLS + 5):
        assert service.poll(0.0) == []
        clock[0] += 1.0
    assert len(said) == 1
    assert "the GCS does not know" in said[0]
    clock[0] += 60.0
    ends = {one.worker_id: one.end for one in service.poll(0.0)}
    assert {name: end.kind for name, end in ends.items() if end is not None} == {"w0": End.LOST, "w1": End.LOST}
    assert "taken for lost" in said[1]
