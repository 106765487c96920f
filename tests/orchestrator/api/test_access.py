from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from jobs.errors import LoraloomError
from orchestrator.api.address import Address
from orchestrator.api.tokens import Tokens
from tests.orchestrator.api.conftest import ALICE, BOB, Serve, Served, spec

PATHS = ["/api/v1/jobs", "/api/v1/cluster", "/api/v1/stream", "/metrics", "/openapi.json", "/nothing"]


def test_without_a_token_nothing_but_health_and_the_empty_pages_answers(serve: Serve, tokens: Tokens) -> None:
    served = serve(tokens=tokens)
    with served.http() as http:
        for path in PATHS:
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {ALICE}"}):
                answer = http.get(served.url + path, headers=headers)
                assert answer.status_code == 401, path
                assert answer.headers["www-authenticate"].startswith("Bearer")
                assert answer.headers["content-type"] == "application/problem+json"
        assert http.post("/jobs", content="name: a").status_code == 401
        assert http.get(served.url + "/healthz").status_code == 200
        assert http.get(served.url + "/readyz").json()["status"] == "ok"


def test_it_is_not_ready_while_it_is_stopped_or_its_journal_cannot_be_read(serve: Serve) -> None:
    why: list[str] = []
    served = serve(not_ready=lambda: why[0] if why else None)
    with served.http() as http:
        assert http.get(served.url + "/readyz").status_code == 200
        why.append("it is being stopped")
        answer = http.get(served.url + "/readyz")
        assert (answer.status_code, answer.json()["status"]) == (503, "not_ready")
        assert answer.json()["detail"] == "it is being stopped"
        assert http.get(served.url + "/healthz").status_code == 200
        why.clear()
        with served.journal._writing() as connection:
            connection.exec_driver_sql("DROP TABLE events")
        answer = http.get(served.url + "/readyz")
        assert answer.status_code == 503
        assert answer.json()["detail"] == "its journal cannot be read"


def test_a_token_acts_in_its_own_queues_alone(serve: Serve, tokens: Tokens) -> None:
    served = serve(tokens=tokens)
    alice, bob = ({"Authorization": f"Bearer {token}"} for token in (ALICE, BOB))
    with served.http() as http:
        assert http.post("/jobs", json=spec(), headers=bob).status_code == 403
        night = spec("b", scheduling={"queue": "night"})
        assert http.post("/jobs", json=night, headers=bob).status_code == 201
        assert http.post("/jobs", json=[spec("c"), night | {"name": "d"}], headers=bob).status_code == 403
        assert http.post("/jobs", json=spec(), headers=alice).status_code == 201
        assert http.get("/jobs/first", headers=bob).json()["owner"] == "alice"
        for call in ("cancel", "pause", "resume", "retry"):
            assert http.post(f"/jobs/first/{call}", headers=bob).status_code == 403
        assert http.patch("/jobs/b", json={"queue": "default"}, headers=bob).status_code == 403
        assert http.patch("/jobs/b", json={"priority": 3}, headers=bob).json()["priority"] == 3
        assert http.post("/prune", json={"jobs_older_than_seconds": 0.0}, headers=bob).status_code == 403
        assert "alice asked" not in http.get("/jobs/b/events", headers=bob).text
        assert "bob asked" in http.get("/jobs/b/events", headers=bob).text


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8400", "127.0.0.1.evil.example", "", "[::1", "a:b", "10.0.0.1", "localhost:x"],
)
def test_another_host_is_refused(served: Served, host: str) -> None:
    with served.http() as http:
        for path in ("/jobs", served.url + "/healthz"):
            answer = http.get(path, headers={"Host": host})
            assert answer.status_code in (400, 421)
        if host:
            assert answer.json()["type"].endswith("wrong-host")


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "LOCALHOST", "127.0.0.1", "[::1]:8400", "127.1.2.3"])
def test_names_of_this_machine_are_ours(served: Served, host: str) -> None:
    with served.http() as http:
        assert http.get("/jobs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["null", "http://evil.example", "https://127.0.0.1", "http://127.0.0.1:1", "file://", "http://[", "x"]
)
def test_a_page_of_another_origin_is_refused(served: Served, origin: str) -> None:
    with served.http() as http:
        for method, path in (("GET", "/jobs"), ("POST", "/jobs"), ("POST", "/jobs/a/cancel"), ("OPTIONS", "/jobs")):
            answer = http.request(method, path, headers={"Origin": origin}, content="name: a")
            assert answer.status_code == 403
            assert "access-control-allow-origin" not in answer.headers


def test_a_page_of_our_own_may_call(served: Served) -> None:
    with served.http() as http:
        assert http.get("/jobs", headers={"Origin": served.url}).status_code == 200


