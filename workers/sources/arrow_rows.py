"""Rows of parquet and arrow files, batch by batch."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.errors import DataError
from workers.sources.arrow_values import top_converter
from workers.sources.opening import DataFile, opened
from workers.sources.rows import BadRow, Outcomes, Row, UnreadableTextError

_BATCH_ROWS = 256


def columns(file: DataFile) -> list[str]:
    """The columns of the schema."""
    with _table(file) as (schema, _):
        return list(schema.names)


def rows(file: DataFile) -> Outcomes:
    """The rows in file order, scalars as text, without keys of structs that Arrow filled with null."""
    with _table(file) as (schema, batches):
        converters = [top_converter(column.type) for column in schema]
        number = 0
        for batch in batches:
            for row in _rows_of(batch, converters):
                number += 1
                if isinstance(row, str):
                    yield BadRow(message=f"{file.shown}: row {number} {row}")
                else:
                    yield row


@contextmanager
def _table(file: DataFile) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    with opened(file) as stream:
        try:
            if file.builder == "parquet":
                table = pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20)
                schema, batches = table.schema_arrow, table.iter_batches(_BATCH_ROWS)
            else:
                schema, batches = _ipc(stream)
            for name in schema.names:
                if schema.names.count(name) > 1:
                    raise DataError(f"{file.shown}: two columns are named `{name}`")
            yield schema, batches
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file.shown} cannot be read as {file.builder}: {_first_line(error)}") from error


def _ipc(stream: BinaryIO) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Of either kind of arrow file: a stream, as `datasets` writes it, or one with an index at its end."""
    try:
        reader = pa.ipc.open_stream(stream)
    except pa.ArrowInvalid:
        stream.seek(0, io.SEEK_SET)
        indexed = pa.ipc.open_file(stream)
        return indexed.schema, (indexed.get_batch(number) for number in range(indexed.num_record_batches))
    return reader.schema, iter(reader)


def _rows_of(batch: pa.RecordBatch, converters: list[Any]) -> Iterator[Row | str]:
    """Each row of a batch, or what is wrong with it."""
    for start in range(0, batch.num_rows, _BATCH_ROWS):
        part = batch.slice(start, _BATCH_ROWS)
        try:
            values = [
                [convert(value) for value in column.to_pylist()]
                for convert, column in zip(converters, part.columns, strict=True)
            ]
        except (UnicodeDecodeError, UnreadableTextError, ValueError, OverflowError):
            # One of them is bad; which one shows when they are taken one by one.
            yield from (_row_at(part, position, converters) for position in range(part.num_rows))
        else:
            yield from (dict(zip(batch.schema.names, row, strict=True)) for row in zip(*values, strict=True))


def _row_at(part: pa.RecordBatch, position: int, converters: list[Any]) -> Row | str:
    row: Row = {}
    for name, convert, column in zip(part.schema.names, converters, part.columns, strict=True):
        try:
            row[name] = convert(column[position].as_py())
        except UnicodeDecodeError as bad:
            return f"is not UTF-8 text in column `{name}`: {bad.reason}"
        except (ValueError, OverflowError) as bad:
            return f"cannot be read in column `{name}`: {bad}"
    return row


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
