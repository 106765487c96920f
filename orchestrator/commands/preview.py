"""`loraloom preview`: the rows of a job as the model will see them, without loading any weights."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from jobs.errors import Problem, SpecError
from orchestrator.commands.options import Set, Specs
from orchestrator.commands.output import AsJson, plain, print_json, quiet_libraries, stdout

if TYPE_CHECKING:
    from jobs.loading import LoadedSpec
    from workers.preview import DroppedRow, JobPreview, PreviewRow

_ROWS = 10
_LEARNED = "bold green"
_MARKS = ("⟦", "⟧")
"""Around what is learned, where there are no colours."""


def add(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(preview)


def preview(
    specs: Specs,
    set_: Set = None,
    job: Annotated[str | None, typer.Option("--job", metavar="NAME", help="Only this job of the files.")] = None,
    rows: Annotated[
        int | None,
        typer.Option("--rows", min=1, help=f"Rows of each data set to read, from the first; {_ROWS}, with --json all."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a job will learn: each row with its learned part highlighted, and what is cut or dropped."""
    from jobs.loading import load_files, locate

    loaded = _chosen(load_files(specs, set_ or ()), job)
    quiet_libraries()
    from workers.preview import preview_job

    most = rows if rows is not None or as_json else _ROWS
    console = stdout()
    previews: list[JobPreview] = []
    problems: list[Problem] = []
    for one in loaded:
        found, wrong = preview_job(one.spec, most)
        problems += [locate(problem, one) for problem in wrong]
        if found is not None:
            previews.append(found)
            if not as_json:
                _show(found, console)
    if as_json:
        print_json({"jobs": [one.to_json() for one in previews]})
    if problems:
        raise SpecError(problems)


def _chosen(loaded: list[LoadedSpec], name: str | None) -> list[LoadedSpec]:
    if name is None:
        return loaded
    chosen = [one for one in loaded if one.spec.name == name]
    if not chosen:
        names = [one.spec.name for one in loaded]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise typer.BadParameter(f"no job is called {name}; {hint}the files hold {', '.join(names[:16])}")
    return chosen


def _show(preview: JobPreview, console: Console) -> None:
    console.print(Rule(Text(preview.name, style="bold"), align="left") if console.is_terminal else preview.name)
    shown: list[PreviewRow | DroppedRow] = [*preview.rows, *preview.dropped]
    for row in sorted(shown, key=lambda one: one.order):
        _show_row(row, console)
    kept, dropped = len(preview.rows), len(preview.dropped)
    cut = sum(row.truncated for row in preview.rows)
    console.print(Text(f"{kept + dropped} rows read: {kept} kept, {cut} of them truncated; {dropped} dropped"))
    if preview.columns_unused:
        console.print(Text(f"columns not used: {', '.join(map(plain, preview.columns_unused))}", style="yellow"))
    for note in preview.notes:
        console.print(Text(plain(note), style="yellow"), soft_wrap=True)
    if not _has_colours(console):
        console.print(Text(f"{_MARKS[0]}…{_MARKS[1]} marks what is learned"))
    console.print()


def _show_row(row: PreviewRow | DroppedRow, console: Console) -> None:
    from workers.preview import DroppedRow

    place = f"{row.dataset}, row {row.index + 1}" + (" (evaluation)" if row.purpose == "evaluation" else "")
    if isinstance(row, DroppedRow):
        console.print(Text(f"{plain(place)}: dropped, {plain(row.reason)}", style="yellow"), soft_wrap=True)
        return
    counts = f"{len(row.ids)} tokens, {sum(row.labelled)} learned"
    cut = ", truncated to training.max_length" if row.truncated else ""
    console.print(Text(f"{plain(place)}: {counts}{cut}", style="dim"), soft_wrap=True)
    colours = _has_colours(console)
    text = Text()
    for stretch in row.stretches:
        shown = plain(stretch.text)
        if not stretch.learned:
            text.append(shown)
            continue
        # A line break that is learned would not be seen.
        shown = shown.replace("\n", "↵\n")
        if colours:
            text.append(shown, style=_LEARNED)
        else:
            text.append(f"{_MARKS[0]}{shown}{_MARKS[1]}")
    console.print(text, soft_wrap=True)


def _has_colours(console: Console) -> bool:
    return console.is_terminal and not console.no_color
