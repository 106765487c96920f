"""`loraloom cancel`, `pause`, `resume`, `retry` and `priority`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.completion import JobArgument, JobsArgument
from orchestrator.commands.jobs_table import why
from orchestrator.commands.output import AsJson, plain, print_json, service, tell

if TYPE_CHECKING:
    from orchestrator.api.models import JobDetail
    from orchestrator.client import Client

Ask = Callable[["Client", str], "JobDetail"]


def add(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (cancel, pause, resume, retry):
        app.command()(verb)
    # Else a negative priority would be taken for an option.
    app.command(context_settings={"ignore_unknown_options": True})(priority)


def cancel(jobs: JobsArgument, as_json: AsJson = False) -> None:
    """End jobs. What they have saved stays, and `retry` goes on from it."""
    _each(jobs, as_json, lambda client, job: client.cancel(job))


def pause(jobs: JobsArgument, as_json: AsJson = False) -> None:
    """Save jobs and give their places to others, until they are resumed."""
    _each(jobs, as_json, lambda client, job: client.pause(job))


def resume(jobs: JobsArgument, as_json: AsJson = False) -> None:
    """Let paused jobs go on from where they were."""
    _each(jobs, as_json, lambda client, job: client.resume(job))


def retry(jobs: JobsArgument, as_json: AsJson = False) -> None:
    """Try jobs again that failed or were cancelled, from their last checkpoints."""
    _each(jobs, as_json, lambda client, job: client.retry(job))


def priority(
    job: JobArgument,
    value: Annotated[int, typer.Argument(metavar="NUMBER", help="Jobs of higher priority are placed first.")],
    as_json: AsJson = False,
) -> None:
    """Change a job's priority. Raised, it may take the place of one of lower priority, which is saved first."""
    _each([job], as_json, lambda client, one: client.change(one, priority=value))


def _each(jobs: Sequence[str], as_json: bool, ask: Ask) -> None:
    """Ask for all of them, whatever one is answered with; the first refusal decides the exit code."""
    from orchestrator.client import ServiceError, UnreachableError

    done: list[JobDetail] = []
    code = 0
    with service(patience_seconds=3.0) as client:
        for job in jobs:
            try:
                done.append(ask(client, job))
            except UnreachableError:
                raise
            except ServiceError as error:
                tell(str(error), "red")
                code = code or error.exit_code
    if as_json:
        print_json({"jobs": [job.model_dump(mode="json") for job in done]})
    else:
        for job in done:
            print(plain(f"{job.id} {job.state}, queue {job.queue}, priority {job.priority}: {why(job)}"))
    if code:
        raise typer.Exit(code)
