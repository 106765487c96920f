"""The `loraloom` command as a user meets it: a process with exit codes, stdout and stderr."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.loading import load_files
from orchestrator.interruption import GRACE_SECONDS
from tests.machine import free_port
from tests.nursery import Nursery, Request
from tests.orchestrator.conftest import Forked

WriteSpecs = Callable[..., Path]
COMMAND = [sys.executable, "-m", "orchestrator.cli"]


def loraloom(*arguments: str | Path, cwd: Path | None = None, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=timeout, check=False
    )


def processes_mentioning(text: str) -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or folder.name == str(os.getpid()):
            continue
        try:
            environment = (folder / "environ").read_bytes().decode(errors="replace")
            state = (folder / "stat").read_text().rsplit(")", 1)[1].split()[0]
            command = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        if text in environment and state != "Z":
            found.append(f"{folder.name} {command[:100]}")
    return found


def test_init_writes_an_example_that_loads_and_leaves_what_is_there(tmp_path: Path) -> None:
    done = loraloom("init", tmp_path / "first")
    assert done.returncode == 0, done.stderr
    [one] = load_files([tmp_path / "first/quickstart.yaml"])
    assert one.spec.datasets
    again = loraloom("init", tmp_path / "first")
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_init_where_nothing_can_be_written_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in ("file", "file/below"):
        done = loraloom("init", tmp_path / folder)
        assert done.returncode == 2
        assert "cannot be written" in done.stderr
        assert "Traceback" not in done.stderr


def test_schema_is_json_on_stdout() -> None:
    done = loraloom("schema")
    assert done.returncode == 0
    assert json.loads(done.stdout)["properties"]["lora"]


def test_validate_prints_one_json_object(forked: Forked, write_specs: WriteSpecs) -> None:
    done = forked("validate", write_specs({}, {"lora": {"r": 8}}), "--json")
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout)["jobs"]
    assert (first["train_rows"], first["eval_rows"], first["steps"]) == (18, 6, 4)
    assert second["trainable_parameters"] == 2 * first["trainable_parameters"]
    assert first["peak_bytes"] > first["base_bytes"] > 0


@pytest.mark.parametrize(
    "text, told",
    [
        ("name: a\nlora: {r: 0}\n", ":2: lora.r: "),
        ("name: a\nname: b\n", ":2: "),
        ("nmae: a\n", "did you mean"),
        ("name: a\nmodel: {model_name_or_path: x, load_in_4bit: true}\ndatasets: [{path: y.jsonl}]\n", "not supported"),
        ("{[", ":1: "),
        ("", "no job"),
    ],
)
def test_a_bad_spec_is_exit_code_2_with_file_and_line_and_nothing_written(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    done = loraloom("run", "bad.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "bad.yaml:" in done.stderr
    assert told in done.stderr
    assert "nothing was started" in done.stderr
    assert done.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


def test_a_missing_spec_file_is_exit_code_2(tmp_path: Path) -> None:
    done = loraloom("run", tmp_path / "nope.yaml")
    assert done.returncode == 2
    assert "nope.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_usage_error_is_exit_code_2(write_specs: WriteSpecs) -> None:
    for arguments in (["run"], ["no-such-verb"], ["run", str(write_specs({})), "--workers", "0"]):
        done = loraloom(*arguments)
        assert done.returncode == 2, arguments
        assert "Traceback" not in done.stderr


def test_run_in_process_keeps_stdout_for_data(tmp_path: Path, write_specs: WriteSpecs) -> None:
    done = loraloom("run", write_specs({}, {}), "--in-process", "--json", "--output-dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert set(summary) == {"jobs", "tokens_per_second", "utilization", "wall_seconds"}
    wanted = {"id", "name", "state", "steps", "train_loss", "eval_loss", "artifact", "checkpoint", "tokens", "seconds"}
    for job in summary["jobs"]:
        assert wanted <= set(job)
        assert job["state"] == "SUCCEEDED"
        assert job["steps"] == 4
        assert job["tokens"] > 0
    assert 0 < summary["utilization"] <= 1
    assert "step 4/4 loss" in done.stderr
    assert "\x1b" not in done.stderr
    assert (tmp_path / "out/loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_failed_job_is_exit_code_1_and_the_table_says_why(
    forked: Forked, tmp_path: Path, write_specs: WriteSpecs
) -> None:
    specs = write_specs({}, {"training": {"learning_rate": 3e38, "max_steps": 30}})
    done = forked("run", specs, "--in-process", "--output-dir", tmp_path / "out")
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    assert "not finite" in done.stdout
    assert "SUCCEEDED" in done.stdout


def test_set_overrides_a_field_of_every_job(forked: Forked, write_specs: WriteSpecs) -> None:
    done = forked("validate", write_specs({}, {}), "--set", "training.max_steps=7", "--json")
    assert [job["steps"] for job in json.loads(done.stdout)["jobs"]] == [7, 7]
    wrong = forked("validate", write_specs({}), "--set", "training.max_stps=7")
    assert wrong.returncode == 2
    assert "max_steps" in wrong.stderr


@pytest.mark.ray
@pytest.mark.parametrize("whole_group", [True, False], ids=["keyboard", "kill"])
def test_interrupted_it_ends_within_five_seconds_leaving_no_process(
    nursery: Nursery, tmp_path: Path, write_specs: WriteSpecs, whole_group: bool
) -> None:
    name, value = "LORALOOM_TEST_MARK", f"{tmp_path.name}-{os.getpid()}"
    specs = write_specs({"training": {"max_steps": 1_000_000}})
    told = tmp_path / "told.txt"
    told.touch()
    process = nursery.open(
        Request(
            arguments=("run", str(specs), "--output-dir", str(tmp_path / "out")),
            output=str(tmp_path / "stdout.txt"),
            errors=str(told),
            environment={name: value},
        )
    )
    while " step " not in told.read_text():
        assert process.poll() is None, "it ended before its first step"
        time.sleep(0.05)
    began = time.monotonic()
    if whole_group:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGTERM)
    process.wait(60)
    seconds = time.monotonic() - began
    assert process.returncode == (130 if whole_group else 143)
    assert seconds <= GRACE_SECONDS, f"took {seconds:.1f} s"
    assert "saved: job-0 at step " in told.read_text()
    assert "run the same command again to go on from there" in told.read_text()
    # What Ray had forked meanwhile ends by itself, once it finds nobody there.
    deadline = time.monotonic() + 60
    while (left := processes_mentioning(f"{name}={value}")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
    assert list((tmp_path / "out/artifacts").iterdir()) == []


def test_a_ray_that_is_not_there_is_told_at_once(forked: Forked, tmp_path: Path, write_specs: WriteSpecs) -> None:
    done = forked("run", write_specs({}), "--ray-address", "127.0.0.1:1", "--output-dir", tmp_path / "out")
    assert done.returncode == 1
    assert "nothing answers at --ray-address 127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.ray
def test_it_joins_a_ray_that_runs_already_and_leaves_it_running(
    forked: Forked, tmp_path: Path, write_specs: WriteSpecs
) -> None:
    port = free_port()
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    start = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=1", f"--port={port}",
        "--node-ip-address=127.0.0.1", "--include-dashboard=false", f"--temp-dir={tmp_path.parent / 'r'}",
    ]  # fmt: skip
    head = subprocess.Popen(
        start, env=environment, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert head.stdout is not None
        assert any("Ray runtime started" in line for line in head.stdout)
        address = ("--ray-address", f"127.0.0.1:{port}")
        done = forked("run", write_specs({}), *address, "--output-dir", tmp_path / "out", RAY_AUTH_MODE="disabled")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "out/artifacts/job-0/manifest.json").is_file()
        assert head.poll() is None
    finally:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait(timeout=30)
