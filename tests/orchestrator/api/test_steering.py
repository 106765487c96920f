from __future__ import annotations

import pytest

from jobs.records import Desired, JobState
from tests.orchestrator.api.conftest import Served, spec


@pytest.mark.parametrize(
    "verb, desired", [("cancel", Desired.CANCEL), ("pause", Desired.PAUSE), ("resume", Desired.RUN)]
)
def test_a_verb_states_a_wish_and_twice_is_once(served: Served, verb: str, desired: Desired) -> None:
    with served.http() as http:
        http.post("/jobs", json=spec("a"))
        served.run("a")
        served.woken.clear()
        for _ in range(3):
            answer = http.post(f"/jobs/a/{verb}")
            assert answer.status_code == 200
            assert answer.json()["desired"] == desired.value
            assert answer.json()["state"] == "RUNNING"
        changes = 0 if desired is Desired.RUN else 1
        assert len(served.woken) == changes
        assert len(http.get("/jobs/a/events").json()["events"]) == 3 + changes


def test_what_has_ended_cannot_be_paused_but_retried(served: Served) -> None:
    with served.http() as http:
        http.post("/jobs", json=spec("a"))
        served.end("a")
        for verb in ("cancel", "pause", "resume"):
            answer = http.post(f"/jobs/a/{verb}")
            assert answer.status_code == 409
            assert "retry it first" in answer.json()["detail"]
        for _ in range(2):
            answer = http.post("/jobs/a/retry")
            assert answer.status_code == 200
            assert (answer.json()["state"], answer.json()["reason"]) == ("PENDING", "retry")
        http.post("/jobs/a/cancel")
        served.end("a", JobState.CANCELLED)
        assert http.post("/jobs/a/cancel").json()["state"] == "CANCELLED"


def test_priority_and_queue_can_be_changed(served: Served) -> None:
    with served.http() as http:
        http.post("/jobs", json=spec("a"))
        for _ in range(2):
            answer = http.patch("/jobs/a", json={"priority": 7, "queue": "night"})
            assert (answer.json()["priority"], answer.json()["queue"]) == (7, "night")
        assert len(http.get("/jobs/a/events").json()["events"]) == 2
        for wrong in (
            {}, {"priority": None}, {"priority": 2**31}, {"priority": "7"}, {"priority": True}, {"priority": 1.5},
            {"queue": "A"}, {"queue": "../x"}, {"state": "FAILED"}, [], "x", {"queue": "x\n"},
        ):  # fmt: skip
            assert http.patch("/jobs/a", json=wrong).status_code == 422, wrong
        assert http.patch("/jobs/a", content=b"{").status_code == 422
        assert http.patch("/jobs/none", json={"priority": 1}).status_code == 404


def test_an_order_by_name_never_reaches_a_job_that_is_past_it(served: Served) -> None:
    """The id of a name's first job is the name itself, so an ended job would be hit, or one that nobody meant."""
    with served.http() as http:
        for _ in range(2):
            http.post("/jobs", json=spec("a"))
        # Two live ones: the id is clear.
        assert http.post("/jobs/a/pause").json()["id"] == "a"
        served.run("a")
        served.end("a", JobState.CANCELLED)
        for answer in (
            http.post("/jobs/a/cancel"),
            http.post("/jobs/a/pause"),
            http.patch("/jobs/a", json={"priority": 1}),
        ):
            assert answer.status_code == 409
            assert answer.json()["type"].endswith("ambiguous-name")
            assert "say which by its id: a.2, a" in answer.json()["detail"]
        assert http.get("/jobs/a.2").json()["desired"] == "run"
        assert http.post("/jobs/a.2/cancel").json()["desired"] == "cancel"
        # The first one is the one that can be retried.
        assert http.post("/jobs/a/retry").json()["id"] == "a"
        served.run("a")
        served.run("a.2")
        served.end("a.2", JobState.FAILED)
        served.journal.remove_ended(["a.2"])
        http.post("/jobs", json=spec("b"))
        http.post("/jobs", json=spec("b"))
        served.run("b")
        served.end("b", JobState.FAILED)
        served.journal.remove_ended(["b"])
        # The id is gone with its job: the name is clear.
        assert http.post("/jobs/b/cancel").json()["id"] == "b.2"
        # Nobody else can be meant.
        served.end("b.2", JobState.CANCELLED)
        assert http.post("/jobs/b.2/cancel").json()["state"] == "CANCELLED"
