"""Whatever is written comes back as it was written, or its row is refused by number."""

from __future__ import annotations

import bz2
import csv
import datetime
import gzip
import io
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import DataError
from jobs.spec import DatasetSpec, TrainingSpec
from tests.field_cases import field_tokenizer
from workers.examples import read_block
from workers.sources import open_rows

Texts = list[tuple[str, str]]
QUICK = settings(max_examples=40, derandomize=True, database=None, deadline=None)
THOROUGH = settings(max_examples=1000, derandomize=True, database=None, deadline=None)

NULLS = ["", "NA", "N/A", "nan", "NaN", "null", "NULL", "None", "none", "nil", "#N/A", "-", "inf", "-Infinity"]
BOOLEANS = ["true", "false", "True", "FALSE", "yes", "no", "1", "0"]
ODD = ['"', '""', "'", ",", ";", "\t", "\n", "\r\n", "\r", "\\", '\\"', " ", "\ufeff", "\x00", "\x1a", "\u2028", "\x85"]
words = st.sampled_from(
    [*NULLS, *BOOLEANS, *ODD, "00712", "1.10", "1e5", "+1", "0x10", "1_000", "２", "{}", "[1]", "#"]
)
numbers = st.one_of(
    st.integers().map(str),
    st.integers(0, 9999).map("{:08d}".format),
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
)
dates = st.one_of(st.dates().map(str), st.datetimes().map(str), st.dates().map("{:%d.%m.%Y}".format))
letters = st.text(st.characters(codec="utf-8"), max_size=12)
cells = st.one_of(words, numbers, dates, letters, st.lists(st.one_of(words, letters), max_size=5).map("".join))
tables = st.lists(st.tuples(cells, cells), min_size=1, max_size=6)


def delimited(delimiter: str, **how: Any) -> Callable[[Texts], bytes]:
    def write(rows: Texts) -> bytes:
        text = io.StringIO()
        writer = csv.writer(text, delimiter=delimiter, **how)
        writer.writerows([("prompt", "completion"), *rows])
        return text.getvalue().encode()

    return write


def by_pandas(separator: str) -> Callable[[Texts], bytes]:
    return lambda rows: pd.DataFrame(rows, columns=["prompt", "completion"]).to_csv(sep=separator, index=False).encode()


def json_lines(**how: Any) -> Callable[[Texts], bytes]:
    return lambda rows: "\n".join(json.dumps({"prompt": p, "completion": c}, **how) for p, c in rows).encode()


def json_array(rows: Texts) -> bytes:
    return json.dumps([{"prompt": p, "completion": c} for p, c in rows], indent=1).encode()


def parquet(rows: Texts) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"prompt": [p for p, _ in rows], "completion": [c for _, c in rows]}), sink)
    return sink.getvalue()


FILES: dict[str, tuple[str, Callable[[Texts], bytes]]] = {
    "csv": ("rows.csv", delimited(",")),
    "csv with LF": ("rows.csv", delimited(",", lineterminator="\n")),
    "csv all quoted": ("rows.csv", delimited(",", quoting=csv.QUOTE_ALL, lineterminator="\n")),
    "csv of pandas": ("rows.csv", by_pandas(",")),
    "csv with a mark": ("rows.csv", lambda rows: b"\xef\xbb\xbf" + delimited(",")(rows)),
    "csv.gz": ("rows.csv.gz", lambda rows: gzip.compress(delimited(",")(rows))),
    "tsv": ("rows.tsv", delimited("\t")),
    "tsv of pandas": ("rows.tsv", by_pandas("\t")),
    "tsv.bz2": ("rows.tsv.bz2", lambda rows: bz2.compress(delimited("\t")(rows))),
    "jsonl": ("rows.jsonl", json_lines(ensure_ascii=False)),
    "jsonl escaped": ("rows.jsonl", json_lines()),
    "jsonl.gz": ("rows.jsonl.gz", lambda rows: gzip.compress(json_lines(ensure_ascii=False)(rows))),
    "json": ("rows.json", json_array),
    "parquet": ("rows.parquet", parquet),
}
LOSSY_CARRIAGE_RETURNS = {"csv with LF", "csv of pandas", "tsv of pandas"}
"""Their writers leave CR without quotes, where it could also end a line."""


