"""What a person sees while a run is going: a table that changes in place, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jobs.records import EvalReport, Event, Job, JobProgress, JobState, ResumeReport, StepReport
from orchestrator.scheduler import Scheduler
from orchestrator.summary import figure

_STYLES = {
    JobState.PENDING: "dim",
    JobState.STARTING: "cyan",
    JobState.RUNNING: "bold cyan",
    JobState.PAUSED: "bold yellow",
    JobState.RECOVERING: "yellow",
    JobState.SUCCEEDED: "green",
    JobState.FAILED: "bold red",
    JobState.CANCELLED: "yellow",
}


_TOLD_AT_ONCE = (JobState.FAILED, JobState.PAUSED, JobState.RECOVERING)
_BEGINNING = JobProgress()


def resumption(report: ResumeReport) -> str:
    """What a job goes on from, for people."""
    if report.record is None:
        return "starts over: it has no checkpoint to go on from"
    progress = report.progress
    differing = "; ".join(report.differences)
    bits = f" (bits may differ from those of an uninterrupted run: {differing})" if differing else ""
    return f"resumed at step {progress.step} of {progress.total_steps}{bits}"


class PlainLines:
    """A line for every change, logged step and evaluation."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def on_event(self, job: Job, event: Event) -> None:
        """State, reason, sentence."""
        self._print(job, f"{event.state} ({event.reason}): {event.message}")

    def on_step(self, job: Job, report: StepReport) -> None:
        """Logged steps only."""
        if report.logged:
            self._print(job, f"step {report.step}/{report.total_steps} loss {report.loss:.4f}")
        if report.skipped:
            self._print(job, f"step {report.step} skipped: loss or gradient not finite")

    def on_evaluation(self, job: Job, report: EvalReport) -> None:
        """Loss and exact match."""
        self._print(job, f"step {report.step} eval loss {report.loss:.4f} exact match {report.exact_match:.1%}")

    def on_resume(self, job: Job, report: ResumeReport) -> None:
        """Where it goes on, and whether bits may differ."""
        self._print(job, resumption(report))

    def on_log(self, job: Job, message: str) -> None:
        """The log file has it."""

    def _print(self, job: Job, message: str) -> None:
        stamp = time.strftime("%H:%M:%S")
        self._console.print(Text(f"{stamp} {job.spec.name}: {message}"), soft_wrap=True, highlight=False)