def test_every_answer_keeps_browsers_from_guessing(served: Served) -> None:
    with served.http() as http:
        for answer in (http.get("/jobs"), http.get("/nothing"), http.post("/jobs", content="[")):
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_markup_is_data(served: Served) -> None:
    with served.http() as http:
        answer = http.post("/jobs", json=spec("<script>alert(1)</script>"))
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        answer = http.get("/<script>alert(1)</script>")
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "host, is_open", [("127.0.0.1", False), ("localhost", False), ("::1", False), ("0.0.0.0", True), ("::", True)]
)
def test_a_public_address_needs_tokens(serve: Serve, tokens: Tokens, host: str, is_open: bool) -> None:
    if is_open:
        with pytest.raises(LoraloomError, match="--token-file"):
            serve(address=Address(host=host))
    serve(folder="with", address=Address(host=host), tokens=tokens)


def test_a_public_address_is_called_by_its_names() -> None:
    address = Address(host="0.0.0.0", names=("lora.example",))
    assert address.is_ours("lora.example:8400")
    assert address.is_ours("10.1.2.3")
    assert not address.is_ours("evil.example")


@pytest.mark.parametrize(
    "text, told",
    [
        ("", "should be a list"),
        ("a: b", "should be a list"),
        ("- x", "should be a block"),
        ("- {name: a, token: short}", "at least 24"),
        ("- {name: a, token: 123456789012345678901234567890}", "at least 24"),
        ("- {name: A!, token: " + ALICE + "}", "name should be"),
        ("- {name: a, token: " + ALICE + ", queue: x}", "not known"),
        ("- {name: a, token: " + ALICE + ", queues: []}", "queues should"),
        ("- {name: a, token: " + ALICE + ", queues: [b], read: some}", "read should"),
        ("- {name: a, token: " + ALICE + ", read: own}", "name them in queues"),
        ("- {name: a}", "either token or token_sha256"),
        ("- {name: a, token_sha256: abc}", "64 hexadecimal"),
        ("- {name: a, token: " + ALICE + "}\n- {name: a, token: " + BOB + "}", "same name"),
        ("- {name: a, token: " + ALICE + "}\n- {name: b, token: " + ALICE + "}", "same token"),
        ("- {name: a, token: " + ALICE, "line"),
    ],
)
def test_a_faulty_token_file_is_refused_without_showing_tokens(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "tokens.yaml"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    with pytest.raises(LoraloomError, match=told) as caught:
        Tokens.read(path)
    assert ALICE not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o666])
def test_a_token_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "tokens.yaml"
    path.write_text(f"- {{name: a, token: {ALICE}}}", encoding="utf-8")
    path.chmod(mode)
    with pytest.raises(LoraloomError, match="chmod 600"):
        Tokens.read(path)


def test_only_hashes_of_tokens_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "tokens.yaml"
    hashed = hashlib.sha256(BOB.encode()).hexdigest()
    path.write_text(f"- {{name: a, token: {ALICE}}}\n- {{name: b, token_sha256: '{hashed}'}}", encoding="utf-8")
    path.chmod(0o600)
    tokens = Tokens.read(path)
    assert ALICE not in repr(vars(tokens))
    assert [(tokens.caller(token) or tokens).name for token in (ALICE, BOB)] == ["a", "b"]  # type: ignore[union-attr]
    assert tokens.caller("") is None


def test_tokens_are_rotated_without_a_restart(tmp_path: Path) -> None:
    path, warned = tmp_path / "rotated.yaml", list[str]()
    path.write_text(f"- {{name: alice, token: {ALICE}}}\n")
    path.chmod(0o600)
    tokens = Tokens.read(path, warn=warned.append)
    assert tokens.caller(ALICE) is not None
    path.write_text(f"- {{name: bob, token: {BOB}}}\n- {{name: carol, token: {'c' * 32}}}\n")
    assert tokens.caller(ALICE) is None
    assert tokens.caller(BOB) is not None
    # Half written, gone, or open to others: those before go on to hold, and a person is told once.
    path.write_text("- {name: bob, tok")
    for _ in range(2):
        assert tokens.caller(BOB) is not None
    path.unlink()
    for _ in range(2):
        assert tokens.caller(BOB) is not None
    path.write_text(f"- {{name: alice, token: {ALICE}}}\n")
    path.chmod(0o644)
    for _ in range(2):
        assert tokens.caller(ALICE) is None
    assert len(warned) == 3
    assert all("go on to hold" in said for said in warned)
    assert "chmod 600" in warned[-1]
    path.chmod(0o600)
    assert tokens.caller(ALICE) is not None
    assert tokens.caller(BOB) is None
