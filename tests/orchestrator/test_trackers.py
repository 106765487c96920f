"""Trackers get what jobs measure, each in its own local store; what becomes of them changes nothing for a job."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from jobs.records import EvalReport, Event, Job, JobState
from jobs.spec import JobSpec
from orchestrator.identity import identity
from orchestrator.journal import Journal
from orchestrator.trackers.channel import Channel
from orchestrator.trackers.feed import Trackers
from tests.orchestrator.scripted import step

if TYPE_CHECKING:
    from tests.orchestrator.conftest import WriteSpecs

PATIENCE_SECONDS = 240.0


def job_of(report_to: str | Sequence[str], name: str = "a") -> Job:
    content = {"name": name, "model": {"model_name_or_path": "x"}, "datasets": [{"path": "rows.jsonl"}]}
    spec = JobSpec.model_validate({**content, "report_to": report_to})
    return Job(id=f"{name}.2", spec=spec)


def event(job: Job, state: JobState) -> Event:
    return Event(sequence=1, time_unix_seconds=1.0, job_id=job.id, state=state, reason="r", message="m")


def live(trackers: Trackers, job: Job) -> None:
    """Three logged steps, one that is not, and an evaluation."""
    trackers.on_event(job, event(job, JobState.RUNNING))
    for number in (1, 2, 3):
        trackers.on_step(job, step(job.id, number, loss=4.0 / number))
    trackers.on_step(job, step(job.id, 4, logged=False))
    trackers.on_evaluation(
        job,
        EvalReport(
            job_id=job.id, step=3, epoch=1.0, loss=0.75, exact_match=0.5, rows=2, label_tokens=5, seconds=1.0
        ),
    )  # fmt: skip
    trackers.on_event(job, event(job, JobState.SUCCEEDED))


def told_by(report_to: str, folder: Path, *, identity: str = "0a") -> list[str]:
    """Run a life through the real tool in its own process."""
    told: list[str] = []
    trackers = Trackers(folder, lambda _job, message: told.append(message), identity=identity)
    job = job_of(report_to)
    live(trackers, job)
    # What the tool says after the job's end is kept for whoever asks.
    trackers._jobs[job.id] = job
    for channel in trackers._channels.values():
        channel.close(PATIENCE_SECONDS)
    trackers.pass_on()
    return told


def test_tensorboard_has_the_scalars_of_each_job(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    assert told_by("tensorboard", tmp_path) == []
    [path] = (tmp_path / "tensorboard" / "a.2-0a").iterdir()
    found: dict[str, dict[int, float]] = {}
    for one in EventFileLoader(str(path)).Load():
        for value in one.summary.value:
            [number] = value.tensor.float_val or [value.simple_value]
            found.setdefault(value.tag, {})[one.step] = number
    assert found["train/loss"] == pytest.approx({1: 4.0, 2: 2.0, 3: 4.0 / 3})
    assert found["eval/loss"] == {3: 0.75}
    assert found["eval/exact_match"] == {3: 0.5}
    assert set(found["train/learning_rate"]) == {1, 2, 3}


@pytest.mark.slow
def test_mlflow_has_a_run_with_parameters_and_metrics(tmp_path: Path) -> None:
    assert told_by("mlflow", tmp_path) == []
    code = (
        "import json, sys; from mlflow.tracking import MlflowClient\n"
        "client = MlflowClient(tracking_uri=sys.argv[1])\n"
        "[run] = client.search_runs([client.get_experiment_by_name('loraloom').experiment_id])\n"
        "history = {m.step: m.value for m in client.get_metric_history(run.info.run_id, 'train/loss')}\n"
        "print(json.dumps([run.info.run_name, run.info.status, run.data.tags['loraloom.job_id'],\n"
        "                  run.data.params['lora.r'], history, run.data.metrics['eval/loss']]))\n"
    )
    uri = f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}"
    done = subprocess.run([sys.executable, "-c", code, uri], capture_output=True, text=True, check=True)
    name, status, job_id, rank, history, eval_loss = json.loads(done.stdout.splitlines()[-1])
    assert (name, status, job_id, rank, eval_loss) == ("a", "FINISHED", "a.2", "16", 0.75)
    assert history == pytest.approx({"1": 4.0, "2": 2.0, "3": 4.0 / 3})


READ_WANDB = """
import json, struct, sys
from wandb.proto import wandb_internal_pb2

