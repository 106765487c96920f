from __future__ import annotations

import json
import socket
import struct
from pathlib import Path

import pytest

from orchestrator import diagnosis
from orchestrator.diagnosis import Subject, examine, machine, software, surroundings
from orchestrator.diagnosis.findings import Finding
from orchestrator.journal import Journal


def worst(found: list[Finding]) -> Finding:
    return max(found, key=lambda one: ["ok", "warning", "problem"].index(one.level))


def write_base(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    return folder


def test_what_is_not_ok_says_what_mends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "devices", lambda: iter(()))
    subject = Subject(
        data_dir=tmp_path / "none", url="http://127.0.0.1:1", ray_address="127.0.0.1:1",
        token_file=tmp_path / "none", bases=["/none", "org/none"],
    )  # fmt: skip
    found = list(examine(subject))
    assert all(one.mend for one in found if one.level != "ok")
    problems = {one.what for one in found if one.level == "problem"}
    assert {"ray", "tokens", "base"} <= problems
    assert not (tmp_path / "none").exists()


def test_a_look_that_fails_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(software, "devices", lambda: iter(()))
    monkeypatch.setattr(diagnosis.machine, "memory", fails)
    found = list(
        examine(Subject(data_dir=tmp_path, url="http://127.0.0.1:1", ray_address=None, token_file=None, bases=[]))
    )
    [broken] = [one for one in found if one.what == "memory"]
    assert broken.level == "problem"
    assert "broken" in broken.message
    assert len(found) > 5


def test_a_base_is_read_as_far_as_its_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write_base(tmp_path / "base")
    [good] = surroundings.base(str(base))
    assert good.level == "ok"
    weights = base / "model.safetensors"
    whole = weights.read_bytes()
    for torn in (whole[:-1], whole[:5], b"", b"\xff" * 20, whole + b"x"):
        weights.write_bytes(torn)
        [bad] = surroundings.base(str(base))
        assert bad.level == "problem"
    weights.unlink()
    (base / "pytorch_model.bin").touch()
    assert "safetensors" in worst(list(surroundings.base(str(base)))).message
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert worst(list(surroundings.base("org/name"))).level == "warning"
    snapshots = tmp_path / "models--org--name" / "snapshots"
    snapshots.mkdir(parents=True)
    write_base(snapshots / "abc")
    assert worst(list(surroundings.base("org/name"))).level == "ok"


def test_a_journal_that_is_damaged_is_told(tmp_path: Path) -> None:
    assert worst(list(machine.journal(tmp_path))).level == "ok"
    Journal(tmp_path / "journal.db").close()
    assert worst(list(machine.journal(tmp_path))).level == "ok"
    (tmp_path / "journal.db").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    assert worst(list(machine.journal(tmp_path))).level == "problem"


def test_a_port_that_something_else_has_is_told() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        probe.listen()
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        assert worst(list(surroundings.service(url))).level == "problem"
    assert worst(list(surroundings.service(url))).level == "ok"


def test_a_ray_token_that_others_can_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / "token"
    key.write_text("x")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(key))
    key.chmod(0o644)
    assert any("chmod 600" in (one.mend or "") for one in surroundings.ray(None))
    key.chmod(0o600)
    assert not any("chmod 600" in (one.mend or "") for one in surroundings.ray(None))


def test_what_is_installed_is_what_is_needed() -> None:
    assert [one.message for one in software.versions() if one.level != "ok"] == []
