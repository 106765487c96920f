"""Where the fields of a spec were written, and how the texts that hold them are read."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from jobs.errors import Problem
from jobs.field_paths import enclosing, shown_key
from jobs.yaml_source import MAX_BYTES

COMMAND_LINE = "--set"
"""The place of values that no file holds."""


@dataclass(frozen=True, kw_only=True)
class SpecSource:
    """Where each field of a spec was written."""

    file: str
    lines: Mapping[str, int]
    """Field to 1-based line; the empty field stands for the document."""
    moved: Mapping[str, int | None] = field(default_factory=dict[str, "int | None"])
    """Fields that come from elsewhere than their own line: from this line of the sweep, or (None) from `--set`."""

    def place(self, field: str) -> tuple[str, int | None]:
        """File and line of a field, or of the nearest block around it that was written.

        For a value given by `--set`, the file is `--set` and there is no line.
        """
        for around in enclosing(field):
            if around in self.moved:
                line = self.moved[around]
                return (COMMAND_LINE, None) if line is None else (self.file, line)
        return self.file, next((self.lines[around] for around in enclosing(field) if around in self.lines), None)

    def locate(self, problem: Problem) -> Problem:
        """The problem with the place of its field; for `--set`, which is no file, the message says so."""
        file, line = self.place(problem.field)
        if file == COMMAND_LINE:
            return replace(problem, message=f"{COMMAND_LINE}: {problem.message}")
        return problem.at(file=file, line=line)


def read_text(path: Path) -> str | Problem:
    """The text of a spec file, or why there is none to be had; never reads more than a spec may hold."""
    file = shown_key(str(path)) if "\0" in str(path) else str(path)
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return Problem(message=f"there is no such file{_near(path)}", file=file)
    except IsADirectoryError:
        return Problem(message="is a directory; name the spec files in it", file=file)
    except OSError as error:
        return Problem(message=f"cannot be read: {error.strerror}", file=file)
    except ValueError as error:
        return Problem(message=f"cannot be the name of a file: {error}", file=file)
    if len(data) > MAX_BYTES:
        return too_large(file)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"not UTF-8: byte 0x{data[error.start]:02X}; save the file as UTF-8"
        return Problem(message=message, file=file, line=line)


def too_large(file: str) -> Problem:
    """The answer to a text above the limit."""
    return Problem(message=f"larger than {MAX_BYTES // 1024} KiB, the most a spec may be", file=file)


def _near(path: Path) -> str:
    """The existing files that a missing one may have been meant to be."""
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry in islice(entries, 10_000) if entry.is_file()]
    except OSError:
        return f"; its directory {path.parent} is not there either"
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    return f"; near it: {', '.join(str(path.parent / name) for name in near)}" if near else ""
