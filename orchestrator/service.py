"""`loraloom serve`: takes jobs in over HTTP and sees them through, for months.

What is true stands in the journal. This process can be killed at any moment: the next one takes over the workers that
still train, and lets what died go on from its checkpoints.
"""

from __future__ import annotations

import secrets
import shutil
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from jobs.checkpoints import DiskFullError
from jobs.errors import LoraloomError, WorkerError
from jobs.records import Job, JobState
from jobs.spec import JobSpec
from jobs.view import ClusterView
from orchestrator.api.address import Address
from orchestrator.api.app import build_app
from orchestrator.api.server import HttpServer
from orchestrator.api.tokens import Tokens
from orchestrator.checking import Checker
from orchestrator.cluster_view import Viewer
from orchestrator.clusters import Cluster
from orchestrator.clusters.ray_daemon import RayDaemon
from orchestrator.interruption import GRACE_SECONDS, Interrupted, Interruption
from orchestrator.journal import Journal, JournaledJob
from orchestrator.lives import UNPUBLISHED, Lives
from orchestrator.metrics_history import MetricsHistory
from orchestrator.monitoring.exporter import Monitoring
from orchestrator.monitoring.figures import Surveyor
from orchestrator.monitoring.targets import announce
from orchestrator.output_directory import OutputDirectory
from orchestrator.readoption import Adopting, readopt
from orchestrator.retries import LEASE_SECONDS
from orchestrator.roster import Unpublished
from orchestrator.scheduler import Scheduler
from orchestrator.snapshot import PolicySettings, Queue
from orchestrator.token_budget import token_budget
from orchestrator.trackers.feed import Trackers
from workers.estimate import Estimate
from workers.settings import WorkerSettings
from workers.store_access import is_in_process

_TICK_SECONDS = 0.25
_VIEW_SECONDS = 1.0
_REASONS_SECONDS = 5.0
_MOST_REASONS = 200
"""Waiting jobs whose reason is written down at a time."""
_REBUILD_SECONDS = 5.0
_STAGING = "service"
_SERVICE_ID = "service_id"
_TOKEN_BUDGET = "token_budget"
_MEMORY = "scheduler_memory"
_MEMORY_SECONDS = 30.0


class ServiceCluster(Cluster, Adopting, Protocol):
    """A cluster that a service can find its workers in again."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What `loraloom serve` was asked."""

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 8400
    names: tuple[str, ...] = ()
    """Further host names that it is reached by."""
    token_file: Path | None = None
    roots: tuple[Path, ...] | None = None
    """Folders that the data of jobs must lie in; anywhere where `None`."""
    storage_uri: str | None = None
    """Root of an object store for checkpoints and adapters; the data directory where `None`."""
    ray_address: str | None = None
    """Of a Ray that runs already; one of our own where `None`."""
    in_process: bool = False
    workers: int | None = None
    """CPU workers on a node; one where `None`."""
    token_budget: int | None = None
    queues: tuple[Queue, ...] = ()
    largest_device_bytes: int = 0
    """Of the devices that can ever join; 0 where the operator does not say."""
    prometheus_dir: Path | None = None
    """Folder that Prometheus watches for services; `prometheus` in the data directory where `None`."""
    grace_seconds: float = GRACE_SECONDS
    lease_seconds: float = LEASE_SECONDS


def serve(options: ServeOptions, console: Console) -> None:
    """Serve until a signal comes.

    Args:
        options: What to serve and where.
        console: For a person who looks on.

    Raises:
        LoraloomError: The data directory, the address or Ray cannot be used.
        Interrupted: By a signal; all jobs are saved and go on when it is started again.
    """
    try:
        options.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LoraloomError(f"--data-dir {options.data_dir} cannot be used: {error.strerror}") from error
    if options.storage_uri is not None and is_in_process(options.storage_uri) and not options.in_process:
        raise LoraloomError(f"--storage {options.storage_uri} is seen by one process only; workers of Ray need another")
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(options.data_dir / "journal.db"))
        files = OutputDirectory(
            options.data_dir, storage_uri=options.storage_uri, name_of=lambda job: job.id, staging=_STAGING
        )
        stack.callback(files.close)
        monitoring = Monitoring(journal.counts_by_state_and_queue)
        journal.on_commit = monitoring.recorder.committed
        service = _Service(options, journal, files, console, monitoring)
        address = Address(host=options.host, names=options.names)
        app = build_app(
            journal,
            service.wake.set,
            data_dir=files.root,
            address=address,
            tokens=Tokens.read(options.token_file, warn=service.say) if options.token_file is not None else None,
            roots=options.roots,
            cluster=lambda: service.view,
            registry=monitoring.registry,
            log_path=files.log_of,
            open_artifact=files.job_files.open,
        )
        server = HttpServer(app, options.host, options.port)
        interruption = stack.enter_context(Interruption(grace_seconds=options.grace_seconds))
        stack.enter_context(server)
        service.announce(server.url)
        console.print(Text(f"serving at {server.url}, data in {files.root}"), soft_wrap=True)
        service.run(interruption)


