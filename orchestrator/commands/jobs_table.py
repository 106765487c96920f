"""Jobs as people see them in a list."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.table import Table

from orchestrator.commands.output import cell, number, span, state_cell, table

if TYPE_CHECKING:
    from orchestrator.api.models import JobItem


def jobs_table(jobs: Iterable[JobItem]) -> Table:
    """A line for each job: where it is, how far, and why."""
    shown = table(
        "job",
        "state",
        "step",
        "train loss",
        "eval loss",
        "queue",
        "priority",
        "age",
        "why",
        right=("step", "train loss", "eval loss", "priority", "age"),
    )
    for job in jobs:
        progress = job.progress
        steps = f"{progress.step}/{progress.total_steps}" if progress.total_steps else str(progress.step or "–")
        shown.add_row(
            cell(job.id),
            state_cell(job.state),
            steps,
            number(progress.train_loss),
            number(progress.eval_loss),
            cell(job.queue),
            str(job.priority),
            span(time.time() - job.submitted_unix_seconds),
            cell(why(job)),
        )
    return shown


def why(job: JobItem) -> str:
    """Where its adapter is, or why it is in its state; and what was asked of it that has not happened yet."""
    if job.state == "SUCCEEDED":
        return job.artifact or job.message
    if job.state.is_terminal:
        return job.message
    if job.desired == "cancel":
        return f"is being cancelled; {job.message}"
    if job.desired == "pause" and job.state != "PAUSED":
        return f"is being paused; {job.message}"
    return job.message
