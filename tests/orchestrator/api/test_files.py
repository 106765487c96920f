from __future__ import annotations

import hashlib

import pytest

from tests.orchestrator.api.conftest import Served, spec

LINES = [f"line {number} ü\n" for number in range(5000)]


@pytest.fixture
def log(served: Served) -> bytes:
    with served.http() as http:
        http.post("/jobs", json=spec("a"))
    folder = served.data_dir / "logs"
    folder.mkdir()
    (folder / "a.log").write_text("".join(LINES), encoding="utf-8")
    return (folder / "a.log").read_bytes()


def test_a_log_whole_and_its_last_lines(served: Served, log: bytes) -> None:
    with served.http() as http:
        answer = http.get("/jobs/a/logs")
        assert answer.content == log
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        for tail in (1, 2, 4999, 5000, 9999):
            assert http.get("/jobs/a/logs", params={"tail": tail}).text == "".join(LINES[-tail:])
        path = served.data_dir / "logs/a.log"
        for content, tail, told in (("a\nb", 1, "b"), ("a\nb", 2, "a\nb"), ("\n\n", 1, "\n"), ("", 3, "")):
            path.write_text(content)
            assert http.get("/jobs/a/logs", params={"tail": tail}).text == told
        path.unlink()
        assert http.get("/jobs/a/logs").text == ""
        assert http.get("/jobs/a/logs", params={"tail": 3}).text == ""


def test_ranges_of_a_log(served: Served, log: bytes) -> None:
    with served.http() as http:
        for header, part in (
            ("bytes=0-9", log[:10]), ("bytes=10-", log[10:]), ("bytes=-5", log[-5:]), ("bytes=-999999999", log),
            ("bytes=3-999999999999", log[3:]), ("bytes=7-7", log[7:8]),
        ):  # fmt: skip
            answer = http.get("/jobs/a/logs", headers={"Range": header})
            assert (answer.status_code, answer.content) == (206, part), header
            assert answer.headers["content-range"].endswith(f"/{len(log)}")
        for header in (f"bytes={len(log)}-", "bytes=999999999999-", "bytes=-0"):
            answer = http.get("/jobs/a/logs", headers={"Range": header})
            assert answer.status_code == 416
            assert answer.headers["content-range"] == f"bytes */{len(log)}"
        for header in ("lines=1-2", "bytes=9-3", "bytes=", "bytes=a-b", "bytes=0-1,4-5", "bytes=--1"):
            answer = http.get("/jobs/a/logs", headers={"Range": header})
            assert (answer.status_code, answer.content) == (200, log), header


def test_files_of_an_adapter(served: Served) -> None:
    files = {"adapter_model.safetensors": bytes(range(256)) * 2000, "manifest.json": b"{}", "README.md": b"<b>"}
    with served.http() as http:
        http.post("/jobs", json=spec("a"))
        assert http.get("/jobs/a/artifacts").status_code == 404
        folder = served.publish("a", served.run("a"), files)
        listing = http.get("/jobs/a/artifacts").json()
        assert {one["name"]: one["sha256"] for one in listing["files"]} == {
            name: hashlib.sha256(content).hexdigest() for name, content in files.items()
        }
        for name, content in files.items():
            answer = http.get(f"/jobs/a/artifacts/{name}")
            assert answer.content == content
            assert answer.headers["content-type"] == "application/octet-stream"
            assert answer.headers["content-disposition"].startswith("attachment")
        for name in (
            "nothing",
            "%2e%2e%2fjournal.db",
            "..%2f..%2fjournal.db",
            ".hidden",
            "a%00",
            "%2fetc%2fpasswd",
        ):
            assert http.get(f"/jobs/a/artifacts/{name}").status_code in (404, 405, 422), name
        (folder / "README.md").unlink()
        (folder / "README.md").symlink_to(served.data_dir / "journal.db")
        assert http.get("/jobs/a/artifacts/README.md").status_code == 404
        folder.rename(folder.with_name("moved"))
        (served.data_dir / "artifacts/a").symlink_to("/etc")
        assert http.get("/jobs/a/artifacts/manifest.json").status_code == 404
