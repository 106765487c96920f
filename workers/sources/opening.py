"""Opens the files of a dataset: local or from the hub, plain or compressed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

import pyarrow as pa

from jobs.data_formats import split_ending
from jobs.errors import DataError
from workers import confinement
from workers.sources.hub import HubFile

_LFS_POINTER = b"version https://git-lfs"
_MAGIC = {
    b"\x1f\x8b": "is compressed with gzip: let its name end in .gz",
    b"BZh": "is compressed with bzip2: let its name end in .bz2",
    b"\xfd7zXZ": "is compressed with xz: let its name end in .xz",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd: let its name end in .zst",
    b"PK\x03\x04": "is a zip archive: unpack it",
    b"PAR1": "is a parquet file: let its name end in .parquet",
    b"\xff\xfe": "is UTF-16 text: save it as UTF-8",
    b"\xfe\xff": "is UTF-16 text: save it as UTF-8",
}
"""How a file begins that is no plain UTF-8 text, though its name says so."""


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One file of a dataset."""

    name: str
    """A local path, or the name inside a hub dataset."""
    builder: str
    """Of `jobs.data_formats.BUILDERS`: how it is read."""
    hub: HubFile | None = None
    """Where it comes from; `None` for a local file."""
    delimiter: str | None = None
    """Of csv files whose dataset card names one."""

    @property
    def shown(self) -> str:
        """The name in messages."""
        return self.name if self.hub is None else f"{self.hub.repository}/{self.name}"


def open_local(path: str) -> BinaryIO:
    """Open a local file that a spec names. Every local file of every dataset comes through here.

    Raises:
        OSError: As `open` does, and where the rules do not let it be read.
    """
    return confinement.open_file(path)


@contextmanager
def opened(file: DataFile) -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed.

    Raises:
        DataError: It cannot be opened, or, while it is read inside the block, its compressed bytes are damaged.
    """
    ending = split_ending(file.name)[1]
    try:
        raw = open_local(file.name) if file.hub is None else file.hub.open()
    except OSError as error:
        raise DataError(f"{file.shown} cannot be read: {error.strerror or error}") from error
    with raw:
        if raw.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise DataError(f"{file.shown} is a pointer of Git LFS and not the data: run git lfs pull")
        raw.seek(0)
        try:
            yield _decompressed(raw, ending) if ending else raw
        except (EOFError, zlib.error, lzma.LZMAError) as error:
            raise _damaged(file, error) from error
        except OSError as error:
            raise (_damaged(file, error) if ending else DataError(f"{file.shown} cannot be read: {error}")) from error


@contextmanager
def opened_text(file: DataFile) -> Iterator[BinaryIO]:
    """The bytes of a file that holds UTF-8 text; a byte order mark at its beginning is passed over.

    Raises:
        DataError: As `opened`, and where the first bytes are those of something else.
    """
    with opened(file) as stream:
        buffered = io.BufferedReader(cast(io.RawIOBase, stream)) if not hasattr(stream, "peek") else stream
        start = cast(io.BufferedReader, buffered).peek(8)[:8]
        for magic, advice in _MAGIC.items():
            if start.startswith(magic):
                raise DataError(f"{file.shown} {advice}")
        if start.startswith(b"\xef\xbb\xbf"):
            buffered.read(3)
        yield cast(BinaryIO, buffered)


def _decompressed(raw: BinaryIO, ending: str) -> BinaryIO:
    if ending == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw, mode="rb"))
    if ending == ".bz2":
        return cast(BinaryIO, bz2.BZ2File(raw, "rb"))
    if ending == ".xz":
        return cast(BinaryIO, lzma.LZMAFile(raw, "rb"))
    # Python has zstd from 3.14 on; pyarrow has it always.
    return cast(BinaryIO, io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd")))


def _damaged(file: DataFile, error: Exception) -> DataError:
    return DataError(f"{file.shown} is cut off or damaged, its compressed bytes cannot be read to the end: {error}")
