"""However long a file is, only a little of it is held."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.workers.sources.reading import source, write
from workers.sources import json_window

ROWS = [{"text": f"{number} " * 300} for number in range(3000)]
"""About four megabytes."""


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.jsonl.gz", "rows.txt", "rows.parquet"])
def test_rows_are_read_one_after_another(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_window, "_CHUNK_BYTES", 1 << 15)
    monkeypatch.setattr("workers.sources.json_rows._CHUNK_BYTES", 1 << 15)
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    if name == "rows.parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / name, row_group_size=100)
    else:
        content = {
            "rows.jsonl": lines.encode(),
            "rows.jsonl.gz": gzip.compress(lines.encode()),
            "rows.json": json.dumps(ROWS).encode(),
            "rows.csv": ("text\n" + "\n".join(row["text"] for row in ROWS)).encode(),
            "rows.txt": "\n".join(row["text"] for row in ROWS).encode(),
        }[name]
        write(tmp_path / name, content)
    rows = source(tmp_path / name)
    arrow_before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        assert sum(1 for _ in rows) == len(ROWS)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 1_500_000
    assert pa.total_allocated_bytes() == arrow_before
