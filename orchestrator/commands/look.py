"""`loraloom list`, `show`, `events` and `metrics`."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from orchestrator.commands.completion import JobArgument
from orchestrator.commands.jobs_table import jobs_table, why
from orchestrator.commands.output import (
    AsJson,
    ago,
    cell,
    may_be_left,
    moment,
    number,
    plain,
    print_json,
    service,
    size,
    span,
    state_cell,
    stdout,
    table,
    tell,
)

if TYPE_CHECKING:
    from orchestrator.api.models import CheckpointListing, EventItem, JobDetail, LedgerItem, MetricItem

_FOLLOW_PATIENCE_SECONDS = 600.0
_METRICS = ("epoch", "loss", "learning_rate", "grad_norm", "eval_loss", "eval_exact_match")


def add(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("list")(list_)
    app.command()(show)
    app.command()(events)
    app.command()(metrics)


def list_(
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="Only jobs with it in their name or id.")] = None,
    state: Annotated[
        list[str] | None, typer.Option(metavar="STATE", help="Only jobs in this state; repeatable.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only jobs with this label; repeatable.")
    ] = None,
    queue: Annotated[str | None, typer.Option(help="Only jobs of this queue.")] = None,
    owner: Annotated[str | None, typer.Option(help="Only jobs submitted with the token of this name.")] = None,
    sweep: Annotated[str | None, typer.Option(help="Only jobs of this sweep.")] = None,
    sort: Annotated[
        str, typer.Option(help="submitted, ended, name, state or priority; - before it for the other way round.")
    ] = "-submitted",
    limit: Annotated[int, typer.Option(min=1, help="So many at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first."""
    from jobs.records import JobState

    states: list[JobState] = []
    for name in state or ():
        try:
            states.append(JobState(name.upper()))
        except ValueError:
            known = ", ".join(one.value.lower() for one in JobState)
            raise typer.BadParameter(f"{name!r} is no state; there are {known}") from None
    with service() as client:
        found = client.jobs(
            state=states, label=label or (), q=text, queue=queue, owner=owner, sweep=sweep, sort=sort, limit=limit + 1
        )
        jobs = list(islice(found, limit))
        more = next(found, None) is not None
    if as_json:
        print_json({"jobs": [job.model_dump(mode="json") for job in jobs], "more": more})
        return
    stdout().print(jobs_table(jobs))
    if not jobs:
        narrowed = any((text, state, label, queue, owner, sweep))
        tell("no job fits" if narrowed else "there are no jobs yet; `loraloom submit SPEC` adds some")
    elif more:
        tell(f"there are more; --limit {2 * limit} shows twice as many")


def show(job: JobArgument, as_json: AsJson = False) -> None:
    """Show one job: its state and why, how far it is, its tries and what it has saved."""
    with service() as client:
        found = client.job(job)
        checkpoints = client.checkpoints(found.id)
    if as_json:
        listing = checkpoints.model_dump(mode="json")
        print_json({**found.model_dump(mode="json"), **listing})
        return
    out = stdout()
    out.print(Text.assemble((plain(found.id), "bold"), " ", state_cell(found.state), f" ({plain(found.reason)})"))
    for name, value in _facts(found):
        out.print(Text(f"{name:<12} {plain(value)}"), soft_wrap=True)
    _show_attempts(found)
    _show_checkpoints(checkpoints)
    job_id = shlex.quote(found.id)
    tell(f"also: loraloom events {job_id}; loraloom logs {job_id}; loraloom metrics {job_id}")


