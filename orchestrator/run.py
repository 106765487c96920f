"""`loraloom run`: all jobs of some spec files, from first check to published adapters, on a cluster of our own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.text import Text

from jobs.errors import LoraloomError, Problem, SpecError
from jobs.file_rules import FileRules
from jobs.loading import LoadedSpec, load_files, locate
from jobs.records import Job
from orchestrator.cluster_view import Viewer
from orchestrator.clusters import Cluster
from orchestrator.clusters.host import host_devices
from orchestrator.identity import identity
from orchestrator.interruption import GRACE_SECONDS, Interrupted, Interruption
from orchestrator.journal import Journal, Submission
from orchestrator.live import LiveTable, PlainLines
from orchestrator.lives import Lives
from orchestrator.monitoring.exporter import Monitoring
from orchestrator.monitoring.figures import Surveyor
from orchestrator.monitoring.scraping import scraped
from orchestrator.output_directory import OutputDirectory
from orchestrator.plots import plot_losses
from orchestrator.recovery import end_open_attempts, take_up
from orchestrator.retries import LEASE_SECONDS, after_unavailable
from orchestrator.scheduler import Scheduler
from orchestrator.summary import RunSummary, summarise
from orchestrator.token_budget import fixed_token_budget
from orchestrator.trackers.feed import Trackers
from workers.estimate import Estimate
from workers.preflight import Preflight
from workers.settings import WorkerSettings

_TICK_SECONDS = 0.25
_PATIENCE_SECONDS = 120.0
"""For a hub or a share that is away while specs are checked; each try of the hub's library takes half a minute."""
_MOST_NAMED = 8
"""Jobs named in a message of one line."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `loraloom run` was asked."""

    specs: tuple[Path, ...]
    overrides: tuple[str, ...] = ()
    output_dir: Path = Path("runs")
    ray_address: str | None = None
    workers: int | None = None
    """CPU workers; one for each base where `None`."""
    in_process: bool = False
    token_budget: int | None = None
    """Tokens that a pack of several jobs may hold; found from the memory of the devices where `None`."""
    metrics_port: int | None = None
    """Port of the loopback that Prometheus may scrape; none where `None`."""
    grace_seconds: float = GRACE_SECONDS
    """For saving all jobs after SIGINT or SIGTERM."""
    lease_seconds: float = LEASE_SECONDS
    """A Ray worker that gives no sign of life for so long is replaced."""


def run(options: RunOptions, console: Console) -> RunSummary:
    """Check, place, train, publish; of what an earlier run has begun here, the rest.

    Args:
        options: What to run and where.
        console: For progress; data goes nowhere but to the output directory and the return value.

    Raises:
        SpecError: Something is wrong with the specs or with what they point to; nothing was started.
        LoraloomError: The output directory or Ray cannot be used.
        Interrupted: By a signal; what had not finished is saved, and goes on when the same is run again.
    """
    began = time.monotonic()
    loaded = load_files(options.specs, options.overrides)
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(_made(options.output_dir) / "journal.db"))
        files = OutputDirectory(options.output_dir)
        stack.callback(files.close)
        end_open_attempts(journal, files, at=time.time())
        now = time.time()
        taken_up = take_up(loaded, journal, files, at=now)
        jobs = taken_up.jobs
        unfinished = {job.spec.name: job for job in jobs if not job.state.is_terminal}
        to_train = [one for one in loaded if one.spec.name in unfinished]
        by_name = check(to_train, console=console, patience_seconds=_PATIENCE_SECONDS)
        new = [job for job in jobs if job.id in taken_up.new]
        journal.submit([Submission(job_id=job.id, spec=job.spec) for job in new], at=now)
        for job in new:
            files.begin(job)
        estimates = {unfinished[name].id: estimate for name, estimate in by_name.items()}
        workers = _train(jobs, estimates, journal, files, options, console) if unfinished else None
        try:
            plot_losses(files.metrics, [job.spec.name for job in jobs], files.root / "loss.png")
        except Exception as error:  # the jobs have ended as they have; a picture must not change how that is told
            console.print(Text(f"the loss curves could not be drawn: {error}", style="yellow"))
        statuses = [record.status for record in workers.workers.values() if record.status] if workers else []
        return summarise(jobs, statuses, time.monotonic() - began)


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LoraloomError(f"the output directory {folder} cannot be used: {error.strerror}") from error
    return folder


def check(
    loaded: Sequence[LoadedSpec],
    *,
    console: Console,
    patience_seconds: float = 0.0,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Estimate]:
    """Preflight every spec; all problems of all of them at once.

    Args:
        loaded: The specs.
        console: For a person who looks on.
        patience_seconds: In which what passes, such as a busy hub, is tried again; for all specs together.
        sleep: Waits between two tries.

    Returns:
        Estimates by job name.

    Raises:
        SpecError: With file and line of every problem.
    """
    preflight = Preflight()
    estimates: dict[str, Estimate] = {}
    problems: list[Problem] = []
    waiting = console.status("checking bases, targets and data") if console.is_terminal else nullcontext()
    with waiting:
        for one in loaded:
            estimate, found = preflight.check(one.spec)
            tries = 0
            while found and all(problem.is_passing for problem in found) and patience_seconds > 0:
                tries += 1
                delay = min(after_unavailable(tries).delay_seconds, patience_seconds)
                patience_seconds -= delay
                said = f"{one.spec.name}: {found[0].message}; tried again in {delay:g} seconds"
                console.print(Text(said, style="yellow"), soft_wrap=True)
                sleep(delay)
                estimate, found = preflight.check(one.spec)
            problems += [locate(problem, one) for problem in found]
            if estimate is not None:
                estimates[one.spec.name] = estimate
    if problems:
        raise SpecError(problems)
    return estimates


