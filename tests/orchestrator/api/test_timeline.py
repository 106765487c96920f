from __future__ import annotations

import posixpath
import re
import threading

from jobs.records import JobState
from orchestrator.api.shared_answers import SharedAnswers
from orchestrator.api.tokens import Tokens
from tests.orchestrator.api.conftest import ALICE, BOB, Serve, Served, spec


def test_the_timeline_tells_who_was_on_which_worker_and_when(serve: Serve) -> None:
    served = serve(now=lambda: 10_000.0)
    with served.http() as http:
        http.post("/jobs", json=[spec(name) for name in ("old", "ended", "running", "waiting")])
        for job, at in (("old", 1000.0), ("ended", 9000.0), ("running", 9500.0)):
            served.run(job, at=at)
        served.end("old", at=2000.0)
        served.end("ended", at=9600.0)
        found = http.get("/timeline", params={"seconds": 3600}).json()
    assert (found["since_unix_seconds"], found["until_unix_seconds"], found["is_whole"]) == (6400.0, 10_000.0, True)
    assert found["spans"] == [
        {
            "job_id": "running", "name": "running", "state": "RUNNING", "attempt": 1, "worker_id": "w1", "node": None,
            "started_unix_seconds": 9500.0, "ended_unix_seconds": None, "why": None,
        },
        {
            "job_id": "ended", "name": "ended", "state": "FAILED", "attempt": 1, "worker_id": "w1", "node": None,
            "started_unix_seconds": 9000.0, "ended_unix_seconds": 9600.0, "why": "test",
        },
    ]  # fmt: skip


def test_sweeps_are_listed_newest_first_with_the_states_of_their_jobs(served: Served) -> None:
    values = {"parameters": {"lora.r": {"values": [2, 4, 8]}}}
    with served.http() as http:
        for name in ("first", "second-try"):
            http.post("/jobs", json=spec(name, sweep=values)).raise_for_status()
        http.post("/jobs", json=spec("alone"))
        served.end("first-002", JobState.CANCELLED)
        found = http.get("/sweeps").json()["sweeps"]
        assert http.get(f"/sweeps/{found[1]['id']}").json()["states"] == found[1]["states"]
    assert [(one["name"], one["states"]) for one in found] == [
        ("second-try", {"PENDING": 3}),
        ("first", {"PENDING": 2, "CANCELLED": 1}),
    ]
    assert found[0]["submitted_unix_seconds"] >= found[1]["submitted_unix_seconds"] > 0


def test_callers_are_told_what_they_may_do(serve: Serve, tokens: Tokens) -> None:
    with serve(tokens=tokens).http() as http:
        said = [http.get("/caller", headers={"Authorization": f"Bearer {token}"}).json() for token in (ALICE, BOB)]
        assert http.get("/caller").status_code == 401
    assert said == [
        {"name": "alice", "queues": None, "read": "all"},
        {"name": "bob", "queues": ["night"], "read": "all"},
    ]
    with serve(folder="open").http() as http:
        assert http.get("/caller").json() == {"name": None, "queues": None, "read": "all"}


def test_an_answer_is_made_once_while_it_is_fresh() -> None:
    now, made = [0.0], []
    answers = SharedAnswers[int](keep_seconds=2.0, now=lambda: now[0])

    def make() -> int:
        made.append(now[0])
        return len(made)

    def fail() -> int:
        raise OSError("away")

    assert [answers.get("a", make), answers.get("a", make), answers.get("b", make)] == [1, 1, 2]
    now[0] = 1.9
    assert answers.get("a", make) == 1
    now[0] = 2.0
    assert answers.get("a", make) == 3
    now[0] = 4.0
    try:
        answers.get("a", fail)
    except OSError:
        assert answers.get("a", make) == 4
    assert made == [0.0, 0.0, 2.0, 4.0]


def test_who_asks_the_same_waits_for_one_answer_and_nobody_else_waits() -> None:
    answers = SharedAnswers[str](keep_seconds=1000.0)
    began, may_end, got = threading.Event(), threading.Event(), []

    def slow() -> str:
        began.set()
        assert may_end.wait(60)
        return "slow"

    asking = [threading.Thread(target=lambda: got.append(answers.get("a", slow))) for _ in range(4)]
    asking[0].start()
    assert began.wait(60)
    for thread in asking[1:]:
        thread.start()
    assert answers.get("b", lambda: "quick") == "quick"
    may_end.set()
    for thread in asking:
        thread.join(60)
    assert got == ["slow"] * 4


def test_pages_are_for_everybody_and_under_a_policy(serve: Serve, tokens: Tokens) -> None:
    served = serve(tokens=tokens)
    root = served.url
    with served.http(follow_redirects=False) as http:
        front = http.get(f"{root}/")
        assert (front.status_code, front.headers["location"]) == (307, "/ui/")
        pages = [http.get(f"{root}{path}") for path in ("/ui/", "/ui", "/ui/jobs/some-job", "/ui/sweeps/x")]
        assert len({page.content for page in pages}) == 1
        assert all(page.status_code == 200 for page in pages)
        script = http.get(f"{root}/ui/assets/app/main.js")
        assert script.headers["content-type"].startswith("text/javascript")
        assert script.headers["content-encoding"] == "gzip"
        again = http.get(f"{root}/ui/assets/app/main.js", headers={"If-None-Match": script.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        for answer in (*pages, script):
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert not {"unsafe", "eval", "http:", "https:", "*"} & set(policy.replace("-", " ").split())
            assert answer.headers["x-frame-options"] == "DENY"
            assert answer.headers["x-content-type-options"] == "nosniff"
        # Nothing but what a page needs, and nothing beside it.
        for path in ("__init__.py", "index.html", "app/../__init__.py", "..%2f..%2fpyproject.toml", "app/%2e%2e/x"):
            assert http.get(f"{root}/ui/assets/{path}").status_code == 404
        assert http.get("/jobs").status_code == 401


def test_every_file_that_the_page_names_is_there(served: Served) -> None:
    with served.http() as http:
        page = http.get(f"{served.url}/ui/").text
        named = re.findall(r'(?:src|href)="([^"]+)"', page)
        assert len(named) > 6
        seen: set[str] = set()
        todo = [name for name in named if name.startswith("/")]
        while todo:
            path = todo.pop()
            if path in seen:
                continue
            seen.add(path)
            answer = http.get(f"{served.url}{path}")
            assert answer.status_code == 200, path
            if path.endswith(".js") and "/vendor/" not in path:
                for other in re.findall(r'from "(\.[^"]+)"', answer.text):
                    todo.append(posixpath.normpath(f"{posixpath.dirname(path)}/{other}"))
        assert any("parts/device.js" in path for path in seen)
