"""`loraloom logs`."""

from __future__ import annotations

import codecs
import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.completion import JobArgument
from orchestrator.commands.output import AsJson, may_be_left, plain, service

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
    as_json: AsJson = False,
) -> None:
    """Print the log of a job; with --json an object for each line."""
    with service(patience_seconds=_PATIENCE_SECONDS if follow else 1.0) as client:
        write = _Lines(client.job(job).id) if as_json else _write
        if not follow:
            write(client.log(job, tail=tail))
        else:
            with may_be_left("the job goes on"):
                _follow(client, client.job(job).id, tail, write)
        if isinstance(write, _Lines):
            write.end()


class _Lines:
    """Prints each line as soon as it is whole."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._begun = ""

    def __call__(self, text: str) -> None:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            print(json.dumps({"job_id": self._job_id, "line": line}, ensure_ascii=False))
        sys.stdout.flush()

    def end(self) -> None:
        """What is there of a line that never ended."""
        if self._begun:
            self("\n")


def _follow(client: Client, job: str, tail: int | None, write: Callable[[str], None]) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    first = client.log_from(job, -_FIRST_BYTES if tail is not None else 0)
    position, is_last = first.end, False
    text = decoder.decode(first.content)
    write("".join(text.splitlines(keepends=True)[-tail:]) if tail is not None else text)
    while not is_last:
        # Asked before the log is read: what the job wrote before it ended is in what is read after.
        is_last = client.job(job).state.is_terminal
        grown = client.log_from(job, position)
        position = max(position, grown.end)
        write(decoder.decode(grown.content))
        if not is_last:
            time.sleep(_POLL_SECONDS)


def _write(text: str) -> None:
    # In a file it is what it is; a terminal would act upon some of it.
    sys.stdout.write(plain(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
