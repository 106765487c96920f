"""What workers report and cannot be ends one job, with and without `assert`: never the scheduler."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.errors import LoraloomError
from jobs.records import JobState
from orchestrator.clusters.ray_service import RayService
from orchestrator.job_files import JobFiles
from orchestrator.journal import Journal
from orchestrator.transitions import TransitionError, require_transition
from tests.orchestrator.scripted import ScriptedCluster, make_scheduler, state, step
from workers.object_store import ObjectStore

NONSENSE = {
    "started twice": [state("a", JobState.RUNNING), state("a", JobState.RUNNING)],
    "ended before it began": [state("a", JobState.SUCCEEDED, staged="x")],
    "placed by its worker": [state("a", JobState.STARTING)],
}


def scenario(folder: Path, kind: str) -> dict[str, object]:
    """Two jobs on a worker that says nonsense of one of them: how both end."""
    with Journal(folder / "journal.db") as journal:
        cluster = ScriptedCluster()
        scheduler = make_scheduler(journal, JobFiles(folder), cluster, {"a": "x", "b": "x"})
        scheduler.tick()
        cluster.says("w0", state("b", JobState.RUNNING), *NONSENSE[kind], step("b", 1))
        scheduler.tick()
        cluster.says("w0", state("b", JobState.SUCCEEDED, staged="x"))
        scheduler.tick()
        ends = {job.id: [job.state, job.reason] for job in journal.jobs()}
        attempts = [one.is_open for one in journal.attempts("a")]
        return {"ends": ends, "open": attempts, "released": ["release", "w0", ["a"]] in json.loads(told(cluster))}


def told(cluster: ScriptedCluster) -> str:
    return json.dumps(cluster.calls)


@pytest.mark.parametrize("kind", NONSENSE)
def test_what_a_worker_reports_and_cannot_be_fails_that_job_and_no_other(tmp_path: Path, kind: str) -> None:
    found = scenario(tmp_path, kind)
    assert found["ends"] == {"a": ["FAILED", "internal"], "b": ["SUCCEEDED", "told"]}
    assert found["open"] == [False]
    assert found["released"]


def test_the_same_holds_where_asserts_are_left_out(tmp_path: Path) -> None:
    code = f"""
import json
from pathlib import Path
from tests.orchestrator.test_without_asserts import NONSENSE, scenario
assert False
for number, kind in enumerate(NONSENSE):
    folder = Path({str(tmp_path)!r}) / str(number)
    folder.mkdir()
    print(json.dumps(scenario(folder, kind)))
"""
    done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["ends"] for line in done.stdout.splitlines()] == [
        {"a": ["FAILED", "internal"], "b": ["SUCCEEDED", "told"]}
    ] * len(NONSENSE)


def test_states_that_do_not_follow_are_refused_and_nothing_has_changed(journal: Journal, tmp_path: Path) -> None:
    scheduler = make_scheduler(journal, JobFiles(tmp_path), ScriptedCluster(), {"a": "x"})
    job = scheduler.jobs["a"]
    for wanted in (JobState.SUCCEEDED, JobState.RUNNING, JobState.PENDING):
        with pytest.raises(TransitionError, match=f"job a is PENDING and cannot become {wanted}"):
            require_transition(job, wanted)
    assert issubclass(TransitionError, LoraloomError)
    assert journal.job("a").state is JobState.PENDING


def test_what_a_caller_gives_wrongly_is_an_error_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    with pytest.raises(FileNotFoundError, match="has no manifest"):
        ObjectStore(f"memory://{tmp_path.name}", is_claimed=False).upload(tmp_path / "adapter", "artifacts/a/a1")
    with pytest.raises(ValueError, match="either a daemon or an address"):
        RayService("0a")
