"""What jobs measure, on its way into the journal: collected, and written a few times a minute in one transaction."""

from __future__ import annotations

from jobs.records import EvalReport, Event, Job, ResumeReport, StepReport
from orchestrator.journal import Journal, MetricPoint


class MetricsHistory:
    """A listener. Workers keep their reports until `write` has returned, so nothing is lost in between."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._points: list[MetricPoint] = []

    def on_step(self, job: Job, report: StepReport) -> None:
        """Keep a step that is to be logged."""
        if report.logged:
            self._points.append(MetricPoint.of_step(report))

    def on_evaluation(self, job: Job, report: EvalReport) -> None:
        """Keep it."""
        self._points.append(MetricPoint.of_evaluation(report))

    def on_resume(self, job: Job, report: ResumeReport) -> None:
        """Cut the history after what the checkpoint has seen: the rest happens again."""
        self.write()
        self._journal.cut_metrics(job.id, step=report.progress.step, evaluated_at=report.evaluated_at)

    def on_event(self, job: Job, event: Event) -> None:
        """The end of a job is when all of its points should be there."""
        if event.state.is_terminal:
            self.write()

    def on_log(self, job: Job, message: str) -> None:
        """No measurement."""

    def write(self) -> None:
        """Make durable what was collected.

        Raises:
            DiskFullError: No room; it stays collected.
        """
        if self._points:
            self._journal.record_metrics(self._points)
            self._points = []
