"""Rows of JSON files: an object a line, an array of objects, or objects one after another over several lines.

Which of them it is tells the beginning of the file, whatever its ending. Of an array, and of objects over several
lines, about a megabyte is held at a time.
"""

from __future__ import annotations

import itertools
import json
from typing import BinaryIO

from jobs.errors import DataError
from workers.sources.json_values import decode_row, skip_space
from workers.sources.json_window import JsonWindow
from workers.sources.opening import DataFile, opened_text
from workers.sources.rows import BadRow, Outcomes, Row, UnreadableTextError, place
from workers.sources.text_rows import MAX_LINE_BYTES, decode, numbered_lines

_CHUNK_BYTES = 1 << 20
_LOOK_AHEAD_ROWS = 1000
"""Rows whose keys are the columns: not every row of JSON need have all of them."""
_ROW_KEYS = frozenset(
    {"text", "prompt", "completion", "messages", "conversations", "instruction", "output", "question"}
)


def columns(file: DataFile) -> list[str]:
    """The keys of the first rows, in the order in which they come up."""
    names: dict[str, None] = {}
    for row in itertools.islice(rows(file), _LOOK_AHEAD_ROWS):
        if not isinstance(row, BadRow):
            names.update(dict.fromkeys(row))
    return list(names)


def rows(file: DataFile) -> Outcomes:
    """The rows in file order. Blank lines are no rows.

    Raises:
        DataError: An array is damaged, so that the rows after cannot be told apart; or the file is one object that
            holds its rows in a field.
    """
    with opened_text(file) as stream:
        number, first = _first_line(stream)
        by_line = not first.lstrip().startswith(b"[") and not _is_cut(first)
        read = _by_line if by_line else _by_value
        count, only = 0, None
        for count, row in enumerate(read(file, stream, number, first), start=1):
            only = row if count == 1 else None
            yield row
        if isinstance(only, dict):
            _require_no_rows_inside(only, file)


def _first_line(stream: BinaryIO) -> tuple[int, bytes]:
    """Number and bytes of the first line that is not blank; of an array a piece, for it may be one line altogether."""
    number = 1
    while piece := stream.readline(_CHUNK_BYTES):
        if start := piece.lstrip(b" \t\r\n"):
            if not start.startswith(b"[") and not piece.endswith(b"\n"):
                piece += stream.readline(MAX_LINE_BYTES)
            return number, piece
        number += piece.endswith(b"\n")
    return number, b""


def _is_cut(line: bytes) -> bool:
    """Whether a line is the beginning of an object that goes on in the next one."""
    text = line.decode("utf-8", errors="replace").rstrip(" \t\r\n")
    try:
        decode_row(text, skip_space(text, 0))
    except json.JSONDecodeError as error:
        return error.pos >= len(text)
    except UnreadableTextError:
        pass
    return False


def _by_line(file: DataFile, stream: BinaryIO, number: int, first: bytes) -> Outcomes:
    row_number = 0
    for line_number, line in itertools.chain([(number, first)], numbered_lines(stream, file.shown, after=number)):
        if not line.strip(b" \t\r\n"):
            continue
        row_number += 1
        here = place(file.shown, row_number, line_number)
        try:
            text = decode(line, line_number).rstrip(" \t\r\n")
            row, end = decode_row(text, skip_space(text, 0))
            if end < len(text):
                raise json.JSONDecodeError("Extra data", text, skip_space(text, end))
        except json.JSONDecodeError as bad:
            yield BadRow(message=f"{here} is not valid JSON: {bad.msg.removesuffix(' at')} at character {bad.colno}")
        except UnreadableTextError as bad:
            at_line = str(bad).startswith("line ")
            yield BadRow(message=f"{file.shown}: {bad}" if at_line else f"{here} {bad}")
        else:
            yield row


def _by_value(file: DataFile, stream: BinaryIO, number: int, first: bytes) -> Outcomes:
    """Rows of an array, or objects with nothing but space between them."""
    window = JsonWindow(stream, file.shown, first=first, line=number)
    in_array = window.take("[")
    ended = in_array and window.take("]")
    row_number = 0
    while not ended and not window.at_end:
        row_number += 1
        here = place(file.shown, row_number, window.line)
        try:
            yield window.take_row(here)
        except UnreadableTextError as bad:
            yield BadRow(message=f"{here} {bad}")
        if in_array and not window.take(","):
            ended = window.take("]")
            if not ended and not window.at_end:
                raise DataError(f"{file.shown}: a `,` or `]` is missing after row {row_number} (line {window.line})")
    if in_array and not ended:
        raise DataError(f"{file.shown}: the array is cut off after row {row_number}: its `]` is missing")
    if ended and not window.at_end:
        raise DataError(f"{file.shown}: more follows after the array's `]` (line {window.line})")


def _require_no_rows_inside(row: Row, file: DataFile) -> None:
    """Refuse `{"data": [rows]}`, which has one row by its form and was not meant so."""
    for name, value in row.items():
        items = value if isinstance(value, list) else []
        if not _ROW_KEYS & row.keys() and any(isinstance(item, dict) and _ROW_KEYS & item.keys() for item in items):
            raise DataError(
                f"{file.shown} is one object with its rows in `{name}`: write them as an array, or one a line "
                f"(jq -c '.[\"{name}\"][]')"
            )
