"""`loraloom submit`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.commands.jobs_table import jobs_table
from orchestrator.commands.output import (
    EXIT_FAILED,
    AsJson,
    cell,
    may_be_left,
    moment,
    print_json,
    service,
    stdout,
    table,
    tell,
)

if TYPE_CHECKING:
    from orchestrator.api.models import SubmittedJob
    from orchestrator.client import Client

_WAIT_PATIENCE_SECONDS = 600.0
"""A service that restarts is waited for."""
_SUBMIT_PATIENCE_SECONDS = 3.0


def add(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(submit)


def submit(
    specs: Annotated[list[Path], typer.Argument(metavar="SPEC...", help="YAML files with job specs.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Override a field of every job; repeatable."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check with the service, and submit nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until all have ended; 1 if one did not succeed.")] = False,
    key: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Idempotency key: submitting the same files with it again adds nothing."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Submit specs to the service and print the ids of their jobs."""
    from jobs.errors import SpecError
    from jobs.loading import load_files
    from jobs.sources import read_text
    from orchestrator.client import ServiceError

    overrides = set_ or ()
    # Here the files have names, and all of them are right before the first one is sent.
    load_files(specs, overrides)
    texts = [text for text in map(read_text, specs) if isinstance(text, str)]
    would: list[dict[str, Any]] = []
    submitted: list[SubmittedJob] = []
    path = specs[0]
    with service(patience_seconds=_WAIT_PATIENCE_SECONDS if wait else _SUBMIT_PATIENCE_SECONDS) as client:
        try:
            for number, (path, text) in enumerate(zip(specs, texts, strict=True), start=1):
                is_json = path.suffix.lower() == ".json"
                if dry_run:
                    would += client.validate(text, overrides=overrides, is_json=is_json).specs
                    continue
                own_key = f"{key}/{number}" if key is not None and len(specs) > 1 else key
                submitted += client.submit(text, overrides=overrides, key=own_key, is_json=is_json).jobs
        except SpecError as error:
            located = [problem.at(file=problem.file or str(path), line=problem.line) for problem in error.problems]
            _tell_partial(submitted)
            raise SpecError(located) from error
        except ServiceError:
            _tell_partial(submitted)
            raise
        if dry_run:
            _show_checked(would, as_json)
            return
        if wait:
            tell(f"submitted: {', '.join(job.id for job in submitted)}")
            _wait(client, [job.id for job in submitted], as_json)
        elif as_json:
            print_json({"jobs": [job.model_dump(mode="json") for job in submitted]})
        else:
            for job in submitted:
                print(job.id)
            _tell_next([job.id for job in submitted])


def _wait(client: Client, ids: Sequence[str], as_json: bool) -> None:
    from orchestrator.api.models import JobDetail

    ended: dict[str, JobDetail] = {}
    with may_be_left(f"the jobs go on; `loraloom list` shows them, `loraloom cancel {shlex.join(ids[:3])}` ends them"):
        for one in client.wait(ids):
            if isinstance(one, JobDetail):
                ended[one.id] = one
            else:
                tell(f"{moment(one.time_unix_seconds)} {one.job_id} {one.state} ({one.reason}): {one.message}")
    found = [ended[job_id] for job_id in ids]
    if as_json:
        print_json({"jobs": [job.model_dump(mode="json") for job in found]})
    else:
        stdout().print(jobs_table(found))
    if any(job.state != "SUCCEEDED" for job in found):
        raise typer.Exit(EXIT_FAILED)


def _show_checked(specs: Sequence[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json({"specs": list(specs)})
        return
    shown = table("job", "base", "queue", "priority", right=("priority",))
    for spec in specs:
        scheduling = spec["scheduling"]
        shown.add_row(
            cell(spec["name"]),
            cell(spec["model"]["model_name_or_path"]),
            cell(scheduling["queue"]),
            cell(scheduling["priority"]),
        )
    stdout().print(shown)
    tell(f"{len(specs)} {'job' if len(specs) == 1 else 'jobs'} would be submitted; nothing was")


def _tell_partial(submitted: Sequence[SubmittedJob]) -> None:
    if submitted:
        tell(f"submitted before that, and going on: {', '.join(job.id for job in submitted)}", "yellow")


def _tell_next(ids: Sequence[str]) -> None:
    first = shlex.quote(ids[0])
    tell(f"next: loraloom list; loraloom show {first}; loraloom logs -f {first}")