class _Service:
    """The part that decides: one thread, which owns the scheduler."""

    def __init__(
        self,
        options: ServeOptions,
        journal: Journal,
        files: OutputDirectory,
        console: Console,
        monitoring: Monitoring,
    ) -> None:
        self.wake = threading.Event()
        self.view: ClusterView | None = None
        self._options = options
        self._journal = journal
        self._files = files
        self._console = console
        self._monitoring = monitoring
        self._surveyor = Surveyor(monitoring.recorder.grad_norm)
        self._trackers = Trackers(files.root / "trackers", files.on_log)
        self._checker = Checker()
        self._daemon: RayDaemon | None = None
        self._may_train = False
        """Whether an earlier service may have left workers that train."""
        self._viewer = Viewer("nothing yet")
        self._id = journal.fix_setting(_SERVICE_ID, secrets.token_hex(6))
        self._sequence = 0
        self._last_submitted = journal.num_submitted()
        self._budget = options.token_budget or journal.setting(_TOKEN_BUDGET)
        self._remembered: dict[str, Any] = {}
        """As the journal has it."""
        self._remembered_at = 0.0
        self._viewed_at = self._reasoned_at = self._rebuilt_at = 0.0
        self._said: dict[str, str] = {}
        """Reasons for waiting, as the journal has them."""

    def announce(self, url: str) -> None:
        """Let Prometheus find it."""
        folder = self._options.prometheus_dir or self._files.root / "prometheus"
        try:
            announce(folder, self._id, url.rpartition("/")[2])
        except OSError as error:
            self.say(f"Prometheus cannot be told of this service: {folder}: {error.strerror}")

    def run(self, interruption: Interruption) -> None:
        """Until a signal comes; then everything is saved within the grace."""
        # Before Ray is there nothing trains, and whatever is broken off is begun again.
        cluster = self._cluster()
        is_to_end = not self._may_train
        lives = Lives(
            self._journal,
            self._files.job_files,
            [self._files, self._monitoring.recorder, self._trackers],
            warn=self.say,
            on_checkpoint=self._monitoring.recorder.on_checkpoint,
            history=MetricsHistory(self._journal),
        )
        try:
            self._files.job_files.claim(self._id)
            scheduler = self._take_over(cluster, lives)
            is_to_end = False
            interruption.breaks_off = lambda: cluster.is_interruptible
            try:
                while interruption.requested is None:
                    self._turn(scheduler, cluster)
            except Interrupted:
                if interruption.is_urgent:
                    raise
            self._drain(scheduler, interruption)
        except Interrupted:
            is_to_end = True
            raise
        finally:
            self._checker.close()
            self._trackers.close()
            self._let_go(cluster, is_to_end=is_to_end)

    def _cluster(self) -> ServiceCluster:
        options = self._options
        if options.in_process:
            from orchestrator.clusters.host import host_devices
            from orchestrator.clusters.in_process import InProcessCluster

            self._viewer = Viewer("in this process, without Ray")
            return InProcessCluster(host_devices(options.workers or 1))
        # Says which Ray is meant before anything imports it.
        self._daemon = RayDaemon(self._files.root) if options.ray_address is None else None
        self._may_train = self._daemon is None or self._daemon.find() is not None
        from orchestrator.clusters.ray_nodes import WorkerResources
        from orchestrator.clusters.ray_service import RayService

        self._viewer = Viewer(f"Ray at {options.ray_address}" if options.ray_address else "a Ray of its own")
        return RayService(
            self._id,
            daemon=self._daemon,
            address=options.ray_address,
            resources=WorkerResources(workers_per_node=options.workers),
            lease_seconds=options.lease_seconds,
        )

    def _let_go(self, cluster: ServiceCluster, *, is_to_end: bool) -> None:
        """End all workers and a Ray of our own; or, where nobody has asked for that, leave them to the next service."""
        disconnect = getattr(cluster, "disconnect", None)
        with suppress(Exception):
            cluster.shutdown() if is_to_end or disconnect is None else disconnect()
        if is_to_end and self._daemon is not None:
            with suppress(LoraloomError, OSError):
                self._daemon.stop()

    def _take_over(self, cluster: ServiceCluster, lives: Lives) -> Scheduler:
        """Begin with what the journal has and what still trains."""
        unpublished = {job_id: Unpublished(**one) for job_id, one in (self._journal.setting(UNPUBLISHED) or {}).items()}
        adopted = readopt(
            self._journal,
            cluster,
            at=time.time(),
            unpublished=unpublished,
            on_lost=self._monitoring.recorder.lost_meanwhile,
        )
        for folder in self._staged():
            if folder.name not in {worker.id for worker in adopted}:
                shutil.rmtree(folder, ignore_errors=True)
        known = self._journal.unfinished()
        self._sequence = known.sequence
        self._count(known.jobs)
        jobs: list[Job] = []
        estimates: dict[str, Estimate] = {}
        for found in known.jobs:
            job = self._job(found)
            if job is not None:
                jobs.append(job)
                self._estimate(found, job, estimates)
        now = time.time()
        settings = WorkerSettings(
            staging_dir=self._files.staging,
            checkpoints_dir=self._files.checkpoints,
            storage_uri=self._options.storage_uri,
        )
        if self._budget is not None:
            settings = replace(settings, token_budget=self._budget)
        if adopted:
            training = sum(job.worker_id is not None for job in jobs)
            self.say(f"took over {len(adopted)} workers with {training} jobs that still train")
        return Scheduler(
            jobs,
            estimates,
            cluster,
            settings,
            lives,
            publish=self._files.publish,
            adopted=adopted,
            unpublished=unpublished,
            num_started=self._journal.num_workers_started(),
            policy=PolicySettings(
                largest_device_bytes=self._options.largest_device_bytes,
                may_grow=self._options.ray_address is not None,
            ),
            queues=self._options.queues,
            memory=self._journal.setting(_MEMORY) or {},
            waited_seconds={found.id: now - found.submitted_unix_seconds for found in known.jobs},
        )

    def _staged(self) -> list[Path]:
        return [one for one in self._files.staging.iterdir() if one.is_dir()] if self._files.staging.is_dir() else []

    def _job(self, found: JournaledJob) -> Job | None:
        """A job as the scheduler owns it; `None` where its spec cannot be understood any more."""
        try:
            spec = JobSpec.model_validate(found.spec)
        except ValidationError as error:
            said = error.errors()[0]["msg"]
            self._journal.change(
                found.id,
                attempt=None,
                state=JobState.FAILED,
                reason="invalid",
                message=f"this version does not take its spec any more: {said}",
                at=time.time(),
            )
            return None
        job = Job(
            id=found.id,
            spec=spec,
            state=found.state,
            desired=found.desired,
            reason=found.reason,
            message=found.message,
            worker_id=found.worker_id if found.attempt_is_open else None,
            attempt=found.attempt,
            num_charged=found.num_charged,
            checkpoints=found.checkpoints,
            progress=replace(found.progress, ledger=found.ledger),
            artifact=found.artifact,
        )
        job.priority, job.queue = found.priority, found.queue
        # One that was never begun has left nothing; of thousands that wait, a store would be asked for each.
        if job.worker_id is None and job.attempt:
            self._files.job_files.sweep(job.id, job.checkpoints)
        return job

    def _estimate(self, found: JournaledJob, job: Job, estimates: dict[str, Estimate]) -> None:
        """Take what a check before has found out, or have the job checked."""
        if found.estimate is not None:
            with suppress(TypeError, KeyError):
                estimates[job.id] = Estimate.from_json(found.estimate)
                return
        self._checker.submit(job.id, job.spec)

    def _turn(self, scheduler: Scheduler, cluster: Cluster) -> None:
        self.wake.clear()
        self._hear(scheduler)
        self._take_checks(scheduler, cluster)
        has_workers = any(record.ended is None for record in scheduler.workers.values())
        scheduler.tick(_TICK_SECONDS if has_workers else 0.0)
        if not has_workers:
            self.wake.wait(_TICK_SECONDS)
        self._monitoring.recorder.turned(scheduler.tick_seconds)
        self._look_after(scheduler, cluster)
        now = time.monotonic()
        if now - self._viewed_at >= _VIEW_SECONDS:
            self._viewed_at = now
            budget = self._budget or WorkerSettings(staging_dir=self._files.staging).token_budget
            self.view = self._viewer.view(scheduler, cluster.devices(), budget)
            if self._surveyor.is_due:
                self._monitoring.figures = self._surveyor.take(scheduler, self.view)
            self._trackers.pass_on()
        if now - self._reasoned_at >= _REASONS_SECONDS:
            self._reasoned_at = now
            self._write_reasons(scheduler)
        if now - self._remembered_at >= _MEMORY_SECONDS:
            self._remembered_at = now
            self._remember(scheduler)
        scheduler.forget_ended()

    def _hear(self, scheduler: Scheduler) -> None:
        """Take in what owners have asked since the last turn."""
        while True:
            changed = self._journal.changed_since(self._sequence)
            self._count(changed.jobs)
            for found in changed.jobs:
                job = scheduler.jobs.get(found.id)
                if job is not None and job.state.is_terminal and not found.state.is_terminal:
                    scheduler.forget_ended()
                    job = None
                if job is not None:
                    scheduler.steer(found.id, desired=found.desired, priority=found.priority, queue=found.queue)
                elif not found.state.is_terminal:
                    self._add(scheduler, found)
            if changed.sequence == self._sequence:
                return
            self._sequence = changed.sequence

    def _count(self, jobs: Sequence[JournaledJob]) -> None:
        """Tell the metrics of those that were submitted since this service began; they come in no order."""
        new = [found for found in jobs if found.submitted > self._last_submitted]
        for found in new:
            self._monitoring.recorder.submitted(found.queue)
        self._last_submitted = max((found.submitted for found in new), default=self._last_submitted)

    def _add(self, scheduler: Scheduler, found: JournaledJob) -> None:
        job = self._job(found)
        if job is None:
            return
        scheduler.add(job)
        known: dict[str, Estimate] = {}
        self._estimate(found, job, known)
        if job.id in known:
            scheduler.checked(job.id, known[job.id])

    def _take_checks(self, scheduler: Scheduler, cluster: Cluster) -> None:
        for one in self._checker.poll():
            if one.estimate is None:
                scheduler.refuse(one.job_id, "; ".join(one.problems) or "it cannot be used")
                continue
            if self._budget is None and (devices := cluster.devices()):
                # Found once and fixed: what shares a pack must not depend on when the service was started.
                self._budget = self._journal.fix_setting(_TOKEN_BUDGET, token_budget([one.estimate], devices))
                scheduler.fix_token_budget(self._budget)
            self._journal.set_estimate(one.job_id, one.estimate.to_json())
            scheduler.checked(one.job_id, one.estimate)

    def _look_after(self, scheduler: Scheduler, cluster: Cluster) -> None:
        """Rebuild Ray where it is gone; ask for the devices that the queue could fill."""
        rebuild = getattr(cluster, "rebuild", None)
        if rebuild is None:
            return
        if not cluster.is_alive:  # type: ignore[attr-defined]
            if time.monotonic() - self._rebuilt_at < _REBUILD_SECONDS:
                time.sleep(_TICK_SECONDS)
                return
            self._rebuilt_at = time.monotonic()
            self.say("Ray is gone; it is made anew, and all jobs go on from their checkpoints")
            try:
                rebuild()
            except WorkerError as error:
                self.say(f"not yet: {error}")
            return
        in_use = sum(record.ended is None for record in scheduler.workers.values())
        cluster.request_devices(in_use + scheduler.wanted_devices)  # type: ignore[attr-defined]

    def _write_reasons(self, scheduler: Scheduler) -> None:
        """Let the journal say why jobs wait, for those who ask the API."""
        told: dict[str, str] = {}
        for job_id in scheduler.waiting_ids[:_MOST_REASONS]:
            reason = scheduler.why(job_id)
            if reason is not None and self._said.get(job_id) != reason:
                told[job_id] = reason
        if told:
            self._journal.tell_waiting(told)
        self._said = {job_id: said for job_id, said in (self._said | told).items() if job_id in scheduler.jobs}

    def _remember(self, scheduler: Scheduler) -> None:
        """Keep what the next service decides by, and no job's own record says."""
        memory = scheduler.memory
        if memory != self._remembered:
            # For want of room it is only older than it could be.
            with suppress(DiskFullError):
                self._journal.put_setting(_MEMORY, memory)
                self._remembered = memory

    def _drain(self, scheduler: Scheduler, interruption: Interruption) -> None:
        assert interruption.requested is not None
        interruption.breaks_off = lambda: False
        name = signal.Signals(interruption.requested).name
        self.say(f"{name}: saving all jobs, within {interruption.grace_seconds:g} seconds")
        self._remember(scheduler)
        scheduler.preempt(interruption.grace_seconds, f"the service was stopped ({name})")
        raise Interrupted(interruption.requested, _where(list(scheduler.jobs.values())))

    def say(self, message: str) -> None:
        """To a person who looks on."""
        self._console.print(Text(message), soft_wrap=True)


def _where(jobs: Sequence[Job]) -> str:
    going_on = sum(not job.state.is_terminal for job in jobs)
    return f"{going_on} {'job goes' if going_on == 1 else 'jobs go'} on when it is started again"
