"""Real Ray on this machine: several workers, workers that raise, workers that are killed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from jobs.artifacts import verify
from jobs.loading import load_files
from jobs.records import Event, Job, JobState
from orchestrator.clusters.ray_cluster import RayCluster
from orchestrator.job_files import JobFiles
from orchestrator.journal import Journal, Submission
from orchestrator.lives import Lives
from orchestrator.run import check
from orchestrator.scheduler import Scheduler
from workers.settings import WorkerSettings

pytestmark = pytest.mark.ray
WriteSpecs = Callable[..., Path]
QUIET = Console(stderr=True, quiet=True)


class Recorder:
    """A listener that remembers, and can act at a job's first step."""

    def __init__(self, at_first_step: Callable[[], None] | None = None) -> None:
        self.events: list[Event] = []
        self.steps: list[tuple[str, int]] = []
        self._at_first_step = at_first_step

    def on_event(self, job: Job, event: Event) -> None:
        self.events.append(event)

    def on_step(self, job: Job, report: object) -> None:
        self.steps.append((job.id, getattr(report, "step", 0)))
        if self._at_first_step is not None:
            act, self._at_first_step = self._at_first_step, None
            act()

    def on_evaluation(self, job: Job, report: object) -> None:
        pass

    def on_resume(self, job: Job, report: object) -> None:
        pass

    def on_log(self, job: Job, message: str) -> None:
        pass


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    started = RayCluster(num_workers=2)
    yield started
    started.shutdown()


def schedule(specs: Path, cluster: RayCluster, folder: Path, recorder: Recorder) -> Scheduler:
    loaded = load_files([specs])
    journal = Journal(folder / "journal.db")
    journal.submit([Submission(job_id=one.spec.name, spec=one.spec) for one in loaded], at=0.0)
    return Scheduler(
        [Job(id=one.spec.name, spec=one.spec) for one in loaded],
        check(loaded, console=QUIET),
        cluster,
        WorkerSettings(staging_dir=folder / "staging", checkpoints_dir=folder / "checkpoints"),
        Lives(journal, JobFiles(folder), [recorder]),
        publish=lambda _job, staged: staged,
    )


def drive(scheduler: Scheduler) -> None:
    deadline = time.monotonic() + 480
    while not scheduler.is_done:
        assert time.monotonic() < deadline, "jobs never ended"
        scheduler.tick(0.1)


def test_two_bases_on_two_workers_of_one_machine(
    tmp_path: Path, cluster: RayCluster, write_specs: WriteSpecs, other_base: Path
) -> None:
    specs = write_specs({}, {"model": {"model_name_or_path": str(other_base)}}, {})
    recorder = Recorder()
    scheduler = schedule(specs, cluster, tmp_path, recorder)
    drive(scheduler)
    assert {job.state for job in scheduler.jobs.values()} == {JobState.SUCCEEDED}
    workers = {job.id: job.worker_id for job in scheduler.jobs.values()}
    assert workers["job-0"] == workers["job-2"] != workers["job-1"]
    # The workers stepped on their own and told of every step, in each job's order.
    for job_id in scheduler.jobs:
        assert [step for one, step in recorder.steps if one == job_id] == [1, 2, 3, 4]
        assert verify(Path(scheduler.jobs[job_id].artifact or ""))["metrics"]["step"] == 4
    life = [event.state for event in recorder.events if event.job_id == "job-0"]
    assert life == [JobState.STARTING, JobState.RUNNING, JobState.SUCCEEDED]


def test_a_base_that_cannot_be_loaded_is_reported_with_its_tracebacks_last_line(
    tmp_path: Path, cluster: RayCluster, write_specs: WriteSpecs, tiny_base: Path
) -> None:
    broken = shutil.copytree(tiny_base, tmp_path / "broken")
    weights = broken / "model.safetensors"
    specs = write_specs({"model": {"model_name_or_path": str(broken)}}, {})
    scheduler = schedule(specs, cluster, tmp_path, Recorder())
    # The checks were sound; what is damaged after them is found by the worker.
    weights.write_bytes(weights.read_bytes()[:1000])
    drive(scheduler)
    failed, healthy = scheduler.jobs.values()
    assert (failed.state, failed.reason) == (JobState.FAILED, "worker_lost")
    assert "BaseModelError: " in failed.message
    assert "model.safetensors" in failed.message or "weights" in failed.message
    assert healthy.state is JobState.SUCCEEDED


def test_the_token_that_opens_rays_ports_is_private(cluster: RayCluster) -> None:
    token = Path.home() / ".ray" / "auth_token"
    if token.is_file():
        assert token.stat().st_mode & 0o077 == 0
