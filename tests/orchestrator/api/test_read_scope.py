"""A token with `read: own` sees the jobs of its queues, and of no others not even that they are there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.records import JobState
from jobs.view import ClusterView, QueueView, SharerView, WorkerView
from orchestrator.api.app import build_app
from orchestrator.api.limits import Limits
from orchestrator.api.service import PREFIX
from orchestrator.api.tokens import Tokens
from orchestrator.journal import Journal
from tests.orchestrator.api.conftest import ALICE, BOB, Serve, Served, spec

THEIRS, OURS = "quarrystone", "ours"
SECRETS = (THEIRS, "secret-queue", "secret-label", "their/base", "other-sweep")
"""What stands in the other team's jobs and nowhere else."""
SWEEP = {"method": "grid", "parameters": {"lora.r": {"values": [2, 4]}}}

CALLS: dict[tuple[str, str], list[str]] = {
    ("GET", "/jobs"): ["/jobs", f"/jobs?q={THEIRS}", "/jobs?queue=secret-queue", "/jobs?owner=alice&sort=-ended"],
    ("GET", "/jobs/{job_id}"): ["/jobs/{job}"],
    ("GET", "/jobs/{job_id}/events"): ["/jobs/{job}/events"],
    ("GET", "/jobs/{job_id}/metrics"): ["/jobs/{job}/metrics"],
    ("GET", "/jobs/{job_id}/checkpoints"): ["/jobs/{job}/checkpoints"],
    ("GET", "/jobs/{job_id}/logs"): ["/jobs/{job}/logs", "/jobs/{job}/logs?tail=3"],
    ("GET", "/jobs/{job_id}/artifacts"): ["/jobs/{job}/artifacts"],
    ("GET", "/jobs/{job_id}/artifacts/{name}"): ["/jobs/{job}/artifacts/adapter.bin"],
    ("GET", "/jobs/{job_id}/stream"): ["/jobs/{job}/stream"],
    ("POST", "/jobs/{job_id}/cancel"): ["/jobs/{job}/cancel"],
    ("POST", "/jobs/{job_id}/pause"): ["/jobs/{job}/pause"],
    ("POST", "/jobs/{job_id}/resume"): ["/jobs/{job}/resume"],
    ("POST", "/jobs/{job_id}/retry"): ["/jobs/{job}/retry"],
    ("PATCH", "/jobs/{job_id}"): ["/jobs/{job}"],
    ("GET", "/events"): ["/events"],
    ("GET", "/stream"): ["/stream?after=0"],
    ("GET", "/sweeps"): ["/sweeps"],
    ("GET", "/sweeps/{sweep_id}"): ["/sweeps/{sweep}"],
    ("GET", "/timeline"): ["/timeline?seconds=604800"],
    ("GET", "/cluster"): ["/cluster"],
    ("GET", "/workers"): ["/workers"],
    ("GET", "/queues"): ["/queues"],
    ("POST", "/prune"): ["/prune"],
}
"""Every call that can tell of jobs."""
TELL_OF_NO_JOB = {
    ("POST", "/jobs"),
    ("POST", "/jobs:validate"),
    ("GET", "/caller"),
    # Of the service and its pages, which hold nothing until they have asked the calls above.
    *(
        ("GET", path)
        for path in ("/healthz", "/readyz", "/openapi.json", "/", "/ui", "/ui/{path:path}", "/ui/assets/{path:path}")
    ),
    # Of all queues, and only for who sees them.
    ("GET", "/metrics"),
}


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    path = tmp_path / "tokens.yaml"
    path.write_text(f"- {{name: alice, token: {ALICE}}}\n- {{name: bob, token: {BOB}, queues: [night], read: own}}\n")
    path.chmod(0o600)
    return Tokens.read(path)


def worker(number: int, job_id: str, base: str) -> WorkerView:
    return WorkerView(
        id=f"w{number}", node=None, device="cpu", base=base, state="up", memory=None,
        sharers=(SharerView(job_id=job_id, name=job_id, adapter_bytes=1, share=0.5),), waiting=0, utilization=None,
        tokens_per_second=None, since_unix_seconds=0.0,
    )  # fmt: skip


@pytest.fixture
def served(serve: Serve, tokens: Tokens) -> Served:
    """Alice's job and sweep in a queue that Bob does not see, and one of each in his."""
    queues = [QueueView(name=name, weight=1.0, quota=None, share=0.5) for name in ("night", "secret-queue")]
    view = ClusterView(
        published_unix_seconds=1.0, executor="test", nodes=1, devices=2, devices_in_use=2,
        workers=(worker(1, THEIRS, "their/base"), worker(2, OURS, "some/model")), queues=tuple(queues),
        utilization=0.5, tokens_per_second=1.0,
    )  # fmt: skip
    made = serve(tokens=tokens, cluster=lambda: view, limits=Limits(stream_seconds=0.05), now=lambda: 1000.0)
    with made.http(headers={"Authorization": f"Bearer {ALICE}"}) as alice:
        for name, queue, model, sweep in (
            (THEIRS, "secret-queue", "their/base", "other-sweep"),
            (OURS, "night", "some/model", "our-sweep"),
        ):
            one = spec(
                name,
                scheduling={"queue": queue},
                model={"model_name_or_path": model},
                labels={"kept": "secret-label" if name == THEIRS else "x"},
            )
            assert alice.post("/jobs", json=one).status_code == 201
            assert alice.post("/jobs", json=one | {"name": sweep, "sweep": SWEEP}).status_code == 201
            attempt = made.run(name)
            made.checkpoint(name, attempt, step=3)
            made.publish(name, attempt, {"adapter.bin": b"x", "manifest.json": b"{}"})
            log = made.data_dir / "logs" / f"{name}.log"
            log.parent.mkdir(exist_ok=True)
            log.write_text(f"a line of {name}\n")
    return made


