from __future__ import annotations

import http.server
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.errors import SpecError
from orchestrator.api.operator_models import PruneOrder
from orchestrator.api.tokens import Tokens
from orchestrator.client import Client, NotFoundError, RefusedError, ServiceError, UnauthorisedError, UnreachableError
from orchestrator.job_files import JobFiles
from tests.orchestrator.api.conftest import ALICE, Serve, Served, spec
from tests.stores import Faults


def test_errors_say_what_and_where(served: Served) -> None:
    with served.client() as client:
        with pytest.raises(SpecError) as caught:
            client.submit("name: a\nlora: {r: 0}\n")
        assert {problem.field for problem in caught.value.problems} == {"model", "datasets", "lora.r"}
        with pytest.raises(NotFoundError, match="there is no job none"):
            client.job("none")
        client.submit(spec("a"))
        client.submit(spec("a"))
        client.submit(spec("b"), key="k")
        with pytest.raises(RefusedError, match="idempotency key"):
            client.submit(spec("c"), key="k")
        with pytest.raises(RefusedError, match="no page of this list"):
            client.page(after="x")
        for error in (NotFoundError("x"), RefusedError(409, "unfit", "x"), UnreachableError("x")):
            assert str(pickle.loads(pickle.dumps(error))) == "x"


def test_tokens_come_from_the_environment(serve: Serve, tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    served = serve(tokens=tokens)
    monkeypatch.setenv("LORALOOM_URL", served.url + "/")
    monkeypatch.setenv("LORALOOM_TOKEN", ALICE)
    with Client() as client:
        assert client.submit(spec("a")).jobs[0].id == "a"
    monkeypatch.setenv("LORALOOM_TOKEN", "wrong")
    with Client() as client, pytest.raises(UnauthorisedError, match="not known"):
        client.job("a")
    monkeypatch.setenv("LORALOOM_TOKEN", "ü")
    with pytest.raises(UnauthorisedError, match="ASCII"):
        Client()


@pytest.mark.parametrize("url", ["", "ftp://x", "127.0.0.1:8400", "http://", "http://[", "http://x:y"])
def test_what_is_no_url_is_told_at_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServiceError, match="no URL"):
        Client(url)


def test_nobody_there_says_which_url_and_how_to_start_one() -> None:
    with Client("http://127.0.0.1:1", patience_seconds=0) as client:
        with pytest.raises(UnreachableError, match=r"http://127.0.0.1:1 .*loraloom serve"):
            client.job("a")
        with pytest.raises(UnreachableError):
            next(client.follow("a"))


@contextmanager
def answering(answers: list[tuple[int, bytes]]) -> Iterator[tuple[str, list[str]]]:
    """A server that gives these answers and then closes without one; and the keys that it was sent."""
    keys: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            keys.append(self.headers["Idempotency-Key"])
            if not answers:
                return
            status, body = answers.pop(0)
            if status == 0:
                self.connection.close()
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", keys
    finally:
        server.shutdown()
        server.server_close()


def test_a_submission_whose_answer_is_lost_is_made_again_with_its_key() -> None:
    good = b'{"jobs": [{"id": "a", "name": "a", "queue": "default", "priority": 0, "sweep_id": null}]}'
    with answering([(0, b""), (503, b"<html>"), (201, good)]) as (url, keys), Client(url) as client:
        assert client.submit(spec("a")).jobs[0].id == "a"
    assert len(keys) == 3
    assert len(set(keys)) == 1


def test_something_else_that_answers_is_no_service() -> None:
    with (
        answering([(500, b"<html>")]) as (url, _),
        Client(url) as client,
        pytest.raises(UnreachableError, match="is not a Loraloom service"),
    ):
        client.submit(spec("a"))


def test_jobs_come_in_parts_without_end(served: Served) -> None:
    with served.client() as client:
        client.submit([spec(f"job-{number:04d}") for number in range(1100)])
        assert len({job.id for job in client.jobs()}) == 1100
        assert len(list(client.jobs(limit=700))) == 700
        assert [job.id for job in client.jobs(q="1099")] == ["job-1099"]
        assert len(list(client.events())) == 1100


