"""Compressed files, damaged ones, and files that are not what their names say."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import pyarrow as pa
import pytest

from tests.workers.sources.reading import read, refusal, write
from workers.sources import opening


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


@pytest.mark.parametrize("ending", PACKERS)
def test_compressed_files_are_read_by_their_ending(ending: str, tmp_path: Path) -> None:
    pack = PACKERS[ending]
    rows = [{"text": "é"}, {"text": "b"}]
    for name, text in {
        "rows.jsonl": '{"text": "é"}\n{"text": "b"}\n',
        "rows.json": '[{"text": "é"}, {"text": "b"}]',
        "rows.csv": "\ufefftext\r\né\r\nb\r\n",
        "rows.tsv": "text\né\nb\n",
        "rows.txt": "é\nb",
    }.items():
        assert read(write(tmp_path / (name + ending), pack(text.encode()))) == rows
        path = write(tmp_path / (name.upper() + ending.upper()), pack(text.encode()))
        assert read(path) == rows


@pytest.mark.parametrize("ending", PACKERS)
def test_a_file_that_is_cut_off_is_refused_with_the_row_where_it_ends(ending: str, tmp_path: Path) -> None:
    lines = "".join(f'{{"text": "{n * 7919 % 10007} {n * 104729 % 1000003}"}}\n' for n in range(60_000)).encode()
    packed = PACKERS[ending](lines)
    path = write(tmp_path / f"rows.jsonl{ending}", packed[: len(packed) * 9 // 10])
    message = refusal(path)
    assert f"{path} is cut off or damaged" in message
    assert "(after row " in message


def test_bytes_that_were_changed_are_refused(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(b'{"text": "a"}\n' * 5))
    packed[-6] ^= 1
    assert "is cut off or damaged" in refusal(write(tmp_path / "rows.jsonl.gz", bytes(packed)))
    assert "is cut off or damaged" in refusal(write(tmp_path / "plain.jsonl.gz", '{"text": "a"}\n'))


@pytest.mark.parametrize(
    "content, advice",
    [
        (gzip.compress(b'{"text": "a"}', mtime=0), "is compressed with gzip: let its name end in .gz"),
        (zstd(b'{"text": "a"}'), "is compressed with zstd: let its name end in .zst"),
        (b"PK\x03\x04", "is a zip archive: unpack it"),
        (b"PAR1", "is a parquet file"),
        ("é".encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
    ],
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.txt"])
def test_a_file_that_is_something_else_is_told_as_what_it_is(
    name: str, content: bytes, advice: str, tmp_path: Path
) -> None:
    assert advice in refusal(write(tmp_path / name, content))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet", "rows.jsonl.gz"])
def test_a_pointer_of_git_lfs_is_no_data(name: str, tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    assert "is a pointer of Git LFS and not the data" in refusal(write(tmp_path / name, pointer))


def test_every_local_file_comes_through_one_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What guards against links guards there."""
    from datasets import Dataset, DatasetDict

    table = Dataset.from_list([{"text": "a"}])
    table.to_parquet(str(tmp_path / "rows.parquet"))
    DatasetDict(train=table).save_to_disk(str(tmp_path / "saved"))
    write(tmp_path / "folder" / "train.csv", "text\na\n")
    write(tmp_path / "folder" / "README.md", "---\nlicense: mit\n---\n")
    for name in ("rows.jsonl", "rows.jsonl.gz"):
        text = b'{"text": "a"}'
        write(tmp_path / name, gzip.compress(text) if name.endswith("gz") else text)
    write(tmp_path / "rows.txt", "a")

    def refuse(path: str) -> None:
        raise PermissionError(1, "kept away", path)

    for name in ("rows.parquet", "saved", "folder", "rows.jsonl", "rows.jsonl.gz", "rows.txt"):
        assert read(tmp_path / name) == [{"text": "a"}]
    monkeypatch.setattr(opening, "open_local", refuse)
    monkeypatch.setattr("workers.sources.locating.open_local", refuse)
    for name in ("rows.parquet", "saved", "folder", "rows.jsonl", "rows.jsonl.gz", "rows.txt"):
        assert "kept away" in refusal(tmp_path / name)