class LiveTable:
    """A table of all jobs, redrawn in place; failures stay above it as lines."""

    def __init__(self, console: Console, *, now: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._now = now
        self._running_since: dict[str, float] = {}
        self._ended_at: dict[str, float] = {}
        self._first_eval: dict[str, float] = {}
        self._resumed_at: dict[str, JobProgress] = {}
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> LiveTable:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def on_event(self, job: Job, event: Event) -> None:
        """Remember when it ran; say at once what its owner should know."""
        if event.state is JobState.RUNNING:
            self._running_since[job.id] = self._now()
        elif event.state.is_terminal:
            self._ended_at[job.id] = self._now()
        if event.state in _TOLD_AT_ONCE or event.reason == "checkpoint_quarantined":
            style = "red" if event.state is JobState.FAILED else "yellow"
            self._console.print(Text(f"{job.spec.name} {event.state} ({event.reason}): {event.message}", style=style))

    def on_step(self, job: Job, report: StepReport) -> None:
        """The next refresh shows it."""

    def on_evaluation(self, job: Job, report: EvalReport) -> None:
        """The loss before training stays in view."""
        self._first_eval.setdefault(job.id, report.loss)

    def on_resume(self, job: Job, report: ResumeReport) -> None:
        """Rates are counted from there."""
        self._resumed_at[job.id] = report.progress
        self._console.print(Text(f"{job.spec.name} {resumption(report)}", style="dim"))

    def on_log(self, job: Job, message: str) -> None:
        """The log file has it."""

    def refresh(self, scheduler: Scheduler) -> None:
        """Redraw."""
        self._live.update(Group(self._jobs(scheduler), self._workers(scheduler)), refresh=True)

    def _jobs(self, scheduler: Scheduler) -> Table:
        wide = self._console.width >= 110
        evaluating = {
            job_id
            for record in scheduler.workers.values()
            if record.status is not None and record.ended is None
            for job_id in record.status.evaluating
        }
        table = Table(header_style="bold", box=SIMPLE_HEAD, expand=False)
        table.add_column("job", no_wrap=True, min_width=8, max_width=28)
        table.add_column("state", no_wrap=True, min_width=10)
        if wide:
            table.add_column("progress", width=14)
        table.add_column("step", justify="right", no_wrap=True)
        table.add_column("left", justify="right", no_wrap=True)
        table.add_column("train loss", justify="right", no_wrap=True)
        table.add_column("eval loss", justify="right", no_wrap=True)
        table.add_column("tok/s", justify="right", no_wrap=True)
        table.add_column("worker", no_wrap=True)
        room = max(6, self._console.height - 6 - 2 * len(scheduler.workers))
        for job in _most_telling(list(scheduler.jobs.values()), room):
            progress = job.progress
            total = progress.total_steps
            cells: list[Text | str | ProgressBar] = [
                Text(job.spec.name),
                Text("EVALUATING" if job.id in evaluating else str(job.state), style=_STYLES[job.state]),
            ]
            if wide:
                cells.append(ProgressBar(total=total or 1, completed=progress.step, width=14))
            cells += [
                f"{progress.step}/{total or '?'}",
                self._left(job),
                figure(progress.train_loss),
                self._evaluations(job),
                self._rate(job),
                self._where(scheduler, job),
            ]
            table.add_row(*cells)
        hidden = len(scheduler.jobs) - table.row_count
        if hidden:
            table.caption = f"{hidden} more, not shown for lack of room"
        return table

    def _workers(self, scheduler: Scheduler) -> Group:
        lines = []
        for worker_id, record in scheduler.workers.items():
            line, company = Text(f"{worker_id} ", style="bold"), Text("   ", style="dim")
            line.append(f"{record.worker.base.short} on {record.worker.device.id}: ", style="not bold")
            status = record.status
            if record.ended is not None:
                line.append(f"ended, {record.ended}", style="not bold dim")
            elif status is None or not status.base_loaded:
                line.append("loading the base", style="not bold cyan")
            else:
                busy = status.busy_seconds / status.wall_seconds if status.wall_seconds else 0.0
                rate = status.tokens / status.wall_seconds if status.wall_seconds else 0.0
                waiting = f", {status.waiting} waiting" if status.waiting else ""
                line.append(f"{status.adapters} adapters{waiting}, {rate:,.0f} tok/s, {busy:.0%} busy", "not bold")
                together = (scheduler.jobs[job_id].spec.name for job_id in scheduler.active_jobs(worker_id))
                company.append(f"on one base: {', '.join(together)}")
            for text in (line, company):
                text.truncate(self._console.width - 1, overflow="ellipsis")
            lines += [line, company]
        return Group(*lines)

    def _elapsed(self, job: Job) -> float | None:
        since = self._running_since.get(job.id)
        return None if since is None else self._ended_at.get(job.id, self._now()) - since

    def _left(self, job: Job) -> str:
        elapsed, progress = self._elapsed(job), job.progress
        steps = progress.step - self._resumed_at.get(job.id, _BEGINNING).step
        if job.state.is_terminal or not elapsed or steps <= 0 or not progress.total_steps:
            return ""
        seconds = round(elapsed / steps * (progress.total_steps - progress.step))
        return (
            f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
            if seconds >= 3600
            else (f"{seconds // 60}:{seconds % 60:02}")
        )

    def _rate(self, job: Job) -> str:
        elapsed = self._elapsed(job)
        tokens = job.progress.tokens - self._resumed_at.get(job.id, _BEGINNING).tokens
        return f"{tokens / elapsed:,.0f}" if elapsed and tokens > 0 else ""

    def _evaluations(self, job: Job) -> str:
        now, first = job.progress.eval_loss, self._first_eval.get(job.id)
        if now is None or first is None or now == first:
            return figure(now)
        return f"{figure(first)} → {figure(now)}"

    def _where(self, scheduler: Scheduler, job: Job) -> str:
        if job.worker_id is None:
            return ""
        others = len(scheduler.neighbours(job))
        return f"{job.worker_id} +{others}" if others else job.worker_id


def _most_telling(jobs: list[Job], room: int) -> list[Job]:
    """The jobs to show when not all fit: failed, running, starting, then the rest; order of submission within."""
    if len(jobs) <= room:
        return jobs
    rank = {JobState.FAILED: 0, JobState.RUNNING: 1, JobState.STARTING: 2, JobState.PENDING: 3}
    chosen = sorted(range(len(jobs)), key=lambda index: (rank.get(jobs[index].state, 4), index))[:room]
    return [jobs[index] for index in sorted(chosen)]
