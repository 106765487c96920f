"""Files that cannot be used are refused with file, row and column named; those that can are read whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from jobs.errors import DataError
from jobs.spec import DatasetSpec, JobSpec
from tests.workers.tokenizers import word_tokenizer
from workers.dataset import load_job_data
from workers.sources import open_rows

FIELD = "datasets[3]"


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path: Path | str, **block: Any) -> list[dict[str, Any]]:
    return list(open_rows(DatasetSpec.model_validate({"path": str(path), **block}), field=FIELD))


def error_of(path: Path | str, **block: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        read(path, **block)
    return caught.value


def rendering_error(tmp_path: Path, *lines: str, **training: Any) -> str:
    """What is said of rows that can be read but not used."""
    path = write(tmp_path / "rows.jsonl", "\n".join(lines))
    spec = JobSpec.model_validate(
        {
            "name": "job",
            "model": {"model_name_or_path": "tiny"},
            "datasets": [{"path": str(path)}],
            "training": training,
        }
    )
    with pytest.raises(DataError) as caught:
        load_job_data(spec, word_tokenizer())
    assert caught.value.field == "datasets[0]"
    assert str(path) in str(caught.value)
    return str(caught.value)


ROWS = [{"prompt": "a", "completion": "yes"}, {"prompt": "b", "completion": "no"}]


def test_every_format_is_read_by_its_ending(tmp_path: Path) -> None:
    table = datasets.Dataset.from_list(ROWS)
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    table.to_parquet(str(tmp_path / "rows.parquet"))
    for name, content in {
        "rows.jsonl": lines,
        "lines.json": lines,
        "list.json": json.dumps(ROWS),
        "rows.csv": "prompt,completion\na,yes\nb,no\n",
        "rows.tsv": "prompt\tcompletion\na\tyes\nb\tno\n",
    }.items():
        assert read(write(tmp_path / name, content)) == ROWS
    assert read(tmp_path / "rows.parquet") == ROWS
    assert read(write(tmp_path / "rows.txt", "first line\nsecond\n")) == [{"text": "first line"}, {"text": "second"}]
    assert read("csv", data_files=str(tmp_path / "rows.csv")) == ROWS
    assert read("csv", data_files=[str(tmp_path / "rows.csv"), str(tmp_path / "rows.csv")]) == ROWS * 2


def test_rows_are_limited_by_max_samples_and_by_slices(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", "".join(json.dumps({"text": str(n)}) + "\n" for n in range(10)))
    assert [row["text"] for row in read(path, max_samples=3)] == ["0", "1", "2"]
    assert len(read(path, max_samples=99)) == 10
    assert [row["text"] for row in read(path, split="train[2:4]")] == ["2", "3"]


def test_reading_a_local_file_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def refuse(*address: Any, **_: Any) -> None:
        asked.append(address)
        raise OSError("no network")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("datasets.load.get_session", refuse)
    assert read(write(tmp_path / "rows.jsonl", '{"text": "a"}\n')) == [{"text": "a"}]
    assert not asked


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", '{"text": "old"}\n')
    assert read(path) == [{"text": "old"}]
    write(path, '{"text": "new"}\n')
    assert read(path) == [{"text": "new"}]


def test_columns_are_renamed_to_ours_and_the_others_dropped(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", '{"question": "a", "answer": "yes", "prompt": "not this"}\n')
    assert read(path, columns={"prompt": "question", "completion": "answer"}) == [{"prompt": "a", "completion": "yes"}]
    error = error_of(path, columns={"prompt": "questoin"})
    assert error.field == "datasets[3].columns.prompt"
    assert "did you mean question?" in str(error)
    assert error_of(path, columns={"prompt": "answer", "completion": "answer"}).field.startswith(FIELD)


def test_a_missing_file_is_answered_with_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", "{}")
    error = error_of(tmp_path / "tarin.jsonl")
    assert error.field == FIELD
    assert f"{tmp_path / 'tarin.jsonl'} does not exist" in str(error)
    assert f"did you mean {tmp_path / 'train.jsonl'}?" in str(error)
    assert "did you mean" not in str(error_of(tmp_path / "nowhere" / "train.jsonl"))
    assert "does not exist" in str(error_of("json", data_files=str(tmp_path / "gone.json")))


def test_a_folder_an_empty_file_and_an_unknown_ending_are_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    assert "is a folder" in str(error_of(tmp_path / "folder.jsonl"))
    assert "is empty" in str(error_of(write(tmp_path / "empty.jsonl", "")))
    assert "ending .data" in str(error_of(write(tmp_path / "rows.data", "x")))
    assert "no rows" in str(error_of(write(tmp_path / "head.csv", "prompt,completion\n")))


@pytest.mark.parametrize(
    "third, said",
    [
        ('{"text": "b"', "row 3 is not valid JSON"),
        ('{"text": "b"}}', "row 3 is not valid JSON"),
        ("not json", "row 3 is not valid JSON"),
        ("[1, 2]", "row 3 should be an object with columns, found list"),
    ],
)
def test_a_bad_json_row_is_named_by_its_number(third: str, said: str, tmp_path: Path) -> None:
    lines = ['{"text": "a"}', '{"text": "c"}', third, '{"text": "d"}']
    error = error_of(write(tmp_path / "rows.jsonl", "\n".join(lines)))
    assert error.field == FIELD
    assert str(tmp_path / "rows.jsonl") in str(error)
    assert said in str(error)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.txt"])
def test_text_that_is_not_utf8_is_named_by_its_line(name: str, tmp_path: Path) -> None:
    second = {"rows.jsonl": b'{"text": "caf\xe9"}', "rows.csv": b"caf\xe9", "rows.txt": b"caf\xe9"}[name]
    first = {"rows.jsonl": b'{"text": "a"}', "rows.csv": b"text", "rows.txt": b"a"}[name]
    error = error_of(write(tmp_path / name, first + b"\n" + second + b"\n"))
    assert f"{tmp_path / name}: line 2 is not UTF-8 text" in str(error)


@pytest.mark.parametrize(
    "second, said",
    [
        ('{"prompt": null, "completion": "yes"}', "row 2: column `prompt` should be text, found nothing (null)"),
        ('{"prompt": "a", "completion": null}', "row 2: column `completion` should be text, found nothing (null)"),
        ('{"prompt": "a"}', "row 2: column `completion` should be text, found nothing (null)"),
    ],
)
def test_a_null_value_is_named_by_row_and_column(second: str, said: str, tmp_path: Path) -> None:
    assert said in rendering_error(tmp_path, '{"prompt": "a", "completion": "yes"}', second)


def test_a_null_far_into_the_file_is_named_by_its_own_row(tmp_path: Path) -> None:
    """Rows are tokenised by the hundred; the number is that in the file."""
    lines = ['{"text": "a b"}'] * 700
    lines[612] = '{"text": null}'
    assert "row 613: column `text`" in rendering_error(tmp_path, *lines)


@pytest.mark.parametrize(
    "row, said",
    [
        ('{"text": ["a"]}', "row 1: column `text` should be text, found list"),
        ('{"text": {"a": "b"}}', "row 1: column `text` should be text, found dict"),
        ('{"messages": "hello"}', "row 1: column `messages` should be a list of turns, found str"),
        ('{"messages": []}', "row 1: column `messages` should be a list of turns, found list"),
        ('{"messages": [{"role": "user"}]}', "row 1: column `messages`: turn 1 has no text in `content`"),
        ('{"messages": [{"content": "a"}]}', "row 1: column `messages`: turn 1 should be {role, content}"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "this base has no chat template"),
        ('{"conversations": [{"from": "alien", "value": "a"}]}', "row 1: column `conversations`: turn 1 should be"),
        ('{"question": "a", "answer": "b"}', "the columns question, answer are of no known shape"),
        ('{"prompt": "a"}', "the columns prompt are of no known shape"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named_with_what_was_found(row: str, said: str, tmp_path: Path) -> None:
    assert said in rendering_error(tmp_path, row)


@pytest.mark.parametrize("other", ['["b"]', '{"b": 1}'])
def test_a_value_of_another_kind_than_the_rows_before_is_named_by_its_row(other: str, tmp_path: Path) -> None:
    lines = ['{"text": "a"}', '{"text": "b"}', f'{{"text": {other}}}']
    assert "row 3: column `text` should be text, found" in rendering_error(tmp_path, *lines)


def test_numbers_are_taken_as_their_text(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", "prompt,completion\na,5\nb,7\n")
    spec = JobSpec.model_validate(
        {"name": "job", "model": {"model_name_or_path": "tiny"}, "datasets": [{"path": str(path)}]}
    )
    assert [row.num_labels for row in load_job_data(spec, word_tokenizer()).train] == [1, 1]


def test_a_chat_template_that_raises_ends_in_a_message_and_not_in_its_traceback(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", '{"messages": [{"role": "user", "content": "a"}]}\n')
    spec = JobSpec.model_validate(
        {"name": "job", "model": {"model_name_or_path": "tiny"}, "datasets": [{"path": str(path)}]}
    )
    with pytest.raises(DataError, match="row 1: the chat template refuses the conversation: roles must alternate"):
        load_job_data(spec, word_tokenizer("{{ raise_exception('roles must alternate') }}"))
