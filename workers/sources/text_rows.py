"""Lines of UTF-8 text, numbered; and text files, of which every line is a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from jobs.errors import DataError
from workers.sources.opening import DataFile, opened_text
from workers.sources.rows import BadRow, Outcomes, UnreadableTextError

MAX_LINE_BYTES = 1 << 28
"""A longer line is refused, so that a damaged file cannot fill the memory."""


def numbered_lines(stream: BinaryIO, shown: str, *, after: int = 0) -> Iterator[tuple[int, bytes]]:
    """The lines with their ends, counted from 1. A line ends at LF alone: nothing else that Unicode calls a line end.

    Args:
        stream: The bytes.
        shown: The file's name in messages.
        after: Lines that have been read from the stream before.

    Raises:
        DataError: A line is longer than `MAX_LINE_BYTES`.
    """
    number = after
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise DataError(f"{shown}: line {number} is longer than {MAX_LINE_BYTES:,} bytes")
        yield number, line


def decode(line: bytes, number: int) -> str:
    """A line as text.

    Raises:
        UnreadableTextError: It is not UTF-8.
    """
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as bad:
        raise UnreadableTextError(
            f"line {number} is not UTF-8 text: {bad.reason} at byte {bad.start} of the line"
        ) from bad


def columns(file: DataFile) -> list[str]:
    """The columns of a text file, after a look at whether it is one."""
    with opened_text(file):
        return ["text"]


def rows(file: DataFile) -> Outcomes:
    """A row for each line, blank ones too, as `datasets` has it; the line end is not part of the text."""
    with opened_text(file) as stream:
        for number, line in numbered_lines(stream, file.shown):
            try:
                text = decode(line, number)
            except UnreadableTextError as bad:
                yield BadRow(message=f"{file.shown}: {bad}")
            else:
                yield {"text": text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text}
