from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import httpx

from jobs.records import JobState
from orchestrator.api.limits import Limits
from orchestrator.client import Client
from tests.machine import free_port
from tests.orchestrator.api.conftest import Serve, Served, spec


def read(stream: httpx.Response | Iterator[str], count: int) -> list[dict[str, object]]:
    """The first events of a stream."""
    found: list[dict[str, object]] = []
    for line in stream.iter_lines() if isinstance(stream, httpx.Response) else stream:
        if line.startswith("data: "):
            found.append(json.loads(line.removeprefix("data: ")))
            if len(found) == count:
                break
    return found


def test_a_stream_goes_on_after_the_last_event_seen(served: Served) -> None:
    with served.http() as http:
        http.post("/jobs", json=[spec("a"), spec("b")])
        served.run("a")
        with http.stream("GET", "/jobs/a/stream") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            events = read(response, 3)
        assert [event["reason"] for event in events] == ["submitted", "placed", "admitted"]
        served.run("b")
        served.end("a")
        for headers, params in (
            ({"Last-Event-ID": str(events[1]["sequence"])}, {}),
            ({"Last-Event-ID": str(events[1]["sequence"])}, {"after": 0}),
            ({}, {"after": events[1]["sequence"]}),
        ):
            with http.stream("GET", "/jobs/a/stream", headers=headers, params=params) as response:
                assert [event["state"] for event in read(response, 2)] == ["RUNNING", "FAILED"]
        with http.stream("GET", "/stream", params={"after": 0}) as response:
            assert len({event["sequence"] for event in read(response, 7)}) == 7


def test_what_happens_while_a_stream_is_open_comes_once_and_in_order(served: Served) -> None:
    with served.http() as http:
        http.post("/jobs", json=[spec("a"), spec("b")])

        def write() -> None:
            for number in range(600):
                served.journal.steer("ab"[number % 2], priority=number + 1, by=None, at=1.0)

        writer = threading.Thread(target=write)
        with http.stream("GET", "/stream") as everything, http.stream("GET", "/jobs/b/stream") as of_b:
            lines = everything.iter_lines()
            assert next(lines).startswith("retry")
            writer.start()
            all_events = read(lines, 600)
            b_events = read(of_b, 301)
        writer.join()
        sequences = [event["sequence"] for event in all_events]
        assert sequences == sorted(set(sequences))
        assert len(b_events) == 301
        assert {event["job_id"] for event in b_events} == {"b"}


def test_a_silent_stream_says_that_it_lives_and_ends_in_time(serve: Serve) -> None:
    served = serve(limits=Limits(heartbeat_seconds=0.05, stream_seconds=3.0))
    with served.http() as http:
        http.post("/jobs", json=spec("a"))
        with http.stream("GET", "/jobs/a/stream") as response:
            text = "".join(response.iter_text())
    assert text.startswith("retry: ")
    assert ": heartbeat\n\n" in text
    assert text.count("data: ") == 1


def test_many_streams_and_no_more(serve: Serve) -> None:
    served = serve(limits=Limits(streams=120))
    with served.http(limits=httpx.Limits(max_connections=None)) as http, ExitStack() as stack:
        http.post("/jobs", json=spec("a"))
        streams = [stack.enter_context(http.stream("GET", "/jobs/a/stream")).iter_lines() for _ in range(120)]
        for stream in streams:
            assert len(read(stream, 1)) == 1
        with http.stream("GET", "/jobs/a/stream") as refused:
            assert refused.status_code == 503
            refused.read()
            assert refused.json()["type"].endswith("too-many-streams")
    # Those that were closed make room.
    with served.http() as http:
        for _ in range(200):
            with http.stream("GET", "/jobs/a/stream") as response:
                if response.status_code == 200:
                    return
    raise AssertionError("no stream was let go")


def test_a_client_follows_across_a_restart_and_misses_nothing(serve: Serve) -> None:
    port = free_port()
    served = serve(port=port)
    found: list[tuple[int, str]] = []
    with Client(served.url, patience_seconds=60) as client:
        client.submit(spec("a"))
        stream = client.follow("a")
        found += [(event.sequence, event.reason) for event in (next(stream),)]
        served.run("a")
        served.server.stop()
        served.journal.close()
        again = serve(port=port)
        again.end("a")
        found += [(event.sequence, event.reason) for event in (next(stream), next(stream), next(stream))]
    assert [reason for _, reason in found] == ["submitted", "placed", "admitted", "test"]
    assert [sequence for sequence, _ in found] == [1, 2, 3, 4]


def test_waiting_ends_with_the_last_job(served: Served) -> None:
    with served.client() as client:
        client.submit([spec(name) for name in "abc"])
        served.end("a")

        def end() -> None:
            served.run("b")
            served.end("c", JobState.CANCELLED)
            served.end("b")
            served.journal.retry("b", by=None, at=1.0)
            served.end("b", JobState.CANCELLED)

        ender = threading.Timer(0.3, end)
        ender.start()
        ended = {one.id: one.state for one in client.wait(["a", "b", "c"]) if hasattr(one, "spec")}
        ender.join()
        assert set(ended) == {"a", "b", "c"}
        assert ended["a"] == "FAILED"
        assert ended["c"] == "CANCELLED"
        assert [one.id for one in client.wait(["a"]) if hasattr(one, "spec")] == ["a"]
