"""The verbs against a running service, as their user meets them: a process with exit codes, stdout and stderr."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from jobs.records import JobState
from jobs.view import ClusterView, MemoryView, SharerView, WorkerView
from orchestrator.api.tokens import Tokens
from orchestrator.cli import main
from orchestrator.commands.output import may_be_left
from orchestrator.journal import MetricPoint
from tests.orchestrator.api.conftest import ALICE, Serve, Served, spec

# Wherever it is started, what is tested is what stands here.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
COMMAND = [sys.executable, "-m", "orchestrator.cli"]


def loraloom(
    served: Served | None, *arguments: str | Path, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command in this process, which saves the seconds of starting one."""
    url = served.url if served is not None else "http://127.0.0.1:1"
    out, err = io.StringIO(), io.StringIO()
    terminated = signal.getsignal(signal.SIGTERM)
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["loraloom", *map(str, arguments)])
        patch.chdir(cwd or Path.cwd())
        for name, value in {"LORALOOM_TOKEN": "", "LORALOOM_URL": url, **environment}.items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main()
    signal.signal(signal.SIGTERM, terminated)
    code = ended.value.code
    assert code is None or isinstance(code, int)
    return subprocess.CompletedProcess(arguments, code or 0, out.getvalue(), err.getvalue())


def process(served: Served | None, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own."""
    url = served.url if served is not None else "http://127.0.0.1:1"
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**ENVIRONMENT, "LORALOOM_URL": url, **environment},
        timeout=120,
        check=False,
    )


def write(folder: Path, *specs: dict[str, object], name: str = "jobs.yaml") -> Path:
    path = folder / name
    path.write_text("---\n".join(yaml.safe_dump(one, sort_keys=False) for one in specs), encoding="utf-8")
    return path


def test_a_file_is_submitted_and_its_jobs_are_listed_and_shown(served: Served, tmp_path: Path) -> None:
    relative = spec("b", datasets=[{"path": "rows.jsonl"}], sweep={"parameters": {"lora.r": {"values": [2, 4]}}})
    path = write(tmp_path, spec("a"), relative)
    done = loraloom(served, "submit", path, "--set", "training.max_steps=7", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["a", "b-001", "b-002"]
    assert "loraloom show a" in done.stderr
    assert served.journal.job("a").spec["training"]["max_steps"] == 7
    assert served.journal.job("b-001").spec["datasets"][0]["path"] == str(tmp_path / "rows.jsonl")

    listed = loraloom(served, "list", "--json", "--sort", "name", "--limit", "2")
    answer = json.loads(listed.stdout)
    assert [job["id"] for job in answer["jobs"]] == ["a", "b-001"]
    assert answer["more"] is True
    people = loraloom(served, "list", "b-0")
    assert "b-002" in people.stdout
    assert "\x1b" not in people.stdout
    assert " a " not in people.stdout
    attempt = served.run("a")
    served.checkpoint("a", attempt, step=3)
    shown = loraloom(served, "show", "a")
    assert "RUNNING (admitted)" in shown.stdout
    assert "step         3 of 10, 30%" in shown.stdout
    assert "cost         0 s of devices in all" in shown.stdout
    assert "tokens       0 labels, 0 prompt, 0 padding" in shown.stdout
    assert "step-000003.00-a1" in shown.stdout
    as_json = json.loads(loraloom(served, "show", "a", "--json").stdout)
    assert as_json["checkpoints"][0]["step"] == 3


def test_nothing_is_submitted_where_something_is_wrong(served: Served, tmp_path: Path) -> None:
    good, bad = write(tmp_path, spec("a")), write(tmp_path, spec("b", lora={"r": 0}), name="bad.yaml")
    done = loraloom(served, "submit", good, bad)
    assert done.returncode == 2
    assert f"{bad}:" in done.stderr
    assert "lora.r" in done.stderr
    own = write(tmp_path, spec("c", datasets=[{"path": str(served.data_dir / "x.jsonl")}]), name="own.yaml")
    done = loraloom(served, "submit", own)
    assert done.returncode == 2
    assert f"{own}:" in done.stderr
    assert "own data directory" in done.stderr
    dry = loraloom(served, "submit", good, "--dry-run")
    assert dry.returncode == 0
    assert "nothing was" in dry.stderr
    assert served.journal.jobs() == []
    for _ in range(2):
        assert loraloom(served, "submit", good, "--key", "once").stdout == "a\n"
    assert len(served.journal.jobs()) == 1


@pytest.mark.parametrize("state, code", [(JobState.CANCELLED, 1), (JobState.FAILED, 1), (JobState.SUCCEEDED, 0)])
def test_waiting_tells_how_it_ended(served: Served, tmp_path: Path, state: JobState, code: int) -> None:
    def end() -> None:
        while not served.journal.jobs():
            time.sleep(0.05)
        attempt = served.run("a")
        if state is JobState.SUCCEEDED:
            served.publish("a", attempt, {"manifest.json": b"{}"})
        else:
            served.end("a", state)

    ender = threading.Thread(target=end)
    ender.start()
    done = process(served, "submit", write(tmp_path, spec("a")), "--wait", "--json")
    ender.join()
    assert done.returncode == code, done.stderr
    assert json.loads(done.stdout)["jobs"][0]["state"] == state
    assert "a RUNNING (admitted)" in done.stderr


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_looking_on_can_be_left(served: Served, tmp_path: Path, number: int, code: int) -> None:
    waiting = subprocess.Popen(
        [*COMMAND, "submit", str(write(tmp_path, spec("a"))), "--wait"],
        env={**ENVIRONMENT, "LORALOOM_URL": served.url},
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has all below it ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert waiting.stderr is not None
    for line in waiting.stderr:
        if "PENDING" in line:
            break
    waiting.send_signal(number)
    _, told = waiting.communicate(timeout=60)
    assert waiting.returncode == code, told
    assert "the jobs go on" in told
    assert "Traceback" not in told


def test_a_signal_that_python_has_made_another_error_of_leaves_likewise(capsys: pytest.CaptureFixture[str]) -> None:
    """Up to 3.11 it does so when the signal comes while a class is being made, as in an import."""

    class Interrupts:
        def __set_name__(self, owner: type, name: str) -> None:
            raise KeyboardInterrupt

    with pytest.raises(SystemExit) as left, may_be_left("the jobs go on"):
        type("Made", (), {"it": Interrupts()})
    assert left.value.code == 130
    assert "the jobs go on" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError), may_be_left("the jobs go on"):
        raise ZeroDivisionError


def test_steering_many_jobs_goes_on_after_a_refusal(served: Served, tmp_path: Path) -> None:
    loraloom(served, "submit", write(tmp_path, spec("a"), spec("b")))
    done = loraloom(served, "pause", "a", "none", "b")
    assert done.returncode == 3
    assert "there is no job none" in done.stderr
    assert [served.journal.job(name).desired for name in "ab"] == ["pause", "pause"]
    assert json.loads(loraloom(served, "resume", "a", "--json").stdout)["jobs"][0]["desired"] == "run"
    assert loraloom(served, "priority", "a", "-7").returncode == 0
    assert served.journal.job("a").priority == -7
    served.end("b")
    assert loraloom(served, "cancel", "b").returncode == 1
    assert "PENDING" in loraloom(served, "retry", "b").stdout


def test_logs_events_and_metrics(served: Served, tmp_path: Path) -> None:
    loraloom(served, "submit", write(tmp_path, spec("a")))
    served.run("a")
    (served.data_dir / "logs").mkdir()
    log = served.data_dir / "logs/a.log"
    log.write_text("one\ntwo\nthree\n", encoding="utf-8")
    assert loraloom(served, "logs", "a").stdout == "one\ntwo\nthree\n"
    assert loraloom(served, "logs", "a", "-n", "2").stdout == "two\nthree\n"
    as_json = loraloom(served, "logs", "a", "-n", "2", "--json").stdout.splitlines()
    assert [json.loads(one) for one in as_json] == [{"job_id": "a", "line": line} for line in ("two", "three")]
    served.journal.record_metrics([MetricPoint(job_id="a", step=5, kind="train", values={"loss": 0.25})])
    assert "0.25" in loraloom(served, "metrics", "a").stdout
    assert json.loads(loraloom(served, "metrics", "a", "--json").stdout)["metrics"][0]["step"] == 5
    assert "RUNNING (admitted): trains" in loraloom(served, "events", "a").stdout

    with subprocess.Popen(
        [*COMMAND, "logs", "-f", "a", "--tail", "1"],
        env={**ENVIRONMENT, "LORALOOM_URL": served.url},
        stdout=subprocess.PIPE,
        text=True,
    ) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == "three\n"
        with log.open("a") as stream:
            stream.write("four\n")
        served.end("a")
        assert following.stdout.read() == "four\n"
    assert following.returncode == 0
    lines = [json.loads(line) for line in loraloom(served, "events", "-f", "a", "--json").stdout.splitlines()]
    assert [line["state"] for line in lines] == ["PENDING", "STARTING", "RUNNING", "FAILED"]


def test_an_adapter_is_listed_downloaded_and_verified(served: Served, tmp_path: Path) -> None:
    loraloom(served, "submit", write(tmp_path, spec("a")))
    content = os.urandom(300_000)
    digest = hashlib.sha256(content).hexdigest()
    manifest = json.dumps({"files": {"adapter_model.safetensors": digest}}).encode()
    folder = served.publish("a", served.run("a"), {"adapter_model.safetensors": content, "manifest.json": manifest})
    assert digest in loraloom(served, "artifacts", "ls", "a").stdout
    assert loraloom(served, "artifacts", "verify", "a").returncode == 0
    got = loraloom(served, "artifacts", "get", "a", cwd=tmp_path)
    assert got.returncode == 0, got.stderr
    assert (tmp_path / "a/adapter_model.safetensors").read_bytes() == content
    assert loraloom(served, "artifacts", "get", "a", cwd=tmp_path).returncode == 1
    assert loraloom(served, "artifacts", "verify", tmp_path / "a").returncode == 0

    for path in (folder, tmp_path / "a"):
        with (path / "adapter_model.safetensors").open("r+b") as stream:
            stream.write(b"\0\0\0\0\0\0\0\0")
    assert loraloom(served, "artifacts", "verify", tmp_path / "a").returncode == 1
    bad = loraloom(served, "artifacts", "verify", "a", "--json")
    assert bad.returncode == 1
    assert [one["name"] for one in json.loads(bad.stdout)["files"] if one["problem"]] == ["adapter_model.safetensors"]
    assert loraloom(served, "artifacts", "get", "a", "again", cwd=tmp_path).returncode == 1
    assert [one.name for one in tmp_path.iterdir() if "again" in one.name] == []


def test_who_cannot_be_reached_or_does_not_know_us_is_4_and_what_is_not_there_3(
    serve: Serve, tokens: Tokens, tmp_path: Path
) -> None:
    served = serve(tokens=tokens)
    for arguments in (["list"], ["show", "a"], ["submit", str(write(tmp_path, spec("a")))]):
        away = loraloom(None, *arguments)
        assert away.returncode == 4
        assert "http://127.0.0.1:1" in away.stderr
        assert "loraloom serve" in away.stderr
        assert loraloom(served, *arguments).returncode == 4
        assert "Traceback" not in away.stderr
    assert loraloom(served, "show", "none", LORALOOM_TOKEN=ALICE).returncode == 3
    assert loraloom(served, "list", "--state", "gone", LORALOOM_TOKEN=ALICE).returncode == 2
    assert loraloom(served, "prune", LORALOOM_TOKEN=ALICE).returncode == 2
    assert loraloom(served, "prune", "--jobs-older-than", "x", LORALOOM_TOKEN=ALICE).returncode == 2


def test_the_cluster_says_who_shares_what(serve: Serve) -> None:
    memory = MemoryView(
        total_bytes=8 * 2**30, base_bytes=3 * 2**30, adapters_bytes=2**30, activations_bytes=2**30, free_bytes=3 * 2**30
    )
    sharers = tuple(SharerView(job_id=name, name=name, adapter_bytes=2**20, share=0.5) for name in ("a", "b"))
    worker = WorkerView(
        id="w1", node="n1", device="cuda:0", base="some/model (bfloat16)", state="up", memory=memory, sharers=sharers,
        waiting=1, utilization=0.9, tokens_per_second=1234.0, since_unix_seconds=1.0,
    )  # fmt: skip
    view = ClusterView(
        published_unix_seconds=time.time(), executor="Ray", nodes=1, devices=2, devices_in_use=1, workers=(worker,),
        queues=(), utilization=0.9, tokens_per_second=1234.0,
    )  # fmt: skip
    served = serve(cluster=lambda: view)
    told = loraloom(served, "cluster").stdout
    assert "1 of 2 devices in use, 90% busy" in told
    assert "memory 8.0 GiB: base 3.0 GiB, adapters 1.0 GiB, activations 1.0 GiB, free 3.0 GiB" in told
    assert "shared by a (1.0 MiB, 50% of the time), b (1.0 MiB, 50% of the time)" in told
    assert json.loads(loraloom(served, "cluster", "--json").stdout)["workers"][0]["sharers"][1]["job_id"] == "b"


def test_prune_says_what_goes(served: Served, tmp_path: Path) -> None:
    loraloom(served, "submit", write(tmp_path, spec("a"), spec("b")))
    served.end("a", at=1.0)
    dry = loraloom(served, "prune", "--jobs-older-than", "30d", "--dry-run")
    assert "nothing did" in dry.stderr
    assert served.journal.job("a")
    done = json.loads(loraloom(served, "prune", "--jobs-older-than", "30d", "--json").stdout)
    assert [job["id"] for job in done["jobs"]] == ["a"]
    assert [job.id for job in served.journal.jobs()] == ["b"]


def test_the_shell_completes_jobs(served: Served, tmp_path: Path) -> None:
    loraloom(served, "submit", write(tmp_path, spec("alpha"), spec("beta")))
    # Whoever presses Tab waits for a second and no longer; on a machine that stands still, press it again.
    for _ in range(20):
        done = process(served, _LORALOOM_COMPLETE="complete_bash", COMP_WORDS="loraloom show al", COMP_CWORD="2")
        if done.stdout:
            break
    assert done.stdout.split() == ["alpha"]
    verbs = process(served, _LORALOOM_COMPLETE="complete_bash", COMP_WORDS="loraloom pr", COMP_CWORD="1")
    assert set(verbs.stdout.split()) == {"preview", "priority", "prune"}
    away = process(None, _LORALOOM_COMPLETE="complete_bash", COMP_WORDS="loraloom show al", COMP_CWORD="2")
    assert (away.returncode, away.stdout.strip(), away.stderr) == (0, "", "")


def test_what_would_move_a_terminal_is_shown_as_text(served: Served, tmp_path: Path) -> None:
    loraloom(served, "submit", write(tmp_path, spec("a")))
    served.journal.change(
        "a", attempt=None, state=JobState.FAILED, reason="x", message="\x1b[31m[bold]red[/bold]\x07", at=1.0
    )
    for verb in (["list"], ["show", "a"], ["events", "a"]):
        told = loraloom(served, *verb).stdout
        assert "\\x1b[31m[bold]red[/bold]\\x07" in told
        assert "\x1b" not in told
