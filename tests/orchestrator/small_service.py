"""A service of the fewest parts: real scheduler, journal and Ray, and a loop.

Killed at any instant and started again in the same directory it goes on; that is what it is for. `loraloom serve` is no
substitute: its API shows how far a job is as of the journal, which is seconds old, while the tests that use this want
each step of each attempt as it is taken in, and workers of so many CPUs.

It says in lines on stdout what happens: `adopted <worker>`, `step <job> <attempt> <step>`, `resumed <job> <attempt>
<step>`, `<state> <job> <attempt> <reason>`, `rebuilt`, `done`. Run with `python -m`.
"""

from __future__ import annotations

import argparse
import secrets
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from jobs.errors import WorkerError
from jobs.loading import load_files
from jobs.records import Event, Job, ResumeReport, StepReport
from jobs.spec import JobSpec
from orchestrator.clusters.ray_daemon import DaemonOptions, RayDaemon
from orchestrator.journal import Journal, Submission
from orchestrator.lives import Lives
from orchestrator.output_directory import OutputDirectory
from orchestrator.readoption import readopt
from orchestrator.retries import LEASE_SECONDS

_PATIENCE_SECONDS = 240.0


class Teller:
    """A listener that says what happens."""

    def on_event(self, job: Job, event: Event) -> None:
        print(event.state, job.id, job.attempt, event.reason, flush=True)

    def on_step(self, job: Job, report: StepReport) -> None:
        print("step", job.id, report.attempt, report.step, flush=True)

    def on_evaluation(self, job: Job, report: object) -> None: ...

    def on_resume(self, job: Job, report: ResumeReport) -> None:
        print("resumed", job.id, report.attempt, report.progress.step, flush=True)

    def on_log(self, job: Job, message: str) -> None: ...


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("specs", type=Path)
    parser.add_argument("--address")
    parser.add_argument("--lease", type=float, default=LEASE_SECONDS)
    parser.add_argument("--cpus", type=int, default=1, help="of each worker")
    options = parser.parse_args()
    root: Path = options.data_dir
    root.mkdir(exist_ok=True)
    daemon = RayDaemon(root, DaemonOptions(num_cpus=2)) if options.address is None else None
    from orchestrator.clusters import ray_nodes
    from orchestrator.clusters.ray_service import RayService
    from orchestrator.clusters.worker_resources import WorkerResources
    from orchestrator.run import check
    from orchestrator.scheduler import Scheduler
    from workers.settings import WorkerSettings

    # The tests count on a worker on each node, however slow it is.
    ray_nodes._FIRST_SECONDS = _PATIENCE_SECONDS
    loaded = load_files([options.specs])
    estimates = check(loaded, console=Console(quiet=True))
    with Journal(root / "journal.db") as journal:
        if not journal.jobs():
            journal.submit([Submission(job_id=one.spec.name, spec=one.spec) for one in loaded], at=time.time())
        cluster = RayService(
            journal.fix_setting("service_id", secrets.token_hex(6)),
            daemon=daemon,
            address=options.address,
            resources=WorkerResources(num_cpus=options.cpus),
            lease_seconds=options.lease,
        )
        adopted = readopt(journal, cluster, at=time.time())
        for worker in adopted:
            print("adopted", worker.id, flush=True)
        files = OutputDirectory(root)
        scheduler = Scheduler(
            [job_of(one) for one in journal.jobs()],
            estimates,
            cluster,
            WorkerSettings(staging_dir=root / "staging", checkpoints_dir=files.checkpoints),
            Lives(journal, files.job_files, [files, Teller()]),
            publish=files.publish,
            adopted=adopted,
            num_started=journal.num_workers_started(),
        )
        while not scheduler.is_done:
            if not cluster.is_alive:
                try:
                    cluster.rebuild()
                except WorkerError:
                    continue
                print("rebuilt", flush=True)
            scheduler.tick(0.1)
        cluster.shutdown()
        if daemon is not None:
            daemon.stop()
    print("done", flush=True)


def job_of(known: Any) -> Job:
    """What the journal has, as the scheduler has it."""
    return Job(
        id=known.id,
        spec=JobSpec.model_validate(known.spec),
        state=known.state,
        worker_id=known.worker_id if known.attempt_is_open else None,
        attempt=known.attempt,
        num_charged=known.num_charged,
        checkpoints=known.checkpoints,
        progress=known.progress,
        artifact=known.artifact,
    )


if __name__ == "__main__":
    main()
