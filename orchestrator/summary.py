"""What a run came to: one object for machines, one table for people."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from jobs.records import Job, JobState, WorkerStatus
from orchestrator.output_directory import finite

_STYLES = {JobState.SUCCEEDED: "green", JobState.FAILED: "bold red", JobState.CANCELLED: "yellow"}


@dataclass(frozen=True, kw_only=True)
class JobSummary:
    """One job's line."""

    id: str
    name: str
    state: str
    steps: int
    train_loss: float | None
    """Of the last logged step."""
    eval_loss: float | None
    eval_exact_match: float | None
    artifact: str | None
    checkpoint: str | None
    tokens: int
    seconds: float
    """Worker time: the job's share of each pack it ran in."""
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """The whole run."""

    jobs: tuple[JobSummary, ...]
    tokens_per_second: float
    """Trained tokens of all workers over the longest time that one was up with its base loaded."""
    utilization: float
    """Busy share of the workers' time since their bases were loaded."""
    wall_seconds: float

    @property
    def ok(self) -> bool:
        """Whether every job succeeded."""
        return all(job.state == JobState.SUCCEEDED for job in self.jobs)

    def to_json(self) -> dict[str, Any]:
        """For `run --json`."""
        return finite(asdict(self))  # type: ignore[return-value]


def summarise(jobs: Iterable[Job], workers: Iterable[WorkerStatus], wall_seconds: float) -> RunSummary:
    """Collect the final figures."""
    statuses = list(workers)
    up = sum(status.wall_seconds for status in statuses)
    longest = max((status.wall_seconds for status in statuses), default=0.0)
    return RunSummary(
        jobs=tuple(
            JobSummary(
                id=job.id,
                name=job.spec.name,
                state=str(job.state),
                steps=job.progress.step,
                train_loss=job.progress.train_loss,
                eval_loss=job.progress.eval_loss,
                eval_exact_match=job.progress.eval_exact_match,
                artifact=job.artifact,
                checkpoint=job.checkpoints[0].folder if job.checkpoints else None,
                tokens=job.progress.tokens,
                seconds=round(job.progress.busy_seconds, 3),
                reason=job.reason,
                message=job.message,
            )
            for job in jobs
        ),
        tokens_per_second=round(sum(status.tokens for status in statuses) / longest, 1) if longest else 0.0,
        utilization=round(sum(status.busy_seconds for status in statuses) / up, 4) if up else 0.0,
        wall_seconds=round(wall_seconds, 3),
    )


def final_table(summary: RunSummary) -> Table:
    """The table that closes a run."""
    table = Table(header_style="bold", box=SIMPLE_HEAD)
    table.add_column("job", no_wrap=True, min_width=8)
    table.add_column("state", no_wrap=True, min_width=9)
    for name in ("steps", "train loss", "eval loss", "exact match", "tokens"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("result", overflow="fold", min_width=12)
    for job in summary.jobs:
        result = job.artifact if job.artifact else job.message
        if job.reason == "finished_before":
            result = f"{result} ({job.message})"
        table.add_row(
            Text(job.name),
            Text(job.state, style=_STYLES.get(JobState(job.state), "")),
            str(job.steps),
            figure(job.train_loss),
            figure(job.eval_loss),
            "–" if job.eval_exact_match is None else f"{job.eval_exact_match:.1%}",
            f"{job.tokens:,}",
            Text(result),
        )
    return table


def figure(value: float | None) -> str:
    """A loss for people."""
    return "–" if value is None else f"{value:.4f}"
