"""`loraloom serve`: takes jobs in over HTTP and sees them through, for months.

What is true stands in the journal. This process can be killed at any moment: the next one takes over the workers that
still train, and lets what died go on from its checkpoints.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any

from rich.console import Console
from rich.text import Text

from jobs.checkpoints import DiskFullError
from jobs.errors import LoraloomError
from jobs.records import Job
from jobs.view import ClusterView
from orchestrator.api.address import Address
from orchestrator.api.app import build_app
from orchestrator.api.local_paths import LocalPaths
from orchestrator.api.server import HttpServer
from orchestrator.api.tokens import Tokens
from orchestrator.cluster_view import Viewer
from orchestrator.identity import identity
from orchestrator.interruption import Interrupted, Interruption
from orchestrator.journal import Journal
from orchestrator.lives import Lives
from orchestrator.metrics_history import MetricsHistory
from orchestrator.monitoring.exporter import Monitoring
from orchestrator.monitoring.figures import Surveyor
from orchestrator.monitoring.targets import announce
from orchestrator.output_directory import OutputDirectory
from orchestrator.scheduler import Scheduler
from orchestrator.serve_options import ServeOptions
from orchestrator.service_cluster import ClusterKeeper
from orchestrator.snapshot import PolicySettings
from orchestrator.submissions import Submissions
from orchestrator.takeover import remember, take_over
from orchestrator.trackers.feed import Trackers
from workers.confinement import work_in_empty_folder
from workers.settings import WorkerSettings
from workers.store_access import is_in_process

_TICK_SECONDS = 0.25
_VIEW_SECONDS = 1.0
_REASONS_SECONDS = 2.0
_MOST_REASONS = 200
"""Waiting jobs whose reason is written down at a time."""
_STAGING = "service"
_MEMORY_SECONDS = 30.0


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
    options = options.absolute()
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(options.data_dir / "journal.db"))
        files = OutputDirectory(
            options.data_dir, storage_uri=options.storage_uri, name_of=lambda job: job.id, staging=_STAGING
        )
        stack.callback(files.close)
        work_in_empty_folder(files.working)
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
            not_ready=lambda: "it is being stopped; jobs are saved and go on later" if service.is_draining else None,
            registry=monitoring.registry,
            log_path=files.log_of,
            job_files=files.job_files,
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
        self.is_draining = False
        self._options = options
        self._journal = journal
        self._files = files
        self._console = console
        self._monitoring = monitoring
        self._surveyor = Surveyor(monitoring.recorder.grad_norm)
        self._id = identity(journal)
        self._trackers = Trackers(files.root / "trackers", files.on_log, identity=self._id)
        self._submissions = Submissions(
            journal,
            files.job_files,
            token_budget=options.token_budget,
            on_submitted=monitoring.recorder.submitted,
            file_rules=LocalPaths(own=files.root, roots=options.roots).rules,
            working_dir=files.working,
        )
        self._viewer = Viewer("nothing yet")
        self._remembered: dict[str, Any] = {}
        """As the journal has it."""
        self._remembered_at = 0.0
        self._viewed_at = self._reasoned_at = 0.0
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
        options = self._options
        keeper = ClusterKeeper(
            self._id,
            self._files.root,
            in_process=options.in_process,
            ray_address=options.ray_address,
            resources=options.resources,
            object_store_bytes=options.object_store_bytes,
            lease_seconds=options.lease_seconds,
            shares_folder=options.storage_uri is None,
            say=self.say,
        )
        is_to_end = not keeper.may_train
        self._viewer = Viewer(keeper.executor)
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
            scheduler = take_over(
                self._journal,
                self._files,
                keeper.cluster,
                lives,
                self._submissions,
                policy=PolicySettings(
                    largest_device_bytes=options.largest_device_bytes, may_grow=options.ray_address is not None
                ),
                queues=options.queues,
                on_lost=self._monitoring.recorder.lost_meanwhile,
                say=self.say,
            )
            is_to_end = False
            interruption.breaks_off = lambda: keeper.cluster.is_interruptible
            try:
                while interruption.requested is None:
                    self._turn(scheduler, keeper)
            except Interrupted:
                if interruption.is_urgent:
                    raise
            self._drain(scheduler, interruption)
        except Interrupted:
            is_to_end = True
            raise
        finally:
            self._submissions.close()
            self._trackers.close()
            keeper.let_go(is_to_end=is_to_end)

    def _turn(self, scheduler: Scheduler, keeper: ClusterKeeper) -> None:
        cluster = keeper.cluster
        self.wake.clear()
        self._submissions.hear(scheduler)
        self._submissions.take_checks(scheduler, cluster)
        has_workers = scheduler.num_workers > 0
        scheduler.tick(_TICK_SECONDS if has_workers else 0.0)
        if not has_workers:
            self.wake.wait(_TICK_SECONDS)
        self._monitoring.recorder.turned(scheduler.tick_seconds)
        keeper.look_after(scheduler.num_workers + scheduler.wanted_devices)
        now = time.monotonic()
        if now - self._viewed_at >= _VIEW_SECONDS:
            self._viewed_at = now
            budget = self._submissions.token_budget or WorkerSettings(staging_dir=self._files.staging).token_budget
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
                remember(self._journal, memory)
                self._remembered = memory

    def _drain(self, scheduler: Scheduler, interruption: Interruption) -> None:
        assert interruption.requested is not None
        self.is_draining = True
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