def events(
    job: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as more happens, until the job ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what happened to a job; with --follow and --json an object a line."""
    if not follow:
        with service() as client:
            found = list(client.events(job))
        if as_json:
            print_json({"events": [event.model_dump(mode="json") for event in found]})
            return
        for event in found:
            _print_event(event)
        return
    from orchestrator.api.models import JobDetail

    with service(patience_seconds=_FOLLOW_PATIENCE_SECONDS) as client, may_be_left("the job goes on"):
        for one in client.wait([client.job(job).id]):
            if not isinstance(one, JobDetail):
                _print_event(one, as_json)


def metrics(
    job: JobArgument,
    last: Annotated[int | None, typer.Option(min=1, help="Only the last so many.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print a job's losses and rates by step."""
    with service() as client:
        found = list(client.metrics(job))
    found = found[-last:] if last is not None else found
    if as_json:
        print_json({"metrics": [point.model_dump(mode="json") for point in found]})
        return
    names = [name for name in _METRICS if any(name in point.values for point in found)]
    shown = table("step", *names, right=("step", *names))
    for step, values in _by_step(found):
        shown.add_row(str(step), *(number(values.get(name), ".4g") for name in names))
    stdout().print(shown)


def _facts(job: JobDetail) -> Iterator[tuple[str, str]]:
    progress = job.progress
    yield "why", why(job)
    if job.name != job.id:
        yield "name", job.name
    yield "base", job.model
    yield "queue", f"{job.queue}, priority {job.priority}"
    if job.labels:
        yield "labels", ", ".join(f"{key}={value}" for key, value in sorted(job.labels.items()))
    yield (
        "submitted",
        f"{moment(job.submitted_unix_seconds)}, {ago(job.submitted_unix_seconds)}"
        + (f", by {job.owner}" if job.owner else ""),
    )
    if job.ended_unix_seconds is not None:
        yield "ended", f"{moment(job.ended_unix_seconds)}, {ago(job.ended_unix_seconds)}"
    if progress.step or progress.total_steps:
        share = f", {progress.step / progress.total_steps:.0%}" if progress.total_steps else ""
        yield "step", f"{progress.step} of {progress.total_steps or '?'}{share}, epoch {progress.epoch:.2f}"
        yield "loss", f"train {number(progress.train_loss)}, eval {number(progress.eval_loss)}"
        yield "trained", f"{progress.tokens:,} tokens, {span(progress.busy_seconds)} of a worker's time"
    if job.attempt:
        yield from _account(job.ledger)
    if job.worker_id is not None and not job.state.is_terminal:
        yield "worker", job.worker_id
    if job.sweep_id is not None:
        yield "sweep", job.sweep_id
    if job.estimate is not None and isinstance(job.estimate.get("peak_bytes"), int | float):
        yield "takes", f"{size(job.estimate['peak_bytes'])} at most"


def _account(ledger: LedgerItem) -> Iterator[tuple[str, str]]:
    slowdown = f", {ledger.slowdown:.1f} × as long as alone" if ledger.slowdown is not None else ""
    yield "cost", f"{span(ledger.device_seconds)} of devices in all{slowdown}"
    prompts = ledger.tokens - ledger.label_tokens
    yield "tokens", f"{ledger.label_tokens:,} labels, {prompts:,} prompt, {ledger.padding_tokens:,} padding"
    lost = (
        f", {ledger.recoveries} {'attempt' if ledger.recoveries == 1 else 'attempts'} lost" if ledger.recoveries else ""
    )
    yield "besides", f"{span(ledger.waiting_seconds)} waiting, {span(ledger.checkpoint_seconds)} checkpoints{lost}"


def _show_attempts(job: JobDetail) -> None:
    if not job.attempts:
        return
    shown = table("try", "worker", "node", "began", "took", "ended because", right=("try", "took"))
    for one in job.attempts:
        end = one.ended_unix_seconds if one.ended_unix_seconds is not None else time.time()
        shown.add_row(
            str(one.number),
            cell(one.worker_id),
            cell(one.node),
            moment(one.started_unix_seconds),
            span(end - one.started_unix_seconds),
            cell("goes on" if one.is_open else f"{one.why}{', counted against its restarts' if one.charged else ''}"),
        )
    stdout().print(shown)


def _show_checkpoints(listing: CheckpointListing) -> None:
    if not listing.checkpoints:
        return
    shown = table("checkpoint", "step", "size", "problem", right=("step", "size"))
    for one in listing.checkpoints:
        shown.add_row(cell(one.folder), str(one.step), size(one.size_bytes), cell(one.problem))
    stdout().print(shown)


def _print_event(event: EventItem, as_json: bool = False) -> None:
    if as_json:
        print(event.model_dump_json(), flush=True)
        return
    line = f"{moment(event.time_unix_seconds)} {event.state} ({event.reason}): {event.message}"
    print(plain(line), flush=True)


def _by_step(points: list[MetricItem]) -> list[tuple[int, dict[str, Any]]]:
    steps: dict[int, dict[str, Any]] = {}
    for point in points:
        steps.setdefault(point.step, {}).update(point.values)
    return sorted(steps.items())
