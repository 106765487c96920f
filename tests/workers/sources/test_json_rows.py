"""JSON keeps its spelling; what is no JSON, or would lose something, is refused by row."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.workers.sources.reading import read, refusal, source, write
from workers.sources import json_window

SPELLINGS = ["3", "0.5", "1.10", "2.50", "1e5", "1E+05", "-0", "-0.0", "true", "false", "1" * 5000, "1e400"]


@pytest.mark.parametrize("name, before, between, after", [
    ("rows.jsonl", "", "\n", "\n"),
    ("rows.ndjson", "", "\n", ""),
    ("rows.json", "[", ",", "]"),
    ("rows.jsonl", " [\n  ", ",\n  ", "\n]\n"),
    ("rows.json", "\n\n", "\r\n\r\n", ""),
])  # fmt: skip
def test_a_scalar_is_text_in_its_spelling(name: str, before: str, between: str, after: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, before + between.join(f'{{"text": {one}, "n": 1}}' for one in SPELLINGS) + after)
    assert [row["text"] for row in read(path)] == SPELLINGS


def test_text_is_kept_to_the_character(tmp_path: Path) -> None:
    texts = [
        "",
        " ",
        "\x00",
        "\u2028\x85\x0b\x0c\x1c",
        "\ufeff",
        "😀",
        "é",
        "e\u0301",
        '"\\/',
        "\r\n",
        "\ud7ff\ue000",
        "NA",
    ]
    for escaped in (False, True):
        lines = "".join(json.dumps({"text": text}, ensure_ascii=escaped) + "\n" for text in texts)
        assert [row["text"] for row in read(write(tmp_path / "rows.jsonl", lines))] == texts


def test_what_nests_stays_a_value_and_null_is_nothing(tmp_path: Path) -> None:
    row = {"messages": [{"role": "a", "content": None, "calls": [{"n": 3, "x": 0.5, "ok": True}]}], "meta": None}
    path = write(tmp_path / "rows.jsonl", json.dumps(row))
    assert read(path) == [row]


def test_a_mark_line_ends_and_blank_lines_are_no_rows(tmp_path: Path) -> None:
    """P5 of the cases from the field."""
    path = write(tmp_path / "rows.jsonl", '\ufeff{"text":"fox"}\r\n\r\n{"text":"hello"}\r\n')
    assert read(path) == [{"text": "fox"}, {"text": "hello"}]


def test_a_column_of_mixed_types_loads(tmp_path: Path) -> None:
    """P7 of the cases from the field."""
    metas = ["1", '"x"', '{"k":1}', "[1]", "null", "true", "NaN"]
    path = write(tmp_path / "rows.jsonl", "\n".join(f'{{"text":"a","meta":{meta}}}' for meta in metas))
    assert [row["text"] for row in read(path)] == ["a"] * len(metas)


def test_rows_that_look_like_traces_of_agents_are_rows(tmp_path: Path) -> None:
    """F30 of the cases from the field."""
    turns = [{"role": "user", "content": "fox"}, {"role": "assistant", "content": "hello"}]
    row = {"id": "1", "source": "gen", "model": "m", "system_prompt": "s", "messages": turns}
    for name, extra in {
        "a.jsonl": {},
        "b.jsonl": {"type": "message", "message": "x", "cwd": "/", "version": "1"},
    }.items():
        assert read(write(tmp_path / name, json.dumps(row | extra))) == [row | extra]


def test_columns_are_the_keys_of_the_first_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", '{"text": "a"}\n{"system": "s", "text": "b"}\n')
    assert source(path).column_names == ["text", "system"]
    assert read(path, columns={"prompt": "system"}) == [{}, {"prompt": "s"}]


@pytest.mark.parametrize(
    "third, said",
    [
        ('{"text": "b"', "row 3 is not valid JSON: Expecting ',' delimiter at character 13"),
        ('{"text": "b"}}', "row 3 is not valid JSON: Extra data at character 14"),
        ('{"text": 01}', "row 3 is not valid JSON"),
        ('{"text": +1}', "row 3 is not valid JSON"),
        ('{"text": .5}', "row 3 is not valid JSON"),
        ('{"text": tru}', "row 3 is not valid JSON"),
        ('{"text": "a\tb"}', "row 3 is not valid JSON: Invalid control character"),
        ("{'text': 'b'}", "row 3 is not valid JSON"),
        ('{"text": "b",}', "row 3 is not valid JSON"),
        ("[1, 2]", "row 3 should be an object with columns, found list [1, 2]"),
        ('"b"', "row 3 should be an object with columns, found str 'b'"),
        ('{"text": "a", "text": "b"}', "row 3 names `text` twice in one object"),
        ('{"text": "a", "x": {"k": 1, "k": 2}}', "row 3 names `k` twice in one object"),
        ('{"text": "\\ud83d"}', "row 3 holds half a character, \\ud83d without the other half"),
        ('{"text": "a", "\\ude00": 1}', "row 3 holds half a character, \\ude00 without the other half"),
        ('{"text": ' + "[" * 100_000 + "]" * 100_000 + "}", "row 3 is nested too deeply"),
    ],
)
def test_a_row_that_would_lose_something_is_refused_by_its_number(third: str, said: str, tmp_path: Path) -> None:
    lines = ['{"text": "a"}', '{"text": "c"}', third, '{"text": "d"}']
    path = write(tmp_path / "rows.jsonl", "\n".join(lines))
    assert f"{path}: {said}" in refusal(path)
    array = write(tmp_path / "rows.json", "[" + ",\n".join(lines) + "]")
    assert "row 3" in refusal(array)


@pytest.mark.parametrize("name, content", [
    ("html.jsonl", b"<!DOCTYPE html>\n<html>\n"),
    ("latin.jsonl", '{"text":"é"}'.encode("latin-1")),
    ("n.json", b"[1, 2]"),
])  # fmt: skip
def test_a_file_of_bad_rows_alone_is_refused_for_the_first(name: str, content: bytes, tmp_path: Path) -> None:
    message = refusal(write(tmp_path / name, content))
    assert re.search(r"row 1 (is not valid JSON|\(line 1\) should|should)|line 1 is not UTF-8", message), message


def test_bad_rows_are_counted_and_named_by_line_where_lines_are_blank(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", b'{"text": "a"}\n\n{"text"}\n{"text": "b"}\n{"text": "\xe9"}\n{}}\n')
    assert f"{path}: row 2 (line 3) is not valid JSON" in refusal(path)
    assert "(2 more rows cannot be read)" in refusal(path)


def test_long_arrays_and_objects_over_many_lines_are_read_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": 'é😀\\"[{' * (n % 40), "n": str(n), "deep": [{"a": [n] * (n % 7)}]} for n in range(120)]
    spelled = [{**row, "n": int(row["n"])} for row in rows]
    for size in (1, 2, 3, 7, 64, 1000):
        monkeypatch.setattr(json_window, "_CHUNK_BYTES", size)
        for text in (
            json.dumps(spelled, ensure_ascii=False),
            json.dumps(spelled, indent=2),
            "\n".join(json.dumps(row, indent=1) for row in spelled),
        ):
            assert read(write(tmp_path / "rows.json", text)) == rows


@pytest.mark.parametrize(
    "text, said",
    [
        ('[{"text": "a"}, {"text": "b"', "row 2 (line 1) is not valid JSON"),
        ('[{"text": "a"}, {"text": "b"}', "the array is cut off after row 2"),
        ('[{"text": "a"} {"text": "b"}]', "a `,` or `]` is missing after row 1"),
        ('[{"text": "a"}]\n[]', "more follows after the array's `]` (line 2)"),
        (
            '[{"text": "a"},\n{"text": "b}]',
            "row 2 is not valid JSON: Unterminated string starting at character 10 of line 2",
        ),
        ('[{"text": "a"}, 3, {"text": "b"}]', "row 2 (line 1) should be an object with columns, found int 3"),
        ("[]", "has no rows"),
        ('{\n"data": [\n{"text": "a"}]}', "is one object with its rows in `data`"),
        ('{"version": 1, "data": [{"text": "a"}]}', "is one object with its rows in `data`"),
    ],
)
def test_a_damaged_array_is_refused_where_it_breaks_off(text: str, said: str, tmp_path: Path) -> None:
    assert said in refusal(write(tmp_path / "rows.json", text))


def test_bad_bytes_of_an_array_are_refused_by_line(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.json", b'[\n{"text": "a"},\n{"text": "\xe9"}]')
    assert f"{path}: line 3 is not UTF-8 text" in refusal(path)
    assert "is UTF-16 text" in refusal(write(tmp_path / "wide.jsonl", '{"text": "a"}'.encode("utf-16")))


def test_an_error_late_in_a_long_array_names_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f'{{"text":\n"{number}"}}' for number in range(50)]
    for size in (5, 50, 1 << 20):
        monkeypatch.setattr(json_window, "_CHUNK_BYTES", size)
        path = write(tmp_path / "rows.json", "[\n" + ",\n".join(rows) + ',\n{"text":\noops}]')
        assert "row 51 (line 102) is not valid JSON: Expecting value at character 1 of line 103" in refusal(path)


def test_one_row_of_turns_is_a_row(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "a", "text": "b"}]}
    assert read(write(tmp_path / "rows.json", json.dumps(row, indent=2))) == [row]
