from __future__ import annotations

from dataclasses import replace

from jobs.ledger import Ledger, Usage
from jobs.records import JobProgress, JobState
from orchestrator.journal import MetricPoint
from tests.orchestrator.api.conftest import Serve, Served, spec


def test_lists_are_filtered_sorted_and_cut_into_parts(served: Served) -> None:
    with served.http() as http:
        specs = [
            spec(f"job-{n:02d}", labels={"team": "ab"[n % 2]}, scheduling={"priority": n % 3, "queue": "ab"[n % 2]})
            for n in range(20)
        ]
        assert http.post("/jobs", json=specs).status_code == 201
        for n in range(0, 20, 4):
            served.journal.change(f"job-{n:02d}", attempt=None, state=JobState.FAILED, reason="x", message="x", at=n)

        def ids(**which: object) -> list[str]:
            found, after = [], None
            while True:
                params = {"limit": 3, **which, **({} if after is None else {"after": after})}
                page = http.get("/jobs", params=params).json()
                found += [job["id"] for job in page["jobs"]]
                assert len(page["jobs"]) <= 3
                after = page["after"]
                if after is None:
                    return found

        every = [f"job-{n:02d}" for n in range(20)]
        assert ids(sort="submitted") == every
        assert ids() == every[::-1]
        assert ids(sort="name", label="team=a") == every[::2]
        assert ids(sort="name", queue="b") == every[1::2]
        assert ids(sort="name", state=["FAILED"]) == every[::4]
        assert ids(sort="name", state=["FAILED", "PENDING"]) == every
        assert ids(sort="name", q="B-1") == every[10:]
        assert ids(sort="-priority")[:6] == ["job-17", "job-14", "job-11", "job-08", "job-05", "job-02"]
        assert ids(sort="ended", state="FAILED") == every[::4]
        assert ids(label=["team=a", "team=a"], q="job-0", sort="name") == every[:10:2]
        cursor = http.get("/jobs", params={"limit": 3}).json()["after"]
        for wrong in (
            {"after": "x"}, {"after": cursor, "sort": "name"}, {"limit": 0}, {"limit": 1001}, {"sort": "x"},
            {"state": "NO"}, {"label": "x"}, {"label": ["a=b", "a=c"]},
        ):  # fmt: skip
            answer = http.get("/jobs", params=wrong)
            assert answer.status_code == 422, wrong
            assert answer.json()["detail"]


def test_details_events_metrics_and_checkpoints(served: Served) -> None:
    with served.http() as http:
        http.post("/jobs", json=spec("a", lora={"r": 3}))
        attempt = served.run("a")
        served.checkpoint("a", attempt, step=3)
        served.journal.record_metrics(
            [
                MetricPoint(job_id="a", step=n, kind="train", values={"loss": 1 / n, "grad_norm": float("nan")})
                for n in range(1, 8)
            ]
        )
        job = http.get("/jobs/a").json()
        assert (job["state"], job["spec"]["lora"]["r"], job["progress"]["step"]) == ("RUNNING", 3, 3)
        assert [(one["number"], one["worker_id"], one["is_open"]) for one in job["attempts"]] == [(1, "w1", True)]
        page = http.get("/jobs/a/events", params={"limit": 2}).json()
        assert [event["reason"] for event in page["events"]] == ["submitted", "placed"]
        rest = http.get("/jobs/a/events", params={"after": page["after"]}).json()
        assert [event["reason"] for event in rest["events"]] == ["admitted"]
        assert len(http.get("/events").json()["events"]) == 3
        points = http.get("/jobs/a/metrics", params={"limit": 3}).json()
        assert [point["step"] for point in points["metrics"]] == [1, 2, 3]
        assert points["metrics"][0]["values"] == {"loss": 1.0, "grad_norm": None}
        later = http.get("/jobs/a/metrics", params={"after_step": points["after_step"]}).json()
        assert [point["step"] for point in later["metrics"]] == [4, 5, 6, 7]
        [checkpoint] = http.get("/jobs/a/checkpoints").json()["checkpoints"]
        assert (checkpoint["step"], checkpoint["problem"]) == (3, None)


def test_what_is_not_there_is_404_and_names_that_several_bear_are_409(served: Served) -> None:
    with served.http() as http:
        http.post("/jobs", json=spec("a"))
        http.post("/jobs", json=spec("a"))
        http.post("/jobs/a/cancel")
        for below in ("", "/events", "/metrics", "/checkpoints", "/logs", "/artifacts", "/stream"):
            assert http.get(f"/jobs/none{below}").status_code == 404
        for wrong in ("..", "%2e%2e%2fetc", "A", "a%00", "a b", "x" * 200, "a/../b"):
            assert http.get(f"/jobs/{wrong}").status_code in (404, 422), wrong
        assert http.get("/jobs/a").status_code == 200
        answer = http.delete("/jobs/a")
        assert answer.status_code == 405
        assert answer.json()["type"].endswith("method-not-allowed")


def test_queues_count_what_is_in_them(served: Served) -> None:
    with served.http() as http:
        http.post("/jobs", json=[spec("a"), spec("b", scheduling={"queue": "night"})])
        queues = {one["name"]: one["states"] for one in http.get("/queues").json()["queues"]}
        assert queues == {"default": {"PENDING": 1}, "night": {"PENDING": 1}}
        assert http.get("/workers").json() == {"workers": []}
        assert http.get("/cluster").json()["devices"] == 0


def test_what_a_job_has_cost_is_told_also_while_it_waits(serve: Serve) -> None:
    served = serve(now=lambda: 1060.0)
    spent = Usage(device_seconds=90.0, tokens=5000, label_tokens=2000, padding_tokens=7, checkpoint_seconds=3.0)
    ledger = Ledger(recoveries=1, waiting_seconds=30.0).heard(
        1, replace(spent, round_seconds=200.0, alone_seconds=80.0)
    )
    with served.http() as http:
        http.post("/jobs", json=[spec("a"), spec("b")])
        served.run("a", at=1000.0)
        served.journal.record_progress({"a": JobProgress(step=3, ledger=ledger)})
        assert http.get("/jobs/a").json()["ledger"] == {
            "device_seconds": 90.0, "tokens": 5000, "label_tokens": 2000, "padding_tokens": 7,
            "waiting_seconds": 30.0, "checkpoint_seconds": 3.0, "recoveries": 1, "slowdown": 2.5,
        }  # fmt: skip
        # Nobody has placed b yet, and its wait goes on.
        fresh = http.get("/jobs", params={"q": "b"}).json()["jobs"][0]["ledger"]
        assert (fresh["waiting_seconds"], fresh["device_seconds"], fresh["slowdown"]) == (0.0, 0.0, None)
        served.journal.end_attempt(
            "a", attempt=1, state=JobState.PENDING, reason="preempted", message="m", at=1020.0,
            progress=JobProgress(step=3, ledger=ledger.waits(1020.0)),
        )  # fmt: skip
        assert http.get("/jobs/a").json()["ledger"]["waiting_seconds"] == 70.0
