"""Counts what happens in jobs' lives, for Prometheus. Counters begin at nought with the process, as it expects."""

from __future__ import annotations

import math

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from dashboards.metric_table import BY_NAME, MOST_QUEUES, PREFIX
from jobs.records import CheckpointRecord, EvalReport, Event, Job, JobState, ResumeReport, StepReport
from orchestrator.lives import LOST

OTHER = "other"
"""Queue under which all are counted that come after the first hundred: names are for users to choose."""


class QueueNames:
    """The first names keep theirs."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def bounded(self, queue: str) -> str:
        """A label for a queue."""
        if queue not in self._known and len(self._known) < MOST_QUEUES:
            self._known.add(queue)
        return queue if queue in self._known else OTHER


def counter(name: str, registry: CollectorRegistry) -> Counter:
    """A counter of the table."""
    metric = BY_NAME[name]
    return Counter(f"{PREFIX}{name}", metric.help, metric.labels, registry=registry)


def histogram(name: str, registry: CollectorRegistry) -> Histogram:
    """A histogram of the table."""
    metric = BY_NAME[name]
    return Histogram(f"{PREFIX}{name}", metric.help, metric.labels, buckets=metric.buckets, registry=registry)


class Recorder:
    """Listens to jobs' lives; in the scheduler's thread, while others scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.queues = QueueNames()
        self._grad_norms: dict[str, float] = {}
        self._submitted = counter("jobs_submitted_total", registry)
        self._finished = counter("jobs_finished_total", registry)
        self._waits = histogram("job_wait_seconds", registry)
        self._durations = histogram("job_duration_seconds", registry)
        self._preemptions = counter("job_preemptions_total", registry)
        self._recoveries = counter("job_recoveries_total", registry)
        self._nonfinite = counter("job_nonfinite_steps_total", registry)
        self._saves = histogram("checkpoint_save_seconds", registry)
        self._saved_bytes = counter("checkpoint_bytes_total", registry)
        last = BY_NAME["checkpoint_last_success_timestamp_seconds"]
        self._last_save = Gauge(last.full_name, last.help, registry=registry)
        self._ticks = histogram("scheduler_tick_seconds", registry)
        self._commits = histogram("journal_commit_seconds", registry)
        self._open: dict[str, int] = {}
        """Jobs with an open attempt → recoveries that they had when it was first heard of."""

    def submitted(self, queue: str) -> None:
        """A job was taken in."""
        self._submitted.labels(self.queues.bounded(queue)).inc()

    def lost_meanwhile(self) -> None:
        """An attempt has died with its worker while nobody scheduled."""
        self._recoveries.labels(LOST).inc()

    def grad_norm(self, job_id: str) -> float | None:
        """Of a job's last logged step."""
        return self._grad_norms.get(job_id)

    def turned(self, seconds: float) -> None:
        """The scheduler has taken a turn."""
        self._ticks.observe(seconds)

    def committed(self, seconds: float) -> None:
        """The journal has taken a transaction; from any thread."""
        self._commits.observe(seconds)

    def on_checkpoint(self, record: CheckpointRecord, seconds: float) -> None:
        """A checkpoint counts now."""
        self._saves.observe(seconds)
        self._saved_bytes.inc(record.size_bytes)
        self._last_save.set_to_current_time()

    def on_event(self, job: Job, event: Event) -> None:
        """Count ends, waits, and attempts that were not the last."""
        ledger, queue = job.progress.ledger, self.queues.bounded(job.queue)
        if event.state is JobState.RUNNING and ledger.began_unix_seconds == event.time_unix_seconds:
            self._waits.labels(queue).observe(ledger.waiting_seconds)
        if event.state.is_terminal:
            self._finished.labels(queue, event.state.value, event.reason).inc()
            if ledger.began_unix_seconds is not None:
                self._durations.labels(queue).observe(max(0.0, event.time_unix_seconds - ledger.began_unix_seconds))
            self._open.pop(job.id, None)
            self._grad_norms.pop(job.id, None)
        elif job.worker_id is not None:
            self._open.setdefault(job.id, ledger.recoveries)
        elif job.id in self._open:
            lost = ledger.recoveries > self._open.pop(job.id)
            (self._recoveries if lost else self._preemptions).labels(event.reason).inc()

    def on_step(self, job: Job, report: StepReport) -> None:
        """Count what was skipped."""
        self._open.setdefault(job.id, job.progress.ledger.recoveries)
        if report.skipped:
            self._nonfinite.labels("gradient" if math.isfinite(report.loss) else "loss").inc()
        if report.logged:
            self._grad_norms[job.id] = report.grad_norm

    def on_evaluation(self, job: Job, report: EvalReport) -> None:
        """The job's progress has it."""

    def on_resume(self, job: Job, report: ResumeReport) -> None:
        """The new attempt was counted when the old one ended."""

    def on_log(self, job: Job, message: str) -> None:
        """The log file has it."""
