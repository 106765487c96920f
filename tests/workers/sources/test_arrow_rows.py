"""Values of parquet and arrow files as text, in the spelling that they have elsewhere; nothing that Arrow filled in."""

from __future__ import annotations

import datetime
import json
import math
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from tests.workers.sources.reading import read, refusal, source, write
from workers.sources import arrow_rows

UTC = datetime.UTC
MILLISECONDS = pa.timestamp("ms", "UTC")


def saved(path: Path, **columns: pa.Array) -> Path:
    table = pa.table(columns)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        opened = pa.ipc.new_stream if path.stem == "stream" else pa.ipc.new_file
        with path.open("wb") as file, opened(file, table.schema) as writer:
            writer.write_table(table)
    return path


@pytest.mark.parametrize("name", ["rows.parquet", "stream.arrow", "file.arrow"])
@pytest.mark.parametrize(
    "values, texts",
    [
        (pa.array(["00712", "1.10", "", "NA", None, "\x00\r\n"]), ["00712", "1.10", "", "NA", None, "\x00\r\n"]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (pa.array(["a"], pa.large_string()), ["a"]),
        (pa.array(["a", "é"], pa.string_view()), ["a", "é"]),
        (pa.array([3, -7, None]), ["3", "-7", None]),
        (pa.array([2**64 - 1], pa.uint64()), ["18446744073709551615"]),
        (pa.array([True, False, None]), ["true", "false", None]),
        (pa.array([0.5, 3.0, 0.1, 1e22]), ["0.5", "3.0", "0.1", "1e+22"]),
        (pa.array([0.1, 3.0], pa.float32()), ["0.1", "3.0"]),
        (pa.array([Decimal("1.10"), Decimal("-0.00")], pa.decimal128(10, 2)), ["1.10", "0.00"]),
        (pa.array([datetime.date(2020, 1, 2)]), ["2020-01-02"]),
        (pa.array([datetime.datetime(2020, 1, 2, 3, 4, 5)], pa.timestamp("s")), ["2020-01-02T03:04:05"]),
        (pa.array([datetime.datetime(2020, 1, 2, tzinfo=UTC)], MILLISECONDS), ["2020-01-02T00:00:00+00:00"]),
        (pa.array([1577934245000000001], pa.timestamp("ns")), ["2020-01-02T03:04:05.000000001"]),
        (pa.array([datetime.time(3, 4)], pa.time64("us")), ["03:04:00"]),
        (pa.array([b"caf\xc3\xa9", b"\xff"]), ["café", b"\xff"]),
    ],
)  # fmt: skip
def test_a_scalar_is_text(name: str, values: pa.Array, texts: list[object], tmp_path: Path) -> None:
    if name != "rows.parquet" or not pa.types.is_string_view(values.type):
        assert [row["text"] for row in read(saved(tmp_path / name, text=values))] == texts


def test_what_is_no_number_is_no_text(tmp_path: Path) -> None:
    """pandas writes a missing number as NaN, which would be learned as a word."""
    rows = list(source(saved(tmp_path / "rows.parquet", text=pa.array([math.nan, 1.0]))))
    assert math.isnan(rows[0]["text"])
    assert rows[1]["text"] == "1.0"


def test_keys_that_arrow_filled_with_null_are_gone_at_every_depth(tmp_path: Path) -> None:
    calls = [{"name": "f", "args": {"a": 2}}]
    messages = [
        [{"role": "user", "content": "2+3?"}, {"role": "assistant", "content": "", "calls": calls}],
        [{"role": "tool", "content": "5", "id": "x", "calls": [{"name": "g", "args": {"b": [1.5, None], "c": True}}]}],
    ]  # fmt: skip
    table = pa.Table.from_pylist([{"messages": one} for one in messages])
    pq.write_table(table, tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet") == [{"messages": one} for one in messages]


def test_maps_json_columns_and_dates_inside_are_json_values(tmp_path: Path) -> None:
    kind = pa.struct({"when": pa.date32(), "price": pa.decimal128(5, 2), "half": pa.float32(), "n": pa.int8()})
    path = saved(
        tmp_path / "rows.parquet",
        map=pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int32())),
        struct=pa.array([{"when": datetime.date(2020, 1, 2), "price": Decimal("1.10"), "half": 0.1, "n": 3}], kind),
        any=pa.array(['{"a": [1, "x"]}'], pa.json_()),
        number=pa.array(["1.10"], pa.json_()),
        anys=pa.ListArray.from_arrays([0, 2], pa.array(['{"a": 1}', "2"], pa.json_())),
    )
    assert read(path) == [
        {
            "map": {"a": 1},
            "struct": {"when": "2020-01-02", "price": "1.10", "half": 0.1, "n": 3},
            "any": {"a": [1, "x"]},
            "number": "1.10",
            "anys": [{"a": 1}, 2],
        }
    ]


def test_values_of_mixed_types_that_datasets_wrote_come_back(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "a", "args": {"a": 1}}, {"role": "b", "args": "s"}]}]
    table = Dataset.from_list(rows, on_mixed_types="use_json")
    table.to_parquet(str(tmp_path / "rows.parquet"))
    assert read(tmp_path / "rows.parquet") == rows


def test_a_column_of_json_text_is_passed_on_as_text(tmp_path: Path) -> None:
    text = json.dumps([{"role": "user", "content": "a"}])
    assert read(saved(tmp_path / "rows.parquet", messages=pa.array([text]))) == [{"messages": text}]


def test_many_batches_come_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_rows, "_BATCH_ROWS", 7)
    texts = [str(n) for n in range(100)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "rows.parquet", row_group_size=30)
    assert [row["text"] for row in read(tmp_path / "rows.parquet")] == texts
    assert [row["text"] for row in read(saved(tmp_path / "stream.arrow", text=pa.array(texts)))] == texts


def test_bad_rows_are_refused_by_number(tmp_path: Path) -> None:
    bad = pa.StringArray.from_buffers(3, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffb"))
    path = saved(tmp_path / "rows.parquet", text=bad)
    assert f"{path}: row 2 is not UTF-8 text in column `text`" in refusal(path)
    path = saved(tmp_path / "json.parquet", text=pa.array(['"a"', "{", '{"k": 1, "k": 2}'], pa.json_()))
    assert f"{path}: row 2 cannot be read in column `text`" in refusal(path)
    assert "(1 more rows cannot be read)" in refusal(path)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = saved(tmp_path / "rows.parquet", text=pa.array(["a"] * 1000)).read_bytes()
    path = write(tmp_path / "cut.parquet", whole[:-20])
    assert f"{path} cannot be read as parquet" in refusal(path)
    stream = saved(tmp_path / "stream.arrow", text=pa.array([str(n) for n in range(1000)])).read_bytes()
    assert "cannot be read as arrow" in refusal(write(tmp_path / "cut.arrow", stream[:-3000]))
    assert "cannot be read as arrow" in refusal(write(tmp_path / "text.arrow", "hello, this is no table"))
