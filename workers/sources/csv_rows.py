"""Rows of csv and tsv files. A cell is text, always; an empty cell is empty text.

Python's csv in strict mode: it says which line is wrong, where readers that guess types give no number of the row or
take a quote in the middle of a cell away in silence.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from jobs.data_formats import split_ending
from jobs.errors import DataError
from workers.sources.opening import DataFile, opened_text
from workers.sources.rows import BadRow, Outcomes, UnreadableTextError, place
from workers.sources.text_rows import MAX_LINE_BYTES, decode, numbered_lines

# The library's own limit of 131,072 characters is one of long documents; it can be set for the process alone.
csv.field_size_limit(MAX_LINE_BYTES)


class _Lines:
    """The lines of a file for `csv.reader`, with what it does not tell: where it stands and how the line ended."""

    def __init__(self, stream: BinaryIO, shown: str) -> None:
        self._lines = numbered_lines(stream, shown)
        self.number = 0
        self.last = ""

    def __iter__(self) -> Iterator[str]:
        for number, line in self._lines:
            self.number, self.last = number, decode(line, number)
            yield self.last

    @property
    def crlf(self) -> bool:
        """Whether the last line ended with CR LF."""
        return self.last.endswith("\r\n")

    def count_bad(self) -> int:
        """Lines from here on that are not UTF-8."""
        return sum(1 for _, line in self._lines if not _is_utf8(line))


@contextmanager
def _table(file: DataFile) -> Iterator[tuple[list[str], Iterator[list[str]], _Lines]]:
    """Header, rows after it as `csv.reader` gives them, and the lines below."""
    delimiter = file.delimiter or ("\t" if split_ending(file.name)[0] == ".tsv" else ",")
    with opened_text(file) as stream:
        lines = _Lines(stream, file.shown)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            header = next((cells for cells in reader if cells), [])
            yield _named(header, file), reader, lines
        except UnreadableTextError as bad:
            others = lines.count_bad()
            more = f"; so are {others} lines after it" if others else ""
            raise DataError(f"{file.shown}: {bad}{more}") from bad
        except csv.Error as bad:
            raise DataError(f"{file.shown}: the header in line {lines.number} cannot be read: {_reason(bad)}") from bad


def columns(file: DataFile) -> list[str]:
    """The names in the header; a column without one is named as pandas names it."""
    with _table(file) as (header, _, _):
        return header


def rows(file: DataFile) -> Outcomes:
    """The rows in file order. An empty line is no row; a row with more or fewer cells than columns is bad."""
    with _table(file) as (header, reader, lines):
        crlf, number = lines.crlf, 0
        while True:
            first = lines.number + 1
            try:
                cells = next(reader, None)
            except csv.Error as bad:
                number += 1
                yield BadRow(message=f"{place(file.shown, number, first)} cannot be read: {_reason(bad)}")
                continue
            if cells is None:
                return
            if not cells:
                continue
            number += 1
            if len(cells) != len(header):
                yield BadRow(
                    message=f"{place(file.shown, number, first)} has {len(cells)} cells, the header has {len(header)} "
                    "columns: a cell with a separator, a quote or a line end in it needs quotes around it"
                )
            elif lines.crlf and not crlf:
                yield BadRow(
                    message=f"{place(file.shown, number, first)} ends with CR LF and the header with LF alone, so that "
                    "the CR may be part of the last cell: quote the cell, or give all lines the same end"
                )
            else:
                yield dict(zip(header, cells, strict=True))


def _named(header: list[str], file: DataFile) -> list[str]:
    if len(header) == 1 and any(separator in header[0] for separator in ";\t|"):
        raise DataError(
            f"{file.shown}: the header is the one column {header[0]!r}: cells are separated by commas in .csv and by "
            "tabs in .tsv; save it so"
        )
    names = [name or f"Unnamed: {position}" for position, name in enumerate(header)]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{file.shown}: two columns are named `{name}`: give each a name of its own")
        if "\0" in name:
            raise DataError(f"{file.shown}: the header holds zero bytes: if it is UTF-16 text, save it as UTF-8")
    return names


def _reason(error: csv.Error) -> str:
    text = str(error)
    if text.startswith("unexpected end of data"):
        return "a quote is opened and never closed"
    if text.startswith("new-line character"):
        return "a carriage return (CR) stands outside of quotes"
    if "expected after" in text:
        return "text stands after a closing quote: a quote inside a quoted cell is written twice"
    return text


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