# A header of 7 bytes, then records in blocks of 32 KiB as LevelDB logs have them: crc, length, kind, data.
content, position, part, found = open(sys.argv[1], "rb").read(), 7, b"", []
while position + 7 <= len(content):
    left = 32768 - position % 32768
    if left < 7:
        position += left
        continue
    _, length, kind = struct.unpack("<IHB", content[position : position + 7])
    part += content[position + 7 : position + 7 + length]
    position += 7 + length
    if kind in (1, 4):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(part)
        part = b""
        if record.WhichOneof("record_type") == "history":
            found.append({item.key or "/".join(item.nested_key): json.loads(item.value_json)
                          for item in record.history.item})
print(json.dumps(found))
"""


def test_wandb_writes_an_offline_run_that_can_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_X_SERVICE_WAIT", str(PATIENCE_SECONDS))
    assert told_by("wandb", tmp_path) == []
    [run] = (tmp_path / "wandb" / "wandb").glob("offline-run-*-a.2-0a")
    [path] = run.glob("*.wandb")
    done = subprocess.run([sys.executable, "-c", READ_WANDB, str(path)], capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout.splitlines()[-1])
    assert {row["_step"]: row["train/loss"] for row in rows} == pytest.approx({1: 4.0, 2: 2.0, 3: 4.0 / 3})
    assert [row["eval/loss"] for row in rows if "eval/loss" in row] == [0.75]


def test_trackio_has_the_metrics_in_its_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRACKIO_DIR", raising=False)
    assert told_by("trackio", tmp_path) == []
    [path] = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
    logged = [(at, json.loads(metrics)) for _, at, metrics in rows]
    losses = {at: values["train/loss"] for at, values in logged if "train/loss" in values}
    assert losses == pytest.approx({1: 4.0, 2: 2.0, 3: 4.0 / 3})
    assert {name for name, _, _ in rows} == {"a.2-0a"}


def test_runs_of_two_services_never_collide_and_are_the_same_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One database for both, as a team would have it."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "team"))
    for own in ("0a", "0b", "0a"):
        assert told_by("trackio", tmp_path / own, identity=own) == []
    [path] = (tmp_path / "team").glob("*.db")
    with sqlite3.connect(path) as database:
        names = database.execute("SELECT DISTINCT run_name FROM metrics ORDER BY run_name").fetchall()
    assert names == [("a.2-0a",), ("a.2-0b",)]


def test_every_tool_is_told_a_run_id_that_no_other_service_has(tmp_path: Path) -> None:
    sent: list[dict[str, Any]] = []

    class Recorded(Channel):
        def send(self, message: dict[str, Any]) -> None:
            sent.append(message)

    journals = [tmp_path / name / "journal.db" for name in ("one", "two")]
    for path in [*journals, *journals]:
        path.parent.mkdir(exist_ok=True)
        with Journal(path) as journal:
            trackers = Trackers(tmp_path, lambda _job, _message: None, identity=identity(journal), make=Recorded)
            live(trackers, job_of(["tensorboard", "wandb", "mlflow", "trackio"]))
    runs = [one["run"] for one in sent if one["kind"] == "begin"]
    assert runs[:8] == runs[8:]
    assert len(set(runs)) == 2
    assert all(run.startswith("a.2-") for run in runs)


def script(tmp_path: Path, text: str) -> Callable[[str, Path], Channel]:
    """Channels to a program of our own in the place of a tracker."""
    path = tmp_path / "tracker.py"
    path.write_text(text)

    def make(tool: str, folder: Path) -> Channel:
        return Channel(tool, folder, most_queued=50, command=(sys.executable, str(path)))

    return make


def test_a_tracker_that_dies_is_told_of_once_and_the_rest_goes_nowhere(tmp_path: Path) -> None:
    told: list[str] = []
    make = script(tmp_path, "import sys; sys.stdin.readline(); sys.exit(3)\n")
    trackers = Trackers(tmp_path, lambda _job, message: told.append(message), identity="0a", make=make)
    job = job_of("wandb")
    trackers.on_event(job, event(job, JobState.RUNNING))
    process_ended(trackers, "wandb")
    for number in range(200):
        trackers.on_step(job, step(job.id, number))
    trackers._channels["wandb"].close(PATIENCE_SECONDS)
    trackers.pass_on()
    # That it is slow is told while nobody knows yet that it has ended, and never after that.
    slow, ended = (
        "wandb is too slow; what it does not take in time is dropped",
        "wandb has ended (3); it is told nothing more",
    )
    assert told in ([ended], [slow, ended])


def test_a_tracker_at_the_edge_of_its_queue_is_told_of_once_to_each_job(tmp_path: Path) -> None:
    """Its queue fills, lets one message out, and fills again: that is one time of being slow, not many."""
    (tmp_path / "go").mkdir()
    channel = script(
        tmp_path,
        "import pathlib, sys, time\n"
        "for _ in sys.stdin:\n"
        "    while not (one := next(pathlib.Path(sys.argv[2]).iterdir(), None)): time.sleep(0.01)\n"
        "    one.unlink()\n",
    )("wandb", tmp_path / "go")
    large = "x" * 100_000  # Larger than a pipe holds, so that the queue is all that takes it.

    def send(job: str) -> None:
        channel.send({"kind": "log", "job": job, "text": large})

    for _ in range(60):
        send("a")
    for number in range(5):
        at = channel._queue.qsize()
        (tmp_path / "go" / str(number)).touch()
        while channel._queue.qsize() == at:
            pass
        send("a")
        send("a")
        send("b")
    told = channel.told()
    channel.close(seconds=0.1)
    assert [job for job, message in told if "too slow" in message] == ["a", "b"]


def process_ended(trackers: Trackers, tool: str) -> None:
    channel = trackers._channels[tool]
    while channel._process is None:
        pass
    channel._process.wait(PATIENCE_SECONDS)


def test_a_tracker_that_hangs_holds_nobody_up(tmp_path: Path) -> None:
    """It reads nothing, so the pipe and the queue fill; feeding goes on, and closing ends it."""
    told: list[str] = []
    make = script(tmp_path, "import time\nwhile True: time.sleep(1)\n")
    trackers = Trackers(tmp_path, lambda _job, message: told.append(message), identity="0a", make=make)
    job = job_of(["wandb"])
    trackers.on_event(job, event(job, JobState.RUNNING))
    for number in range(5000):
        trackers.on_step(job, step(job.id, number))
    assert any("too slow" in message for message in told)
    channel = trackers._channels["wandb"]
    channel.close(seconds=1.0)
    assert channel._process is not None
    assert channel._process.returncode is not None


def test_a_library_that_is_not_there_or_fails_is_told_to_the_job_alone(tmp_path: Path) -> None:
    package = tmp_path / "broken" / "wandb"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('no such thing')\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package.parent), *sys.path])}
    lines = [
        {"kind": "begin", "job": "a", "run": "a-0a", "name": "a", "spec": {}},
        {"kind": "begin", "job": "b", "run": "b-0a", "name": "b", "spec": {}},
        {"kind": "log", "job": "a", "step": 1, "values": {}},
        {"kind": "end", "job": "a", "state": "FAILED"},
    ]
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.trackers.process", "wandb", str(tmp_path / "out")],
        input="".join(json.dumps(line) + "\n" for line in lines),
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    said: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["job"] for one in said] == ["a", "b"]
    assert "no such thing" in said[0]["message"]
    assert "pip install 'loraloom[wandb]'" in said[0]["message"]


def test_a_job_without_trackers_starts_none(tmp_path: Path) -> None:
    trackers = Trackers(tmp_path, lambda _job, _message: None, identity="0a")
    live(trackers, job_of("none"))
    assert not trackers._channels
    trackers.close()


def test_a_run_trains_on_and_tells_what_its_tracker_made_of_it(
    tmp_path: Path, write_specs: WriteSpecs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journey: `run`, one job with a tracker that works."""
    from tests.orchestrator.test_run import run_in_process

    # On a slow machine a tracker takes longer to load than a run of a few steps waits for it.
    monkeypatch.setattr(Channel.close, "__defaults__", (PATIENCE_SECONDS,))
    specs = write_specs({"report_to": "tensorboard", "training": {"logging_steps": 1}}, {})
    summary = run_in_process(specs, tmp_path / "out")
    assert summary.ok
    with Journal(tmp_path / "out/journal.db") as journal:
        own = identity(journal)
        assert identity(journal) == own
    assert [path.name for path in (tmp_path / "out/trackers/tensorboard").iterdir()] == [f"job-0-{own}"]


def test_the_libraries_are_never_in_the_process_that_schedules() -> None:
    names = ("tensorboard", "wandb", "mlflow", "trackio")
    code = f"import sys, orchestrator.service; print([name for name in {names} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
