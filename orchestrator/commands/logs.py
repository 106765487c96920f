"""`loraloom logs`."""

from __future__ import annotations

import codecs
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.completion import JobArgument
from orchestrator.commands.output import may_be_left, plain, service

if TYPE_CHECKING:
    from orchestrator.client import Client

_POLL_SECONDS = 1.0
_PATIENCE_SECONDS = 600.0
_FIRST_BYTES = 64 * 1024


def add(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(logs)


def logs(
    job: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows, until the job ends.")] = False,
    tail: Annotated[int | None, typer.Option("--tail", "-n", min=1, help="Only the last so many lines.")] = None,
) -> None:
    """Print the log of a job."""
    with service(patience_seconds=_PATIENCE_SECONDS if follow else 1.0) as client:
        if not follow:
            _write(client.log(job, tail=tail))
            return
        with may_be_left("the job goes on"):
            _follow(client, client.job(job).id, tail)


def _follow(client: Client, job: str, tail: int | None) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    first = client.log_from(job, -_FIRST_BYTES if tail is not None else 0)
    position, is_last = first.end, False
    text = decoder.decode(first.content)
    _write("".join(text.splitlines(keepends=True)[-tail:]) if tail is not None else text)
    while not is_last:
        # Asked before the log is read: what the job wrote before it ended is in what is read after.
        is_last = client.job(job).state.is_terminal
        grown = client.log_from(job, position)
        position = max(position, grown.end)
        _write(decoder.decode(grown.content))
        if not is_last:
            time.sleep(_POLL_SECONDS)


def _write(text: str) -> None:
    # In a file it is what it is; a terminal would act upon some of it.
    sys.stdout.write(plain(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
