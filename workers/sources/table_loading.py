"""Datasets as `datasets.load_dataset` finds them, with messages that name file, row and column."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

import datasets
from datasets import config

from jobs.errors import DataError
from jobs.spec import DatasetSpec

# `datasets` reports each use of a builder to its hub, even for local files, and waits for the answer.
config.HF_UPDATE_DOWNLOAD_COUNTS = False

_BUILDER_BY_ENDING = {
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".txt": "text",
}
_BUILDERS = frozenset(_BUILDER_BY_ENDING.values())
_TEXT_BUILDERS = frozenset({"json", "csv", "text"})


def load(spec: DatasetSpec, *, field: str) -> datasets.Dataset:
    """The rows of one dataset block, columns renamed to ours and cut to `max_samples`.

    Args:
        spec: The block.
        field: Its path in the spec, such as `datasets[0]`, for messages.

    Raises:
        DataError: File missing or unreadable, column or split unknown, nothing in it.
    """
    builder, files = _builder_and_files(spec, field)
    for file in files:
        _check_file(Path(file), field)
        if builder in _TEXT_BUILDERS:
            _check_utf8(Path(file), field)
    try:
        rows = _load(spec, builder, files)
    except Exception as error:
        raise _explained(error, builder, files, spec, field) from error
    rows = _rename(rows, spec, field)
    if spec.max_samples is not None:
        rows = rows.select(range(min(spec.max_samples, len(rows))))
    if len(rows) == 0:
        raise DataError(f"{spec.path} has no rows", field=field)
    return rows


def _load(spec: DatasetSpec, builder: str, files: list[str]) -> datasets.Dataset:
    options: dict[str, Any] = {"split": spec.split, "revision": spec.revision}
    if files:
        # A file is one split, whatever the spec calls it.
        options.update(data_files={spec.split.split("[")[0]: files}, revision=None)
        if any(file.endswith(".tsv") for file in files):
            options["sep"] = "\t"
    loaded = datasets.load_dataset(builder, spec.name if not files else None, **options)
    assert isinstance(loaded, datasets.Dataset)
    return loaded


def _builder_and_files(spec: DatasetSpec, field: str) -> tuple[str, list[str]]:
    path = Path(spec.path)
    named = [spec.data_files] if isinstance(spec.data_files, str) else list(spec.data_files or ())
    if spec.path in _BUILDERS and not path.is_file():
        if not named:
            raise DataError(f"the builder `{spec.path}` needs data_files", field=field)
        return spec.path, named
    builder = _BUILDER_BY_ENDING.get(path.suffix.lower())
    if builder is not None:
        return builder, [spec.path]
    if path.is_file():
        raise DataError(
            f"{spec.path}: the ending {path.suffix or '(none)'} says nothing about its format; known are "
            f"{', '.join(_BUILDER_BY_ENDING)}; or write path: csv and data_files: {spec.path}",
            field=field,
        )
    return spec.path, []


def _check_file(path: Path, field: str) -> None:
    if path.is_file():
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty", field=field)
        return
    if path.is_dir():
        raise DataError(f"{path} is a folder, not a file", field=field)
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=2)
    hint = f"; did you mean {' or '.join(str(path.parent / name) for name in near)}?" if near else ""
    raise DataError(f"{path} does not exist (looked in {Path.cwd()}){hint}", field=field)


def _check_utf8(path: Path, field: str) -> None:
    """Arrow passes bytes on as text unseen, so that a bad one would raise only when its row is used."""
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as bad:
                    reason = f"{bad.reason} at byte {bad.start} of the line"
                    raise DataError(f"{path}: line {number} is not UTF-8 text: {reason}", field=field) from bad
    except OSError as bad:
        raise DataError(f"{path} cannot be read: {bad.strerror}", field=field) from bad


def _explained(error: Exception, builder: str, files: list[str], spec: DatasetSpec, field: str) -> DataError:
    """A reason that a person can act on; the library's own text only where nothing better is known."""
    if builder == "json":
        for file in files:
            if problem := _first_bad_json_row(Path(file)):
                return DataError(problem, field=field)
    if "corresponds to no data" in str(error):
        return DataError(f"{', '.join(files) or spec.path} has no rows in {spec.split}", field=field)
    # The library wraps what the reader said; the innermost cause names row and reason.
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    text = str(error).strip().splitlines()
    where = ", ".join(files) or spec.path
    return DataError(f"{where} cannot be loaded: {text[0] if text else type(error).__name__}", field=field)


def _first_bad_json_row(path: Path) -> str | None:
    """Find the row that the JSON reader stumbled over: `datasets` says which file, but not which row."""
    columns: dict[str, type] = {}
    with path.open("rb") as lines:
        if path.suffix == ".json" and lines.read(1).strip() == b"[":
            return None
        lines.seek(0)
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as bad:
                return f"{path}: row {number} is not valid JSON: {bad.msg} at character {bad.colno}"
            except RecursionError:
                return f"{path}: row {number} is nested too deeply"
            if not isinstance(row, dict):
                return f"{path}: row {number} should be an object with columns, found {type(row).__name__}"
            for name, value in row.items():
                known = columns.setdefault(name, type(value)) if value is not None else None
                if known is not None and type(value) is not known:
                    return (
                        f"{path}: row {number}, column `{name}`: {type(value).__name__} here, "
                        f"{known.__name__} in the rows before"
                    )
    return None


def _rename(rows: datasets.Dataset, spec: DatasetSpec, field: str) -> datasets.Dataset:
    """Apply `columns` (ours → theirs), dropping what would collide with one of our names."""
    columns = dict(spec.columns or {})
    for ours, theirs in columns.items():
        if theirs not in rows.column_names:
            near = difflib.get_close_matches(theirs, rows.column_names, n=2)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise DataError(
                f"there is no column `{theirs}` in {spec.path}; {hint}its columns are {', '.join(rows.column_names)}",
                field=f"{field}.columns.{ours}",
            )
    if not columns:
        return rows
    table = rows.select_columns(list(dict.fromkeys(columns.values())))
    for ours, theirs in columns.items():
        if list(columns.values()).count(theirs) > 1:
            raise DataError(f"column `{theirs}` is mapped twice", field=f"{field}.columns.{ours}")
    return table.rename_columns({theirs: ours for ours, theirs in columns.items() if ours != theirs})
