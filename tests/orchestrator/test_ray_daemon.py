"""The Ray of a data directory: what can be said of it without starting one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from orchestrator.clusters.processes import boot_id, find_process, is_running, session_members, started_with
from orchestrator.clusters.ray_daemon import RayRecord
from tests.orchestrator.test_ray_service import REPOSITORY


def looked_at(data_dir: Path, expression: str) -> str:
    """What a daemon says, in a process that has not imported ray."""
    code = (
        "import pathlib, sys; from orchestrator.clusters.ray_daemon import RayDaemon\n"
        f"daemon = RayDaemon(pathlib.Path(sys.argv[1])); print({expression}); assert 'ray' not in sys.modules"
    )
    return subprocess.run(
        [sys.executable, "-c", code, str(data_dir)], cwd=REPOSITORY, check=True, capture_output=True, text=True
    ).stdout.strip()


def record(data_dir: Path, pid: int, started: str, boot: str) -> None:
    values = {"address": "127.0.0.1:1", "ray_version": "0", "folder": str(data_dir), "boot_id": boot}
    (data_dir / "ray.json").write_text(json.dumps({"pid": pid, "started": started, **values}))


def test_a_dead_ray_is_told_from_a_living_process_of_its_number(tmp_path: Path) -> None:
    assert looked_at(tmp_path, "daemon.find(), daemon.is_alive") == "None False"
    sleeping = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        process = find_process(sleeping.pid)
        assert process is not None
        for started, boot in ((str(int(process.started) - 1), boot_id()), (process.started, "another")):
            record(tmp_path, sleeping.pid, started, boot)
            # Neither taken for ours, nor ended as if it were.
            assert looked_at(tmp_path, "daemon.find(), daemon.stop()") == "None None"
            assert is_running(process)
        record(tmp_path, sleeping.pid, process.started, boot_id())
        assert looked_at(tmp_path, "daemon.is_alive, daemon.stop()") == "False None"
        sleeping.wait(timeout=30)
        assert not (tmp_path / "ray.json").exists()
    finally:
        sleeping.kill()
        sleeping.wait()


def test_a_record_that_is_torn_or_of_another_version_is_none(tmp_path: Path) -> None:
    for text in ("", '{"pid": 1', '{"pid": 1, "novel": 2}', "[]"):
        (tmp_path / "ray.json").write_text(text)
        assert looked_at(tmp_path, "daemon.find()") == "None"


def test_processes_are_found_by_session_and_by_argument(tmp_path: Path) -> None:
    argument = f"--temp-dir={tmp_path}"
    command = ["sh", "-c", "sleep 600 & wait", "sh", argument]
    leader = subprocess.Popen(command, start_new_session=True)
    try:
        # Between fork and exec the child still has its parent's command line.
        while len(members := session_members(leader.pid)) < 2 or len(started_with(argument)) != 1:
            pass
        assert [one.pid for one in started_with(argument)] == [leader.pid]
        # A child that is dead and not waited for yet is not taken for a living one.
        leader.kill()
        while is_running(members[0]) and is_running(members[1]):
            pass
        assert find_process(leader.pid) is None
        assert len(session_members(leader.pid)) == 1
    finally:
        for member in session_members(leader.pid):
            os.kill(member.pid, 9)
        leader.wait()


def test_a_record_names_the_process_that_stands_for_ray() -> None:
    one = RayRecord(address="a:1", pid=5, started="7", boot_id="b", ray_version="2", folder="f")
    assert (one.process.pid, one.process.started) == (5, "7")
