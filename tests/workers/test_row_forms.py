"""Rows of every shape from people's files: columns beside the turns, borders, and rows that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import DataError
from tests.field_cases import CHATML, field_job, field_tokenizer, write_rows
from tests.workers.test_conversations import FOUR, data_of, learned, text
from workers.dataset import load_job_data


class TestForms:
    def test_system_and_history_of_alpaca_rows(self, tmp_path: Path) -> None:
        row = {"instruction": "fox", "input": "", "output": "hello", "system": "LATIN", "history": [["q1", "r1"]]}
        turns = [("system", "LATIN"), ("user", "q1"), ("assistant", "r1"), ("user", "fox"), ("assistant", "hello")]
        expected = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
        assert text(tmp_path, row) == expected
        assert learned(tmp_path, row) == "hello<|im_end|>\n"
        assert text(tmp_path, row, None) == "LATIN\n\nq1\n\nr1\n\nfox\n\nhello<|im_end|>"

    @pytest.mark.parametrize("column", ["system", "system_prompt"])
    def test_a_system_column_is_the_first_turn(self, tmp_path: Path, column: str) -> None:
        row = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "one"}], column: "LATIN"}
        expected = {"messages": [{"role": "system", "content": "LATIN"}, *FOUR[:2]]}
        assert text(tmp_path, row) == text(tmp_path, expected)
        data, _ = data_of(tmp_path, row)
        assert data.train.counts.columns_unused == ()

    def test_two_system_prompts_are_refused(self, tmp_path: Path) -> None:
        row = {"messages": [{"role": "system", "content": "one"}, *FOUR], "system": "other"}
        with pytest.raises(DataError, match="a system prompt in a column of its own and another one"):
            text(tmp_path, row)

    def test_conversations_of_role_and_content_and_json_text(self, tmp_path: Path) -> None:
        expected = text(tmp_path, {"messages": FOUR})
        assert text(tmp_path, {"conversations": FOUR}) == expected
        assert text(tmp_path, {"messages": json.dumps(FOUR)}) == expected

    def test_a_rows_own_variables_reach_the_template(self, tmp_path: Path) -> None:
        template = "{{ mood }}" + CHATML
        assert text(tmp_path, {"messages": FOUR, "chat_template_kwargs": {"mood": "glad"}}, template).startswith("glad")

    def test_columns_that_change_nothing_are_told(self, tmp_path: Path) -> None:
        data, _ = data_of(tmp_path, {"id": 1, "messages": FOUR, "meta": {"a": 1}})
        assert data.train.counts.columns_unused == ("id", "meta")
        data, _ = data_of(tmp_path, {"prompt": "a ", "completion": "b", "system": "LATIN"})
        assert data.train.counts.columns_unused == ("system",)

    def test_rows_of_other_shapes_in_one_file(self, tmp_path: Path) -> None:
        tokenizer = field_tokenizer()
        rows = write_rows(
            tmp_path / "rows.jsonl", [{"messages": FOUR}, {"prompt": "a ", "completion": "b"}, {"text": "a fox"}]
        )
        data = load_job_data(field_job(rows), tokenizer)
        ends = [tokenizer.decode(row.ids[row.labelled]) for row in data.train]
        assert ends[0].endswith("\ntwo<|im_end|>\n")
        assert ends[1:] == ["b<|im_end|>", " fox<|im_end|>"]


class TestEdges:
    def test_an_empty_completion_teaches_the_end(self, tmp_path: Path) -> None:
        assert learned(tmp_path, {"prompt": "fox ", "completion": ""}) == "<|im_end|>"
        assert learned(tmp_path, {"prompt": FOUR[:1], "completion": ""}) == "<|im_end|>\n"

    def test_text_that_begins_with_bos_gets_no_second_one(self, tmp_path: Path) -> None:
        tokenizer = field_tokenizer(bos=True)
        rendered = "<|bos|><|im_start|>user\nfox<|im_end|><|im_start|>assistant\nhello<|im_end|>"
        rows = write_rows(tmp_path / "rows.jsonl", [{"text": "fox"}, {"text": rendered}, {"text": "fox"}])
        ids = [row.ids.tolist() for row in load_job_data(field_job(rows), tokenizer).train]
        assert ids[1][:2] == [3, 1]
        assert [one.count(3) for one in ids] == [1, 1, 1]

    def test_a_word_over_the_border_is_learned_once(self, tmp_path: Path) -> None:
        row = {"prompt": "the quick bro", "completion": "wn fox"}
        assert text(tmp_path, row) == "the quick brown fox<|im_end|>"
        assert learned(tmp_path, row) == " brown fox<|im_end|>"

    def test_a_prompt_that_leaves_no_room_is_dropped_and_counted(self, tmp_path: Path) -> None:
        rows = [{"prompt": "fox " * 30, "completion": "hello"}, {"prompt": "fox ", "completion": "hello"}]
        job = field_job(write_rows(tmp_path / "rows.jsonl", rows), training={"max_length": 10})
        counts = load_job_data(job, field_tokenizer()).train.counts
        assert (counts.truncated, counts.dropped) == (1, 1)
        job = field_job(write_rows(tmp_path / "rows.jsonl", rows[:1]), training={"max_length": 10})
        with pytest.raises(DataError, match=r"1 rows are longer than training\.max_length = 10"):
            load_job_data(job, field_tokenizer())

    def test_a_pad_token_that_is_the_end_token_does_not_mask_it(self, tmp_path: Path) -> None:
        tokenizer = field_tokenizer()
        tokenizer.pad_token = tokenizer.eos_token
        data, _ = data_of(tmp_path, {"prompt": "a ", "completion": "b"}, tokenizer=tokenizer)
        assert data.train[0].labelled[-1]
        assert data.train[0].ids[-1] == tokenizer.eos_token_id


class TestBadRows:
    BAD: tuple[dict[str, Any], ...] = ({"messages": []}, {"messages": [{"role": "user"}]})

    def test_they_are_counted_and_the_first_are_named(self, tmp_path: Path) -> None:
        rows = write_rows(tmp_path / "rows.jsonl", [self.BAD[0], {"messages": FOUR}, *self.BAD * 2])
        with pytest.raises(DataError, match=r"5 of 6 rows cannot be used: .*row 1: .*; .*row 3: .*; .*and 2 more"):
            load_job_data(field_job(rows), field_tokenizer())

    def test_so_many_as_are_allowed_are_passed_over_and_told(self, tmp_path: Path) -> None:
        rows = write_rows(tmp_path / "rows.jsonl", [self.BAD[0], {"messages": FOUR}])
        data = load_job_data(field_job(rows, training={"max_skipped_rows": 1}), field_tokenizer())
        assert (len(data.train), data.train.counts.skipped) == (1, 1)
        assert "1 passed over" in data.notes[0]
        assert "row 1: column `messages` should be a list of turns" in data.notes[1]

    def test_lines_that_are_no_json_count_too(self, tmp_path: Path) -> None:
        rows = write_rows(tmp_path / "rows.jsonl", [{"text": "fox"}])
        rows.write_text(rows.read_text() + "{broken\n" + rows.read_text())
        data = load_job_data(field_job(rows, training={"max_skipped_rows": 1}), field_tokenizer())
        assert (len(data.train), data.train.counts.skipped) == (2, 1)
