"""A window that moves over JSON text which is too long to be held whole."""

from __future__ import annotations

import codecs
import json
from typing import BinaryIO

from jobs.errors import DataError
from workers.sources.json_values import decode_row, skip_space, skip_value
from workers.sources.rows import Row, UnreadableTextError
from workers.sources.text_rows import MAX_LINE_BYTES

_CHUNK_BYTES = 1 << 20
_TAIL = 16
"""An error this near to the end of what has been read may come from a word or escape that is cut in two there."""


class JsonWindow:
    """The part of a file's text that is being decoded; it grows until the value in it is whole, then moves on.

    Args:
        stream: The bytes that follow `first`.
        shown: The file's name in messages.
        first: Bytes that have been read already.
        line: Number of the line that they begin.
    """

    def __init__(self, stream: BinaryIO, shown: str, *, first: bytes, line: int) -> None:
        self._stream = stream
        self._shown = shown
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._position = 0
        self._line = line
        self._counted = 0
        """Lines are counted up to this position."""
        self._ended = False
        self._add(first)

    @property
    def line(self) -> int:
        """Number of the line of the next character that is no space."""
        self._skip_space()
        self._count_lines()
        return self._line

    @property
    def at_end(self) -> bool:
        """Whether nothing but space follows."""
        self._skip_space()
        return self._position == len(self._text)

    def take(self, character: str) -> bool:
        """Pass over the next character that is no space, if it is this one."""
        self._skip_space()
        if self._text[self._position : self._position + 1] != character:
            return False
        self._position += 1
        return True

    def take_row(self, here: str) -> Row:
        """The next object.

        Args:
            here: Its place in messages.

        Raises:
            DataError: It is no JSON, so that nothing after it can be told apart.
            UnreadableTextError: It is JSON and no row; the window stands behind it.
        """
        self._skip_space()
        while True:
            try:
                row, self._position = decode_row(self._text, self._position)
            except json.JSONDecodeError as bad:
                if not self._may_be_cut(bad) or not self._grow():
                    self._count_lines()
                    line = self._line + self._text.count("\n", self._position, bad.pos)
                    reason = bad.msg.removesuffix(" at")
                    raise DataError(
                        f"{here} is not valid JSON: {reason} at character {bad.colno} of line {line}"
                    ) from bad
            except UnreadableTextError as bad:
                end = skip_value(self._text, self._position)
                if end is None:
                    raise DataError(f"{here} {bad}") from bad
                self._position = end
                raise
            else:
                return row

    def _may_be_cut(self, error: json.JSONDecodeError) -> bool:
        return error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - _TAIL

    def _skip_space(self) -> None:
        while (position := skip_space(self._text, self._position)) == len(self._text) and self._grow():
            pass
        self._position = position

    def _count_lines(self) -> None:
        self._line += self._text.count("\n", self._counted, self._position)
        self._counted = self._position

    def _grow(self) -> bool:
        """Read on; false at the end of the file. At least doubles what is being decoded, which is decoded anew."""
        if self._ended:
            return False
        rest = len(self._text) - self._position
        if rest > MAX_LINE_BYTES:
            raise DataError(f"{self._shown}: a row from line {self.line} on is longer than {MAX_LINE_BYTES:,} bytes")
        piece = self._stream.read(max(_CHUNK_BYTES, rest))
        self._ended = not piece
        self._add(piece)
        return True

    def _add(self, piece: bytes) -> None:
        try:
            text = self._decoder.decode(piece, final=self._ended)
        except UnicodeDecodeError as bad:
            line = self._line + self._text.count("\n", self._counted) + bad.object.count(b"\n", 0, bad.start)
            raise DataError(f"{self._shown}: line {line} is not UTF-8 text: {bad.reason}") from bad
        self._count_lines()
        self._text = self._text[self._position :] + text
        self._position = self._counted = 0
