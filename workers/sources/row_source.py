"""A block of `datasets:` as a stream of rows, cut and renamed as the block says."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jobs.errors import DataError
from jobs.spec import DatasetSpec
from workers import confinement
from workers.sources import arrow_rows, csv_rows, json_rows, text_rows
from workers.sources.locating import Located, locate
from workers.sources.opening import DataFile
from workers.sources.rows import BadRow, Outcomes, Row

_READERS = {"json": json_rows, "csv": csv_rows, "text": text_rows, "parquet": arrow_rows, "arrow": arrow_rows}
_ENDLESS = 1 << 62
"""Rows of a split whose number does not matter: more than any has."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Rows `start` to `stop`, without the latter, of some files."""

    files: tuple[DataFile, ...]
    start: int
    stop: int


class RowSource:
    """The rows of one block, read anew at each iteration, of which one at a time is held.

    Args:
        block: The block.
        field: Its path in the spec.
        parts: Which rows of which files.
    """

    def __init__(self, block: DatasetSpec, field: str, parts: Sequence[_Part]) -> None:
        self._block = block
        self._field = field
        self._parts = tuple(parts)
        files = dict.fromkeys(file for part in parts for file in part.files)
        theirs = list(dict.fromkeys(itertools.chain.from_iterable(self._columns_of(file) for file in files)))
        self._ours: dict[str, str] = {}
        if not theirs:
            # Every row is bad, or there is none: the first one read says which.
            next(iter(self))
        self._ours = self._renamed(theirs)
        self.column_names = list(self._ours.values()) if self._ours else theirs
        """Columns of the rows, ours where the block renames them. A later row of JSON may have others besides."""

    def __iter__(self) -> Iterator[Row]:
        """The rows in file order.

        Raises:
            DataError: At the first row that cannot be read, with the number of all of them; or if there is no row.
        """
        outcomes = self.outcomes()
        for outcome in outcomes:
            if isinstance(outcome, BadRow):
                others = sum(isinstance(later, BadRow) for later in outcomes)
                more = f" ({others} more rows cannot be read)" if others else ""
                raise DataError(f"{outcome.message}{more}", field=self._field)
            yield outcome

    def outcomes(self) -> Outcomes:
        """The rows in file order, and in the place of each that cannot be read the reason.

        Raises:
            DataError: A file cannot be read any further, or there is no row.
        """
        found = False
        for outcome in itertools.islice(self._all(), self._block.max_samples):
            found = True
            yield outcome
        if not found:
            raise DataError(f"{self._block.path} has no rows in {self._block.split}", field=self._field)

    def _all(self) -> Outcomes:
        ours = self._ours
        for part in self._parts:
            for outcome in itertools.islice(_chained(part.files, self._field), part.start, part.stop):
                if isinstance(outcome, BadRow) or not ours:
                    yield outcome
                else:
                    yield {ours[name]: value for name, value in outcome.items() if name in ours}

    def _columns_of(self, file: DataFile) -> list[str]:
        try:
            return _READERS[file.builder].columns(file)
        except DataError as error:
            raise DataError(str(error), field=self._field) from error

    def _renamed(self, theirs: list[str]) -> dict[str, str]:
        """Their column to ours, for the columns that are kept; empty where all are, as they are."""
        columns = dict(self._block.columns or {})
        ours: dict[str, str] = {}
        for name, source in columns.items():
            field = f"{self._field}.columns.{name}"
            if source not in theirs:
                near = difflib.get_close_matches(source, theirs, n=2)
                hint = f"did you mean {' or '.join(near)}? " if near else ""
                raise DataError(
                    f"there is no column `{source}` in {self._block.path}; {hint}its columns are {', '.join(theirs)}",
                    field=field,
                )
            if source in ours:
                raise DataError(f"column `{source}` is mapped twice", field=field)
            ours[source] = name
        return ours


def open_rows(block: DatasetSpec, *, field: str) -> RowSource:
    """Open the rows of one dataset block.

    Args:
        block: The block.
        field: Its path in the spec, such as `datasets[0]`, for messages.

    Raises:
        DataError: File missing or unreadable, column or split unknown, a field that does nothing, nothing in it.
    """
    block = confinement.data_block(block, field=field)
    return RowSource(block, field, _parts(block, locate(block, field=field), field))


def _parts(block: DatasetSpec, located: Located, field: str) -> list[_Part]:
    from datasets import ReadInstruction

    asked = re.findall(r"(?:^|\+)\s*(\w+(?:\.\w+)*)", block.split)
    files = dict(located.splits)
    if located.one_split:
        files = dict.fromkeys(asked[:1], files["train"])
    for name in asked:
        if name not in files:
            known = "it is one split" if located.one_split else f"its splits are {', '.join(files)}"
            raise DataError(f"{block.path} has no split `{name}`: {known}", field=f"{field}.split")
    counted = any("%" in bounds or "-" in bounds for bounds in re.findall(r"\[(.*?)\]", block.split))
    try:
        instruction = ReadInstruction.from_spec(block.split)
        lengths = {name: _count(files[name], field) if counted else _ENDLESS for name in asked}
        absolute = instruction.to_absolute(lengths)
    except (ValueError, AssertionError) as error:
        raise DataError(
            f"`{block.split}` is no split that can be read: write train, train[:100], train[10%:20%] or train+test",
            field=f"{field}.split",
        ) from error
    return [_Part(files=files[part.splitname], start=part.from_, stop=part.to) for part in absolute]


def _count(files: Sequence[DataFile], field: str) -> int:
    return sum(1 for _ in _chained(files, field))


def _chained(files: Sequence[DataFile], field: str) -> Outcomes:
    """The rows of files one after another."""
    for file in files:
        number = 0
        try:
            for outcome in _READERS[file.builder].rows(file):
                number += 1
                yield outcome
        except DataError as error:
            after = f" (after row {number})" if number else ""
            raise DataError(f"{error}{after}", field=field) from error