def test_prune_takes_what_has_ended_and_nothing_else(served: Served) -> None:
    with served.client() as client:
        client.submit([spec(name) for name in ("old", "new", "runs", "done")])
        folders = {}
        for name, at in (("old", 1000.0), ("new", 5e9), ("runs", 1000.0)):
            attempt = served.run(name, at=at)
            folders[name] = served.checkpoint(name, attempt, step=5)
            if name != "runs":
                served.end(name, at=at)
        artifact = served.publish("done", served.run("done"), {"manifest.json": b"{}"})
        (served.data_dir / "logs").mkdir()
        (served.data_dir / "logs/old.log").write_text("x")

        with pytest.raises(RefusedError, match="say what may go"):
            client.prune(PruneOrder())
        order = PruneOrder(jobs_older_than_seconds=3600.0)
        assert [(job.id, job.is_removed) for job in client.prune(order).jobs] == [("done", True), ("old", True)]
        assert client.job("old").state == "FAILED"
        large = PruneOrder(checkpoints_above_bytes=1500)
        assert [(job.id, job.is_removed, job.freed_bytes) for job in client.prune(large).jobs] == [("old", False, 1000)]

        done = client.prune(large.model_copy(update={"dry_run": False}))
        assert [(job.id, job.checkpoints) for job in done.jobs] == [("old", 1)]
        assert not folders["old"].exists()
        assert client.checkpoints("old").checkpoints == []
        assert client.job("old").state == "FAILED"

        done = client.prune(order.model_copy(update={"dry_run": False}))
        assert [job.id for job in done.jobs] == ["done", "old"]
        assert not (served.data_dir / "logs/old.log").exists()
        assert artifact.exists()
        assert sorted(job.id for job in client.jobs()) == ["new", "runs"]
        assert folders["new"].exists()
        assert folders["runs"].exists()
        assert [job.id for job in client.submit(spec("old")).jobs] == ["old.2"]


def test_prune_deletes_published_adapters_only_where_it_is_told_to(served: Served, tmp_path: Path) -> None:
    with served.client() as client:
        client.submit([spec("a"), spec("b")])
        artifact = served.publish("a", served.run("a"), {"manifest.json": b"{}"})
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        attempt = served.run("b")
        folder = served.publish("b", attempt, {"manifest.json": b"{}"})
        folder.rename(elsewhere / "b")
        folder.symlink_to(elsewhere / "b")
        order = PruneOrder(jobs_older_than_seconds=0.0, artifacts=True, dry_run=False)
        assert client.prune(order).freed_bytes == 4
        assert not artifact.exists()
        assert (elsewhere / "b/manifest.json").exists()


def test_prune_empties_a_store_too_and_says_what_it_could_not_reach(serve: Serve, tmp_path: Path) -> None:
    files = JobFiles(tmp_path / "data", "memory://pruned")
    store = files._store
    store._sleep = lambda _: None
    store.claim("tests")
    served = serve(job_files=files)
    with served.client() as client:
        client.submit([spec("old"), spec("new")])
        for name, at in (("old", 1000.0), ("new", 5e9)):
            folder = served.checkpoint(name, served.run(name, at=at), step=5)
            served.end(name, at=at)
            (folder / "manifest.json").write_bytes(b"{}")
            store.upload(folder, f"checkpoints/{name}/{folder.name}")
        order = PruneOrder(jobs_older_than_seconds=3600.0, dry_run=False)
        faults = Faults(store)
        faults.fails = lambda *_: TimeoutError("away")
        done = client.prune(order)
        assert [job.id for job in done.jobs] == ["old"]
        assert (done.freed_bytes, done.undeleted) == (0, 1)
        assert "away" in (done.problem or "")
        faults.heal()
        assert store.folders("checkpoints/old") != []
        again = client.prune(order)
        assert (again.jobs, again.undeleted, again.problem) == ([], 0, None)
    assert store.folders("checkpoints/old") == []
    assert store.folders("checkpoints/new") != []


@pytest.mark.parametrize("with_artifact", [True, False])
def test_what_a_crash_left_undeleted_goes_at_the_next_start_and_nothing_else(
    served: Served, serve: Serve, with_artifact: bool
) -> None:
    """Killed between the commit and the deletions, and in the middle of one."""
    with served.client() as client:
        client.submit([spec(name) for name in ("removed", "stripped", "kept")])
    folders = {}
    for name in ("removed", "stripped", "kept"):
        attempt = served.run(name)
        folders[name] = served.checkpoint(name, attempt, step=1)
        log = served.data_dir / "logs" / f"{name}.log"
        log.parent.mkdir(exist_ok=True)
        log.write_text("it trained")
        served.publish(name, attempt, {"manifest.json": b"{}"})
    torn = served.data_dir / "checkpoints" / ".trash-other-1-00"
    torn.mkdir()
    assert served.journal.remove_ended(["removed"], artifacts=with_artifact) == {"removed"}
    assert served.journal.strip_ended(["stripped"]) == {"stripped"}
    assert {one.job_id for one in served.journal.undeleted()} == {"removed", "stripped"}
    served.journal.close()
    again = serve()
    assert again.journal.undeleted() == []
    assert [folders[name].exists() for name in ("removed", "stripped", "kept")] == [False, False, True]
    assert sorted(path.name for path in (again.data_dir / "checkpoints").iterdir()) == ["kept", "stripped"]
    assert not (again.data_dir / "logs" / "removed.log").exists()
    assert (again.data_dir / "logs" / "stripped.log").exists()
    artifacts = ["kept", "stripped"] if with_artifact else ["kept", "removed", "stripped"]
    assert sorted(path.name for path in (again.data_dir / "artifacts").iterdir()) == artifacts