def in_file(name: str, content: bytes, use: Callable[[DatasetSpec], Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        return use(DatasetSpec(path=str(path)))


def rows_of(block: DatasetSpec) -> Texts:
    return [(row["prompt"], row["completion"]) for row in open_rows(block, field="datasets[0]")]


def rows_or_refusal(block: DatasetSpec) -> Texts | str:
    try:
        return rows_of(block)
    except DataError as refusal:
        return str(refusal)


def require_round_trip(written: Texts, kind: str) -> None:
    name, write = FILES[kind]
    read = in_file(name, write(written), rows_or_refusal)
    if isinstance(read, str):
        number = re.search(r"row (\d+)", read)
        assert number is not None, read
        assert kind in LOSSY_CARRIAGE_RETURNS, read
        assert "\r" in "".join(written[int(number[1]) - 1]), read
    else:
        assert read == written


@pytest.mark.parametrize("kind", FILES)
@QUICK
@given(tables)
def test_text_comes_back_to_the_character(kind: str, written: Texts) -> None:
    require_round_trip(written, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
@THOROUGH
@given(tables)
def test_text_comes_back_to_the_character_however_often_it_is_tried(kind: str, written: Texts) -> None:
    require_round_trip(written, kind)


json_numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,20})?([eE][-+]?[0-9]{1,3})?", fullmatch=True, alphabet=st.characters(codec="ascii"))  # fmt: skip  # noqa: E501


@QUICK
@given(st.lists(st.one_of(json_numbers, st.sampled_from(["true", "false"])), min_size=1))
def test_a_scalar_of_json_keeps_its_spelling(spellings: list[str]) -> None:
    for name, content in {
        "rows.jsonl": "\n".join(f'{{"prompt":{one},"completion": {one} }}' for one in spellings),
        "rows.json": "[" + ",".join(f'{{"prompt":{one},"completion": {one} }}' for one in spellings) + "]",
    }.items():
        assert in_file(name, content.encode(), rows_of) == [(one, one) for one in spellings]


@QUICK
@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=6), min_size=1, max_size=6))
def test_half_a_character_is_refused_by_the_number_of_its_row(texts: list[str]) -> None:
    written = [(text, "x") for text in texts]
    broken = [number for number, text in enumerate(texts, start=1) if not is_utf8(json.loads(json.dumps(text)))]
    if not broken:
        assert in_file("rows.jsonl", json_lines()(written), rows_of) == written
        return
    with pytest.raises(DataError, match=rf"row {broken[0]} holds half a character"):
        in_file("rows.jsonl", json_lines()(written), rows_of)


def is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


TYPED: list[tuple[st.SearchStrategy[Any], pa.DataType, Callable[[Any], str]]] = [
    (st.integers(-(2**63), 2**63 - 1), pa.int64(), str),
    (st.booleans(), pa.bool_(), json.dumps),
    (st.floats(allow_nan=False, allow_infinity=False), pa.float64(), json.dumps),
    (st.decimals(-(10**8), 10**8, places=2), pa.decimal128(12, 2), lambda value: format(value, "f")),
    (st.dates(), pa.date32(), datetime.date.isoformat),
    (st.datetimes(), pa.timestamp("us"), datetime.datetime.isoformat),
]


@pytest.mark.parametrize("values, kind, spell", TYPED, ids=[str(kind) for _, kind, _ in TYPED])
def test_a_typed_column_comes_as_its_text(
    values: st.SearchStrategy[Any], kind: pa.DataType, spell: Callable[[Any], str]
) -> None:
    @QUICK
    @given(st.lists(values, min_size=1, max_size=6))
    def holds(column: Sequence[Any]) -> None:
        column = [abs(one) if isinstance(one, Decimal) and one == 0 else one for one in column]  # Arrow has no -0.00
        sink = io.BytesIO()
        pq.write_table(pa.table({"prompt": pa.array(column, kind), "completion": ["x"] * len(column)}), sink)
        assert in_file("rows.parquet", sink.getvalue(), rows_of) == [(spell(one), "x") for one in column]

    holds()


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet", "csv.gz"])
def test_what_is_written_is_what_is_learned(kind: str) -> None:
    """Through the same reader that training and `loraloom preview` use."""
    tokenizer = field_tokenizer(None)
    name, write = FILES[kind]

    def decode(ids: Any) -> str:
        return str(tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def learned(block: DatasetSpec) -> list[tuple[str, str]]:
        training = TrainingSpec(max_length=100_000)
        examples = read_block(block, field="datasets[0]", training=training, tokenizer=tokenizer)
        return [(decode(one.ids), decode(one.ids[one.labelled])) for one in examples]

    @QUICK
    @given(st.lists(cells, min_size=1, max_size=6))
    def holds(texts: list[str]) -> None:
        # No token holds a `7` and anything else, so that prompt and completion have no token in common.
        rows = in_file(name, write([("7", text) for text in texts]), learned)
        assert rows == [(f"7{text}<|im_end|>", f"{text}<|im_end|>") for text in texts]

    holds()
