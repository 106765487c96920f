"""How verbs speak: data on stdout, everything else on stderr; to people in tables, to programs in JSON."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pydantic import BaseModel

    from orchestrator.client import Client

EXIT_FAILED = 1
EXIT_INVALID = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

STATE_STYLES = {
    "PENDING": "dim",
    "STARTING": "cyan",
    "RUNNING": "bold cyan",
    "PAUSED": "bold yellow",
    "RECOVERING": "yellow",
    "SUCCEEDED": "green",
    "FAILED": "bold red",
    "CANCELLED": "yellow",
}

_UNLIMITED = 10_000
"""Columns for what goes into a file or a pipe: a table is as wide as what it says."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def stderr() -> Console:
    """For progress and errors."""
    return Console(stderr=True, highlight=False)


def stdout() -> Console:
    """For data; as wide as needed where nobody's terminal sets a width."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_UNLIMITED)


def tell(text: str, style: str = "") -> None:
    """A line on stderr."""
    stderr().print(Text(plain(text), style=style), soft_wrap=True)


def print_json(value: BaseModel | dict[str, Any]) -> None:
    """One JSON object on stdout."""
    print(json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value.model_dump_json())


def plain(text: str) -> str:
    """Text from elsewhere, without what would make a terminal do things."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def cell(text: object, style: str = "") -> Text:
    """A cell of a table: what stands in it is text, whatever it looks like."""
    return Text("–" if text is None else plain(str(text)), style=style)


def state_cell(state: str) -> Text:
    """A state in its colour."""
    return Text(state, style=STATE_STYLES.get(state, ""))


def table(*columns: str, right: Sequence[str] = ()) -> Table:
    """An empty table; columns in `right` hold numbers."""
    made = Table(header_style="bold", box=SIMPLE_HEAD, expand=False)
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return made


def number(value: float | None, form: str = ".4f") -> str:
    """A figure for people."""
    return "–" if value is None else format(value, form)


def size(num_bytes: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(num_bytes) < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def span(seconds: float) -> str:
    """A time for people, in its two largest units."""
    whole = max(0, round(seconds))
    for unit, name, below, below_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            rest = whole % unit // below
            return f"{whole // unit} {name}" + (f" {rest} {below_name}" if rest else "")
    return f"{whole} s"


def ago(unix_seconds: float | None) -> str:
    """How long ago a moment was."""
    return "–" if unix_seconds is None else f"{span(time.time() - unix_seconds)} ago"


def moment(unix_seconds: float) -> str:
    """A moment in the time of this machine."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_seconds))


@contextmanager
def service(*, patience_seconds: float = 1.0) -> Iterator[Client]:
    """A client of the service that LORALOOM_URL names."""
    from orchestrator.client import Client

    with Client(patience_seconds=patience_seconds) as client:
        yield client


@contextmanager
def may_be_left(told: str) -> Iterator[None]:
    """Ctrl-C or SIGTERM ends only the looking on; `told` says so."""
    from orchestrator.interruption import Interrupted

    try:
        yield
    except BaseException as error:
        signalled = signal_behind(error)
        if signalled is None:
            raise
        tell(told, "yellow")
        sys.exit(EXIT_TERMINATED if isinstance(signalled, Interrupted) else EXIT_INTERRUPTED)


def signal_behind(error: BaseException) -> BaseException | None:
    """What a signal has raised, be it the error itself or what led to it; `None` where it came of itself.

    Python 3.11 makes a RuntimeError of whatever is raised while a class is being made, as in an import.
    """
    from orchestrator.interruption import Interrupted

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KeyboardInterrupt | Interrupted):
        cause = cause.__cause__
    return cause


def quiet_libraries() -> None:
    """Keep the libraries below from printing progress bars and warnings of their own, and Ray from reporting usage."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from orchestrator.clusters import host

    host.quiet_libraries()
