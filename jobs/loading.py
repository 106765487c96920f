"""Spec files to specs: every problem of every file in one answer, each with its file, line and field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

from jobs.checking import MAX_PROBLEMS, check, check_sweep
from jobs.errors import Problem, SpecError
from jobs.field_paths import replaced, shown_path
from jobs.overrides import read_overrides
from jobs.shown import shown_value
from jobs.sources import SpecSource, read_text, too_large
from jobs.spec import JobSpec
from jobs.sweep import MAX_RUNS, Variant, expand, num_runs
from jobs.yaml_source import MAX_BYTES, Document, read_documents

_MAX_SWEPT_FIELDS = 400_000
"""Most fields that a sweep may come to in all its jobs; holds the time and memory of large documents down."""


@dataclass(frozen=True, kw_only=True)
class LoadedSpec:
    """A spec, and where it came from."""

    spec: JobSpec
    source: SpecSource
    sweep: str | None = None
    """Name of the document whose sweep it is one of, unique among those loaded together; `None` for one by itself."""


def load_files(paths: Sequence[Path], overrides: Sequence[str] = ()) -> list[LoadedSpec]:
    """The specs of all documents of all files, sweeps expanded, in order. A JSON file may hold a list of documents.

    Args:
        paths: YAML or JSON files.
        overrides: `dotted.field=value`, each set in every document before it is checked.

    Raises:
        SpecError: everything that is wrong in any of them; a name used twice among them counts.
    """
    loading = _Loading(overrides)
    for path in paths:
        text = read_text(path)
        if isinstance(text, Problem):
            loading.problems.append(text)
        else:
            loading.take(text, file=str(path))
    return loading.result()


def load_text(text: str, *, file: str = "<text>", overrides: Sequence[str] = ()) -> list[LoadedSpec]:
    """The specs of a text, as `load_files` finds them in a file of that name.

    Raises:
        SpecError: everything that is wrong in it.
    """
    loading = _Loading(overrides)
    if len(text) > MAX_BYTES or len(text.encode(errors="replace")) > MAX_BYTES:
        loading.problems.append(too_large(file))
    else:
        loading.take(text.removeprefix("\ufeff"), file=file)
    return loading.result()


def locate(problem: Problem, loaded: LoadedSpec) -> Problem:
    """The problem with the file and line where its field was written."""
    return loaded.source.locate(problem)


class _Loading:
    """One load: what has been read, and what has been found wrong so far."""

    def __init__(self, overrides: Sequence[str]) -> None:
        self.loaded: list[LoadedSpec] = []
        self.names: list[tuple[str, SpecSource]] = []
        self.overrides, self.problems = read_overrides(overrides)

    def result(self) -> list[LoadedSpec]:
        """The specs, or the error that carries every problem, each once."""
        problems = [*self.problems, *_repeated_names(self.names)]
        if problems:
            raise SpecError(list(dict.fromkeys(problems)))
        return self.loaded

    def take(self, text: str, *, file: str) -> None:
        """Reads one file's text, noting its specs and problems."""
        documents, problems = read_documents(text, file=file)
        if not documents and not problems:
            message = "there is no job in it; `loraloom init` writes an example"
            problems.append(Problem(message=message, file=file, line=1))
        room = MAX_RUNS
        if file.lower().endswith(".json"):
            documents = [item for document in documents for item in _items(document)]
        for document in documents:
            if len(problems) >= MAX_PROBLEMS:
                break
            before = len(self.loaded)
            problems += self._take_document(document, file=file, room=room)
            room -= len(self.loaded) - before
        problems.sort(key=lambda problem: problem.line or 0)
        self.problems += problems[:MAX_PROBLEMS]
        if len(problems) >= MAX_PROBLEMS:
            message = f"these are the first {MAX_PROBLEMS} problems; mend them to see whether there are more"
            self.problems.append(Problem(message=message, file=file))

    def _take_document(self, document: Document, *, file: str, room: int) -> list[Problem]:
        content: object = document.value
        if not isinstance(content, dict):
            message = "a job should be a block of `key: value` lines, beginning with `name:`"
            value = shown_value(content)
            return [Problem(message=message, value=value, file=file, line=document.line)]
        overridden = {shown_path(override.path): None for override in self.overrides}
        source = SpecSource(file=file, lines={"": document.line, **document.lines}, moved=overridden)
        problems: list[Problem] = []
        values = cast("dict[str, Any]", content)
        for override in self.overrides:
            try:
                values = replaced(values, override.path, override.value)
            except ValueError as error:
                problems.append(source.locate(Problem(field=shown_path(override.path), message=str(error))))
        room = min(room, _MAX_SWEPT_FIELDS // (len(document.lines) + 1))
        variants, found = _variants(values, overridden=overridden, room=room)
        problems += map(source.locate, found)
        for variant in variants:
            swept = {field: source.place(origin)[1] for field, origin in variant.origins.items()}
            place = replace(source, moved={**overridden, **swept}) if swept else source
            spec, found = check(variant.document)
            located = map(place.locate, found)
            problems += [problem for problem in located if problem not in problems]
            if isinstance(variant.document.get("name"), str):
                self.names.append((variant.document["name"], source))
            if spec is not None:
                sweep = str(values.get("name")) if values.get("sweep") is not None else None
                self.loaded.append(LoadedSpec(spec=spec, source=place, sweep=sweep))
            if len(problems) >= MAX_PROBLEMS:
                break
        return problems


def _items(document: Document) -> list[Document]:
    """The documents of a JSON text, which can hold several only as a list."""
    content: object = document.value
    values = cast("list[object]", content) if isinstance(content, list) else []
    if not values:
        return [document]
    items: list[Document] = []
    lines: list[dict[str, int]] = [{} for _ in values]
    for field, line in document.lines.items():
        index, _, below = field.removeprefix("[").partition("]")
        lines[int(index)][below.removeprefix(".")] = line
    for value, below in zip(values, lines, strict=True):
        items.append(Document(value=value, line=below.get("", document.line), lines=below))
    return items


def _variants(
    document: Mapping[str, Any], *, overridden: Mapping[str, None], room: int
) -> tuple[Iterable[Variant], list[Problem]]:
    """The documents that a document with a sweep stands for; the document itself where it has none.

    Where the sweep is faulty, one document that can stand for all, so that the rest of its problems are found too.
    """
    rest = {key: value for key, value in document.items() if key != "sweep"}
    alone = [Variant(document=rest, origins={})]
    if document.get("sweep") is None:
        return alone, []
    sweep, problems = check_sweep(document["sweep"])
    if sweep is None:
        return alone, problems
    for name in sweep.parameters:
        if name in overridden:
            message = f"the sweep sets this field too: set sweep.parameters.{name} instead"
            problems.append(Problem(field=name, message=message))
    variants, found = expand(rest, sweep)
    problems += found
    if not found and num_runs(sweep) > room:
        message = f"too many jobs: a file may stand for {MAX_RUNS:,}, or fewer where each has hundreds of fields"
        problems.append(Problem(field="sweep", message=message))
    return (list(islice(variants, 1)) or alone if problems else variants), problems


def _repeated_names(names: Iterable[tuple[str, SpecSource]]) -> Iterable[Problem]:
    """One problem for each document that repeats names of an earlier one, however many a sweep makes of them."""
    first: dict[str, SpecSource] = {}
    told: set[tuple[int, int]] = set()
    for name, source in names:
        before = first.setdefault(name, source)
        if before is source or (id(before), id(source)) in told:
            continue
        told.add((id(before), id(source)))
        file, line = replace(before, moved={}).place("name")
        message = f"names should differ, and the job at {file}:{line} has this one already"
        yield source.locate(Problem(field="name", value=shown_value(name), message=message))