def bob(served: Served) -> httpx.Client:
    return served.http(headers={"Authorization": f"Bearer {BOB}"})


def call(http: httpx.Client, method: str, path: str) -> httpx.Response:
    body = {"PATCH": {"priority": 1}, "POST": {} if "prune" not in path else {"jobs_older_than_seconds": 0.0}}
    options: dict[str, Any] = {"json": body[method]} if method in body else {}
    return http.request(method, path, **options)


def sweep_of(served: Served, queue: str) -> str:
    with served.http(headers={"Authorization": f"Bearer {ALICE}"}) as http:
        [first, *_] = [one for one in http.get("/jobs", params={"queue": queue}).json()["jobs"] if one["sweep_id"]]
    return first["sweep_id"]


def test_no_call_tells_of_jobs_that_a_token_does_not_see(served: Served) -> None:
    theirs = sweep_of(served, "secret-queue")
    with bob(served) as http:
        for (method, route), paths in CALLS.items():
            for path in paths:
                answer = call(http, method, path.format(job=THEIRS, sweep=theirs))
                told = answer.text.replace(path, "")
                if "{" in route:
                    assert answer.status_code == 404, route
                    # As of a job that never was; what was asked for is repeated.
                    never = call(http, method, path.format(job="neverwas", sweep="sweep-0"))
                    assert never.text.replace("neverwas", THEIRS).replace("sweep-0", theirs) == answer.text
                    continue
                assert answer.status_code in (200, 403), route
                assert not [one for one in (*SECRETS, theirs) if one in told], route
        assert http.get(served.url + "/metrics").status_code == 403


def test_its_own_jobs_a_token_sees_in_every_call(served: Served) -> None:
    ours = sweep_of(served, "night")
    with bob(served) as http:
        for (method, route), paths in CALLS.items():
            if method != "GET":
                continue
            path = paths[0].format(job=OURS, sweep=ours)
            answer = call(http, method, path)
            assert answer.status_code == 200, route
            if route.startswith("/jobs/") and route.endswith(("metrics", "checkpoints", "{name}")):
                continue
            assert any(one in answer.text for one in ("night", OURS, "our-sweep")), route
        waiting = next(one["id"] for one in http.get("/jobs").json()["jobs"] if one["sweep_id"])
        assert call(http, "PATCH", f"/jobs/{waiting}").json()["priority"] == 1
        assert http.get("/caller").json() == {"name": "bob", "queues": ["night"], "read": "own"}
        assert [one["base"] for one in http.get("/workers").json()["workers"]] == ["of another queue", "some/model"]


def test_an_answer_that_is_kept_for_all_who_ask_is_not_given_to_who_may_not_see_it(served: Served) -> None:
    for path in ("/jobs", "/cluster", "/queues", "/timeline?seconds=604800", "/sweeps"):
        with served.http(headers={"Authorization": f"Bearer {ALICE}"}) as http:
            whole = http.get(path).text
        with bob(served) as http:
            part = http.get(path).text
        assert any(one in whole for one in SECRETS)
        assert not [one for one in SECRETS if one in part]


def test_a_job_that_is_moved_to_another_queue_is_gone_for_who_sees_the_first(served: Served) -> None:
    with served.http(headers={"Authorization": f"Bearer {ALICE}"}) as http:
        moved = next(one["id"] for one in http.get("/jobs", params={"queue": "night"}).json()["jobs"])
        assert http.patch(f"/jobs/{moved}", json={"queue": "secret-queue"}).status_code == 200
    with bob(served) as http:
        assert http.get(f"/jobs/{moved}").status_code == 404
        assert moved not in http.get("/events").text
        assert moved not in http.get("/stream?after=0").text


def test_a_name_that_others_bear_too_is_no_question_for_who_does_not_see_them(served: Served) -> None:
    with served.http(headers={"Authorization": f"Bearer {ALICE}"}) as http:
        http.post("/jobs", json=spec("shared", scheduling={"queue": "secret-queue"}))
    with bob(served) as http:
        assert http.post("/jobs", json=spec("shared", scheduling={"queue": "night"})).status_code == 201
        assert http.get("/jobs/shared").json()["queue"] == "night"


def routes_of(routes: Iterable[Any]) -> Iterator[Any]:
    """Routers keep theirs to themselves."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        yield from routes_of(inner.routes) if inner is not None else (route,)


def test_every_call_of_the_api_is_looked_at_above(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.db") as journal:
        app = build_app(journal, lambda: None, data_dir=tmp_path)
        known = {
            (method, route.path.removeprefix(PREFIX))
            for route in routes_of(app.routes)
            for method in (getattr(route, "methods", None) or {"GET"}) - {"HEAD", "OPTIONS"}
        }
    assert known == CALLS.keys() | TELL_OF_NO_JOB


def test_without_read_a_token_sees_all_as_before(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "tokens.yaml"
    path.write_text(f"- {{name: alice, token: {ALICE}}}\n- {{name: bob, token: {BOB}, queues: [night]}}\n")
    path.chmod(0o600)
    served = serve(tokens=Tokens.read(path))
    with served.http(headers={"Authorization": f"Bearer {ALICE}"}) as http:
        http.post("/jobs", json=spec(THEIRS))
    served.end(THEIRS, JobState.CANCELLED)
    with bob(served) as http:
        assert http.get(f"/jobs/{THEIRS}").json()["state"] == "CANCELLED"
        assert http.get(served.url + "/metrics").status_code == 200