def _train(
    jobs: Sequence[Job],
    estimates: dict[str, Estimate],
    journal: Journal,
    files: OutputDirectory,
    options: RunOptions,
    console: Console,
) -> Scheduler:
    view: LiveTable | PlainLines = LiveTable(console) if console.is_terminal else PlainLines(console)
    with ExitStack() as stack:
        interruption = stack.enter_context(Interruption(grace_seconds=options.grace_seconds))
        monitoring = Monitoring()
        if options.metrics_port is not None:
            stack.enter_context(scraped(monitoring.registry, options.metrics_port))
            journal.on_commit = monitoring.recorder.committed
        surveyor, viewer = Surveyor(monitoring.recorder.grad_norm), Viewer("run")
        for job in jobs:
            monitoring.recorder.submitted(job.queue)
        trackers = Trackers(files.root / "trackers", files.on_log, identity=identity(journal))
        stack.callback(trackers.close)
        lives = Lives(
            journal,
            files.job_files,
            [files, view, monitoring.recorder, trackers],
            warn=lambda message: console.print(Text(message, style="yellow"), soft_wrap=True),
            on_checkpoint=monitoring.recorder.on_checkpoint,
        )
        waiting = console.status("starting workers") if console.is_terminal else nullcontext()
        with waiting:
            cluster = _cluster(options, num_bases=len({estimate.base for estimate in estimates.values()}))
        stack.callback(cluster.shutdown)
        budget = fixed_token_budget(options.token_budget, journal, estimates.values(), cluster.devices())
        settings = WorkerSettings(
            staging_dir=files.staging,
            checkpoints_dir=files.checkpoints,
            token_budget=budget,
            file_rules=FileRules(directory=os.getcwd()),
        )
        scheduler = Scheduler(jobs, estimates, cluster, settings, lives, publish=files.publish)
        refresh: Callable[[], None] = lambda: None  # noqa: E731
        if isinstance(view, LiveTable):
            stack.enter_context(view)
            refresh = lambda: view.refresh(scheduler)  # noqa: E731
        interruption.breaks_off = lambda: cluster.is_interruptible
        try:
            while not scheduler.is_done and interruption.requested is None:
                scheduler.tick(_TICK_SECONDS)
                refresh()
                if options.metrics_port is not None:
                    monitoring.recorder.turned(scheduler.tick_seconds)
                    if surveyor.is_due:
                        cluster_view = viewer.view(scheduler, cluster.devices(), budget)
                        monitoring.figures = surveyor.take(scheduler, cluster_view, count_jobs=True)
        except Interrupted:
            if interruption.is_urgent:
                raise
        if interruption.requested is not None and not scheduler.is_done:
            _interrupt(scheduler, interruption)
        return scheduler


def _interrupt(scheduler: Scheduler, interruption: Interruption) -> NoReturn:
    """Save what there is to save, and end."""
    assert interruption.requested is not None
    interruption.breaks_off = lambda: False
    name = signal.Signals(interruption.requested).name
    scheduler.preempt(interruption.grace_seconds, f"the run was interrupted ({name})")
    raise Interrupted(interruption.requested, _where_jobs_stand(list(scheduler.jobs.values())))


def _where_jobs_stand(jobs: Sequence[Job]) -> str:
    going_on = [job for job in jobs if not job.state.is_terminal]
    saved = [f"{job.spec.name} at step {job.checkpoints[0].step}" for job in going_on if job.checkpoints]
    shown = saved if len(saved) <= _MOST_NAMED else [*saved[:_MOST_NAMED], f"{len(saved) - _MOST_NAMED} more"]
    rest = len(going_on) - len(saved)
    return "; ".join(
        [
            *([f"saved: {', '.join(shown)}"] if saved else []),
            *([f"{rest} {'job starts' if rest == 1 else 'jobs start'} from the beginning"] if rest else []),
        ]
    )


def _cluster(options: RunOptions, num_bases: int) -> Cluster:
    num_workers = options.workers or min(num_bases, os.cpu_count() or 1)
    if options.in_process:
        from orchestrator.clusters.in_process import InProcessCluster

        return InProcessCluster(host_devices(num_workers))
    if options.ray_address is None:
        from orchestrator.clusters.ray_environment import use_loopback

        use_loopback()
    from orchestrator.clusters.ray_cluster import RayCluster

    return RayCluster(
        num_workers=num_workers,
        address=options.ray_address,
        lease_seconds=options.lease_seconds,
        shared_root=options.output_dir,
    )
