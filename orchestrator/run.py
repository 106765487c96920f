"""`loraloom run`: all jobs of some spec files, from first check to published adapters, on a cluster of our own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from jobs.errors import Problem, SpecError
from jobs.loading import LoadedSpec, load_files, locate
from jobs.records import Job, JobProgress, JobState
from orchestrator.clusters import Cluster
from orchestrator.clusters.host import host_devices
from orchestrator.live import LiveTable, PlainLines
from orchestrator.output_directory import OutputDirectory
from orchestrator.plots import plot_losses
from orchestrator.scheduler import Listener, Scheduler
from orchestrator.summary import RunSummary, summarise
from workers.preflight import Estimate, Preflight
from workers.worker import WorkerSettings

_TICK_SECONDS = 0.25


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
    token_budget: int = 4096


def run(options: RunOptions, console: Console) -> RunSummary:
    """Check, place, train, publish.

    Args:
        options: What to run and where.
        console: For progress; data goes nowhere but to the output directory and the return value.

    Raises:
        SpecError: Something is wrong with the specs or with what they point to; nothing was started.
        LoraloomError: The output directory or Ray cannot be used.
    """
    began = time.monotonic()
    loaded = load_files(options.specs, options.overrides)
    with ExitStack() as stack:
        files = OutputDirectory(options.output_dir)
        stack.callback(files.close)
        jobs, finished = _split_finished(loaded, files)
        fresh = [one for one in loaded if one.spec.name not in finished]
        estimates = check(fresh, token_budget=options.token_budget, console=console)
        for job in jobs:
            if not job.state.is_terminal:
                files.begin(job)
        workers = _train(jobs, estimates, files, options, console) if fresh else None
        try:
            plot_losses(files.metrics, [job.spec.name for job in jobs], files.root / "loss.png")
        except Exception as error:  # the jobs have ended as they have; a picture must not change how that is told
            console.print(Text(f"the loss curves could not be drawn: {error}", style="yellow"))
        statuses = [record.status for record in workers.workers.values() if record.status] if workers else []
        return summarise(jobs, statuses, time.monotonic() - began)


def check(loaded: Sequence[LoadedSpec], *, token_budget: int, console: Console) -> dict[str, Estimate]:
    """Preflight every spec; all problems of all of them at once.

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
            estimate, found = preflight.check(one.spec, token_budget=token_budget)
            problems += [locate(problem, one) for problem in found]
            if estimate is not None:
                estimates[one.spec.name] = estimate
    if problems:
        raise SpecError(problems)
    return estimates


def _split_finished(loaded: Sequence[LoadedSpec], files: OutputDirectory) -> tuple[list[Job], set[str]]:
    """Jobs for all specs; those whose adapter is there already, from the same spec, start as SUCCEEDED."""
    jobs, finished, problems = [], set(), []
    for one in loaded:
        job = Job(id=one.spec.name, spec=one.spec)
        jobs.append(job)
        folder = files.artifacts / one.spec.name
        try:
            manifest = files.finished(one.spec.name)
        except ValueError as error:
            problems.append(
                locate(Problem(message=f"{error}; move {folder} away to train the job again", field="name"), one)
            )
            continue
        if manifest is None:
            continue
        if manifest["spec_sha256"] != one.spec.spec_sha256():
            changed = _changed(manifest["spec"], one.spec.model_dump(mode="json"))
            message = (
                f"{folder} holds an adapter trained from another spec ({'; '.join(changed) or 'order of patterns'}); "
                "rename the job, name another --output-dir, or move the folder away"
            )
            problems.append(locate(Problem(message=message, field="name", value=one.spec.name), one))
            continue
        metrics = manifest["metrics"]
        job.state, job.reason = JobState.SUCCEEDED, "finished_before"
        job.message, job.artifact = "finished in an earlier run", str(folder)
        job.progress = JobProgress(
            step=metrics.get("step", 0),
            total_steps=metrics.get("step", 0),
            train_loss=metrics.get("train_loss"),
            eval_loss=metrics.get("eval_loss"),
            eval_exact_match=metrics.get("eval_exact_match"),
        )
        finished.add(one.spec.name)
    if problems:
        raise SpecError(problems)
    return jobs, finished


def _changed(before: object, after: object, path: str = "") -> list[str]:
    """Dotted fields that differ, with both values."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = dict.fromkeys([*before, *after])
        return [
            line
            for key in keys
            for line in _changed(before.get(key), after.get(key), f"{path}.{key}" if path else str(key))
        ]
    return [] if before == after else [f"{path}: {before!r} then, {after!r} now"]


def _train(
    jobs: Sequence[Job],
    estimates: dict[str, Estimate],
    files: OutputDirectory,
    options: RunOptions,
    console: Console,
) -> Scheduler:
    settings = WorkerSettings(staging_dir=files.staging, token_budget=options.token_budget)
    view: LiveTable | PlainLines = LiveTable(console) if console.is_terminal else PlainLines(console)
    listeners: list[Listener] = [files, view]
    with ExitStack() as stack:
        waiting = console.status("starting workers") if console.is_terminal else nullcontext()
        with waiting:
            cluster = _cluster(options, num_bases=len({estimate.base for estimate in estimates.values()}))
        stack.callback(cluster.shutdown)
        scheduler = Scheduler(jobs, estimates, cluster, settings, listeners, publish=files.publish)
        refresh: Callable[[], None] = lambda: None  # noqa: E731
        if isinstance(view, LiveTable):
            stack.enter_context(view)
            refresh = lambda: view.refresh(scheduler)  # noqa: E731
        while not scheduler.is_done:
            scheduler.tick(_TICK_SECONDS)
            refresh()
        return scheduler


def _cluster(options: RunOptions, num_bases: int) -> Cluster:
    num_workers = options.workers or min(num_bases, os.cpu_count() or 1)
    if options.in_process:
        from orchestrator.clusters.in_process import InProcessCluster

        return InProcessCluster(host_devices(num_workers))
    from orchestrator.clusters.ray_cluster import RayCluster

    return RayCluster(num_workers=num_workers, address=options.ray_address)
