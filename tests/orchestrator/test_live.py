"""What a person sees: the table says where every job stands, in a wide terminal and a narrow one."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from jobs.records import EvalReport, Event, Job, JobState, WorkerStatus
from jobs.spec import JobSpec
from orchestrator.journal import Journal
from orchestrator.live import LiveTable, PlainLines
from tests.orchestrator.scripted import ScriptedCluster, estimate, make_scheduler, state, step


def seen(folder: Path, width: int, *, height: int = 30, jobs: int = 3) -> str:
    """The table half way through a run of jobs on one base, at a fixed time."""
    clock = [100.0]
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None)
    table = LiveTable(console, now=lambda: clock[0])
    cluster = ScriptedCluster()
    journal = Journal(folder / "journal.db")
    bases = {f"job-{number}": "/models/base" for number in range(jobs)}
    scheduler = make_scheduler(journal, folder / "checkpoints", cluster, bases, table)
    scheduler.tick()
    cluster.says("w0", *(state(f"job-{number}", JobState.RUNNING) for number in range(jobs)))
    evaluation = EvalReport(
        job_id="job-0", step=0, epoch=0, loss=5.0, exact_match=0.0, rows=4, label_tokens=8, seconds=1.0
    )
    cluster.says("w0", evaluation)
    scheduler.tick()
    clock[0] += 10
    cluster.says("w0", step("job-0", 1, loss=2.5), state("job-1", JobState.FAILED))
    scheduler.tick()
    scheduler.workers["w0"].status = WorkerStatus(
        worker_id="w0",
        base=estimate("/models/base").base,
        base_loaded=True,
        adapters=2,
        waiting=0,
        evaluating=("job-2",),
        busy_seconds=9.0,
        wall_seconds=10.0,
        tokens=500,
    )
    console.file = io.StringIO()
    console.print(table._jobs(scheduler))
    console.print(table._workers(scheduler))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [150, 100])
def test_the_table_says_state_step_time_left_losses_rate_and_company(width: int, tmp_path: Path) -> None:
    text = seen(tmp_path, width)
    training = next(line for line in text.splitlines() if "job-0" in line)
    for part in ("RUNNING", "1/4", "0:30", "2.5000", "5.0000", " 2 ", "w0 +1"):
        assert part in training, part
    assert "FAILED" in next(line for line in text.splitlines() if "job-1" in line)
    assert "EVALUATING" in next(line for line in text.splitlines() if "job-2" in line)
    assert "base (float32) on cpu-0: 2 adapters, 50 tok/s, 90% busy" in text
    assert "on one base: job-0, job-2" in text
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text


def test_what_does_not_fit_on_the_screen_is_counted(tmp_path: Path) -> None:
    text = seen(tmp_path, 120, height=16, jobs=40)
    assert "job-0" in text
    assert "more, not shown for lack of room" in text
    assert len(text.splitlines()) <= 16


def test_plain_lines_show_names_as_text_whatever_they_hold() -> None:
    console = Console(file=io.StringIO(), width=60)
    lines = PlainLines(console)
    spec = {"name": "a", "model": {"model_name_or_path": "x"}, "datasets": [{"path": "rows.jsonl"}]}
    job = Job(id="a", spec=JobSpec.model_validate(spec))
    lines.on_event(
        job,
        Event(
            sequence=0,
            time_unix_seconds=0,
            job_id="a",
            state=JobState.FAILED,
            reason="data",
            message="[red]markup[/red] and a line that is longer than the sixty columns of the console",
        ),
    )
    assert isinstance(console.file, io.StringIO)
    [line] = console.file.getvalue().splitlines()
    assert line.endswith(
        "a: FAILED (data): [red]markup[/red] and a line that is longer than the sixty columns of the console"
    )
