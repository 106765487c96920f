"""A cell is text, whatever it looks like; a row that cannot be told apart is refused by its number."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workers.sources.reading import read, refusal, source, write
from workers.sources import BadRow

CELLS = ["00712", "01234", "1.10", "2.50", "true", "FALSE", "NA", "null", "None", "nan", "N/A", "", "1e5", "2020-01-02"]


@pytest.mark.parametrize("name, separator", [("rows.csv", ","), ("rows.tsv", "\t"), ("rows.csv.gz", ",")])
def test_a_cell_is_text_as_it_stands_in_the_file(name: str, separator: str, tmp_path: Path) -> None:
    import gzip

    text = f"prompt{separator}completion\n" + "".join(f"p{separator}{cell}\n" for cell in CELLS)
    path = write(tmp_path / name, gzip.compress(text.encode()) if name.endswith("gz") else text)
    assert read(path) == [{"prompt": "p", "completion": cell} for cell in CELLS]


def test_what_stands_between_quotes_is_kept_to_the_character(tmp_path: Path) -> None:
    path = write(
        tmp_path / "rows.csv", 'a,b\r\n"one\r\ntwo\nthree\rfour","say ""hi"", he, \t"\r\n x ,\ufeff\x00\u2028\x85\r\n'
    )
    assert read(path) == [
        {"a": "one\r\ntwo\nthree\rfour", "b": 'say "hi", he, \t'},
        {"a": " x ", "b": "\ufeff\x00\u2028\x85"},
    ]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    assert read(write(tmp_path / "rows.csv", '\ufeff"prompt",completion\r\n\r\na,b\r\n')) == [
        {"prompt": "a", "completion": "b"}
    ]


def test_a_quote_within_a_cell_stays(tmp_path: Path) -> None:
    assert read(write(tmp_path / "rows.csv", 'a,b\n5" disk,it"s\n')) == [{"a": '5" disk', "b": 'it"s'}]


def test_a_cell_may_be_long(tmp_path: Path) -> None:
    long = "x" * 300_000
    assert read(write(tmp_path / "rows.csv", f"a,b\n{long},y\n")) == [{"a": long, "b": "y"}]


@pytest.mark.parametrize(
    "rows, said",
    [
        ("x,y\n1,2,3\n", "row 2 (line 3) has 3 cells, the header has 2 columns"),
        ("x,y\n1\n", "row 2 (line 3) has 1 cells, the header has 2 columns"),
        ('"x\ny",z\n"1" 2,3\n', "row 2 (line 4) cannot be read: text stands after a closing quote"),
        ('x,y\n"1,2\n3,4\n', "row 2 (line 3) cannot be read: a quote is opened and never closed"),
        ("x,y\n1\r2,3\n", "row 2 (line 3) cannot be read: a carriage return (CR) stands outside of quotes"),
        ("x,y\nz,1\r\n", "row 2 (line 3) ends with CR LF and the header with LF alone"),
    ],
)
def test_a_row_that_cannot_be_told_apart_is_refused_by_its_number(rows: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", f"a,b\n{rows}")
    message = refusal(path)
    assert f"{path}: {said}" in message
    assert "more rows" not in message


def test_all_bad_rows_are_counted_and_the_good_ones_can_be_had(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", "a,b\n1,2\n3\n4,5\n6,7,8\n9\n")
    assert "row 2 (line 3) has 1 cells" in refusal(path)
    assert "(2 more rows cannot be read)" in refusal(path)
    outcomes = list(source(path).outcomes())
    assert [isinstance(outcome, BadRow) for outcome in outcomes] == [False, True, False, True, True]


def test_bad_bytes_are_refused_by_line_with_their_number(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", b"a,b\n1,2\ncaf\xe9,x\n3,4\n\xff,5\n")
    assert f"{path}: line 3 is not UTF-8 text: invalid continuation byte at byte 3 of the line" in refusal(path)
    assert "so are 1 lines after it" in refusal(path)
    assert "is UTF-16 text: save it as UTF-8" in refusal(write(tmp_path / "wide.csv", "a,b\n1,2\n".encode("utf-16")))
    assert "save it as UTF-8" in refusal(write(tmp_path / "bare.csv", "a,b\n1,2\n".encode("utf-16-le")))


def test_another_separator_is_told_as_such(tmp_path: Path) -> None:
    assert "the header is the one column 'a;b'" in refusal(write(tmp_path / "rows.csv", "a;b\n1;2\n"))
    assert "the header is the one column 'a\\tb'" in refusal(write(tmp_path / "tabs.csv", "a\tb\n1\t2\n"))


def test_a_header_names_each_column_once(tmp_path: Path) -> None:
    assert "two columns are named `a`" in refusal(write(tmp_path / "rows.csv", "a,a\n1,2\n"))
    assert read(write(tmp_path / "index.csv", ",text\n0,x\n")) == [{"Unnamed: 0": "0", "text": "x"}]
    assert "has no rows" in refusal(write(tmp_path / "head.csv", "a,b\n"))
