"""`loraloom init`, `schema` and `validate`: what there is to do before anything trains."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from jobs.errors import Problem, SpecError
from orchestrator.commands.options import Set, Specs
from orchestrator.commands.output import AsJson, quiet_libraries, stderr, stdout


def add(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(init)
    app.command()(schema)
    app.command()(validate)


def init(
    folder: Annotated[Path, typer.Argument(help="Where to write the example; created if missing.")] = Path("."),
) -> None:
    """Write a first spec and its data to start from."""
    from importlib.resources import files

    examples = files("jobs") / "examples"
    targets = {name: folder / name for name in ("quickstart.yaml", "quickstart.jsonl")}
    there = [str(target) for target in targets.values() if target.exists()]
    if there:
        raise SpecError([Problem(message="exists already and is left as it is", file=name) for name in there])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, target in targets.items():
            target.write_bytes((examples / name).read_bytes())
            print(target)
    except OSError as error:
        raise SpecError([Problem(message=f"cannot be written: {error.strerror}", file=str(folder))]) from error
    commands = "loraloom validate quickstart.yaml && loraloom run quickstart.yaml"
    stderr().print(Text(f"next: cd {shlex.quote(str(folder))} && {commands}"), soft_wrap=True)


def schema() -> None:
    """Print the JSON Schema of a job spec."""
    from jobs.schema import json_schema

    print(json.dumps(json_schema(), indent=2))


def validate(specs: Specs, set_: Set = None, as_json: AsJson = False) -> None:
    """Check specs, their bases and all rows of their data without training; print what each will take."""
    from jobs.loading import load_files

    loaded = load_files(specs, set_ or ())
    quiet_libraries()
    from orchestrator.estimates import by_base, notes, tables, to_json
    from orchestrator.run import check

    estimates = check(loaded, console=stderr())
    together = by_base(estimates.values())
    if as_json:
        print(json.dumps(to_json(estimates, together)))
        return
    for table in tables(estimates, together):
        stdout().print(table)
    for note in notes(estimates):
        stdout().print(Text(note), soft_wrap=True)
