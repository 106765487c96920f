"""Options that several verbs take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Specs = Annotated[list[Path], typer.Argument(metavar="SPEC...", help="YAML files with job specs.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Override a field of every job; repeatable.")
]
TokenBudget = Annotated[
    int | None,
    typer.Option(min=1, help="Tokens that a pack of several jobs may hold; found from the memory if not given."),
]
Grace = Annotated[float, typer.Option(min=0, help="Seconds to save all jobs in after Ctrl-C or SIGTERM.")]
Lease = Annotated[float, typer.Option(min=1, help="Seconds without a sign of life after which a worker is replaced.")]
