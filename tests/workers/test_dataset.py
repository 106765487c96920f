"""From files to tokens and labels: what is learned, what is cut, what is held out, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from jobs.errors import DataError
from jobs.spec import JobSpec
from tests.real_inputs import require, smollm2_dir
from tests.workers.tokenizers import WORDS, word_tokenizer
from workers.dataset import JobData, Row, TokenisedRows, load_job_data

END = 0


@pytest.fixture(scope="module")
def smollm2() -> PreTrainedTokenizerBase:
    require()
    return AutoTokenizer.from_pretrained(smollm2_dir())


def write(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def spec_of(*paths: str, training: dict[str, Any] | None = None, **fields: Any) -> JobSpec:
    return JobSpec.model_validate(
        {
            "name": "job",
            "model": {"model_name_or_path": "tiny"},
            "datasets": [{"path": path} for path in paths],
            "training": training or {},
            **fields,
        }
    )


def loaded(
    tmp_path: Path,
    rows: Sequence[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase | None = None,
    **fields: Any,
) -> JobData:
    spec = spec_of(write(tmp_path / "rows.jsonl", rows), **fields)
    return load_job_data(spec, tokenizer or word_tokenizer())


def words(row: Row) -> str:
    return " ".join(WORDS[token] for token in row.ids)


def learned(row: Row) -> str:
    return " ".join(WORDS[token] for token in row.ids[row.labelled])


def test_a_completion_and_its_end_token_are_learned_and_the_prompt_is_not(tmp_path: Path) -> None:
    (row,) = loaded(tmp_path, [{"prompt": "a b c ", "completion": "yes no"}]).train
    assert words(row) == "a b c yes no <end>"
    assert learned(row) == "yes no <end>"
    (whole,) = loaded(
        tmp_path, [{"prompt": "a b c ", "completion": "yes no"}], training={"completion_only_loss": False}
    ).train
    assert learned(whole) == "b c yes no <end>"


def test_of_plain_text_everything_but_the_first_token_is_learned(tmp_path: Path) -> None:
    (row,) = loaded(tmp_path, [{"text": "a b c"}]).train
    assert (words(row), learned(row)) == ("a b c <end>", "b c <end>")


@pytest.mark.parametrize(
    ("row", "flag", "missing"),
    [
        ({"text": "a b"}, "assistant_only_loss", "no turns"),
        ({"text": "a b"}, "completion_only_loss", "no completion"),
        ({"prompt": "a ", "completion": "yes"}, "assistant_only_loss", "no turns"),
        ({"instruction": "a", "output": "yes"}, "assistant_only_loss", "no turns"),
    ],
)
def test_a_part_that_rows_do_not_have_cannot_be_asked_for(
    tmp_path: Path, row: dict[str, str], flag: str, missing: str
) -> None:
    """All of the row would be learned, of which the user has said that a part is not to be."""
    with pytest.raises(DataError, match=rf"training\.{flag} is on, and rows that .* have {missing}"):
        loaded(tmp_path, [row], training={flag: True})


def test_text_that_ends_with_the_end_token_gets_no_second_one(tmp_path: Path) -> None:
    (row,) = loaded(tmp_path, [{"prompt": "a ", "completion": "yes <end>"}]).train
    assert (words(row), learned(row)) == ("a yes <end>", "yes <end>")


def test_alpaca_rows_without_a_chat_template_are_prompt_and_completion(tmp_path: Path) -> None:
    rows = [{"instruction": "a", "input": "b", "output": "yes"}, {"instruction": "a", "input": "", "output": "no"}]
    with_input, without = loaded(tmp_path, rows).train
    assert (words(with_input), learned(with_input)) == ("a b yes <end>", "yes <end>")
    assert (words(without), learned(without)) == ("a no <end>", "no <end>")


def test_long_rows_are_cut_at_their_end_and_rows_without_labels_dropped_and_both_are_told(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a ", "completion": "yes"},
        {"prompt": "a b c a b ", "completion": "yes"},
        {"prompt": "a ", "completion": "yes no yes no yes"},
        {"prompt": "a b ", "completion": ""},
    ]
    data = loaded(tmp_path, rows, training={"max_length": 4})
    assert [words(row) for row in data.train] == ["a yes <end>", "a yes no yes", "a b <end>"]
    assert [learned(row) for row in data.train] == ["yes <end>", "yes no yes", "<end>"]
    assert [row.index for row in data.train] == [0, 2, 3]
    counts = data.train.counts
    assert (counts.rows, counts.truncated, counts.dropped) == (4, 2, 1)
    assert "2 truncated, 1 dropped" in data.notes[0]
    assert data.train.label_counts.tolist() == [2, 3, 1]
    assert data.train.lengths.tolist() == [3, 4, 3]


def test_rows_that_leave_every_label_masked_are_refused_with_the_reason(tmp_path: Path) -> None:
    rows = [{"prompt": "a b c a b ", "completion": "yes"}] * 3
    with pytest.raises(DataError, match=r"all labels of all 3 rows are masked.*3 rows are longer.*max_length = 4"):
        loaded(tmp_path, rows, training={"max_length": 4})
    with pytest.raises(DataError, match="all labels of all 1 rows are masked"):
        loaded(tmp_path, [{"text": ""}])


def test_several_datasets_are_joined_in_order_and_each_may_have_a_shape_of_its_own(tmp_path: Path) -> None:
    first = write(tmp_path / "first.jsonl", [{"text": "a b"}])
    second = write(tmp_path / "second.jsonl", [{"prompt": "a ", "completion": "no"}])
    data = load_job_data(spec_of(first, second), word_tokenizer())
    assert [words(row) for row in data.train] == ["a b <end>", "a no <end>"]
    assert [row.index for row in data.train] == [0, 1]


@pytest.mark.parametrize("val_size, held", [(0.25, 5), (7, 7), (0.9, 18)])
def test_held_out_rows_are_as_many_as_asked_drawn_by_the_seed_and_never_trained_on(
    val_size: float, held: int, tmp_path: Path
) -> None:
    rows = [{"text": f"w{number} w{number}"} for number in range(20)]

    def split(seed: int) -> tuple[list[int], list[int]]:
        data = loaded(tmp_path, rows, val_size=val_size, training={"seed": seed})
        assert data.evaluation is not None
        return [row.index for row in data.train], [row.index for row in data.evaluation]

    train, evaluation = split(1)
    assert len(evaluation) == held
    assert sorted(train + evaluation) == list(range(20))
    assert split(1) == (train, evaluation)
    assert split(2) != (train, evaluation)


@pytest.mark.parametrize("val_size", [3, 0.01, 100])
def test_a_split_that_leaves_one_side_empty_is_refused_with_both_figures(val_size: float, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"of 3 rows for training") as caught:
        loaded(tmp_path, [{"text": "a b"}] * 3, val_size=val_size)
    assert caught.value.field == "val_size"


def test_evaluation_rows_of_their_own_are_read_beside_the_training_rows(tmp_path: Path) -> None:
    held_out = write(tmp_path / "held-out.jsonl", [{"text": "c b a"}])
    data = loaded(tmp_path, [{"text": "a b"}], eval_datasets=[{"path": held_out}])
    assert data.evaluation is not None
    assert [words(row) for row in data.evaluation] == ["c b a <end>"]
    assert len(data.notes) == 2


def test_the_fingerprint_tells_rows_labels_and_borders_apart_and_nothing_else(tmp_path: Path) -> None:
    def fingerprint(rows: list[dict[str, Any]], **training: Any) -> str:
        return loaded(tmp_path, rows, training=training).train.fingerprint

    rows = [{"prompt": "a b ", "completion": "yes"}, {"prompt": "c ", "completion": "no"}]
    first = fingerprint(rows)
    assert fingerprint(rows, seed=7, max_length=500) == first
    others = [
        fingerprint(rows[::-1]),
        fingerprint(rows[:1]),
        fingerprint(rows, completion_only_loss=False),
        fingerprint([{"prompt": "a b ", "completion": "no"}, rows[1]]),
        fingerprint([{"prompt": "a b ", "completion": "yes <end> c no"}]),
    ]
    assert len({first, *others}) == 6


def test_rows_come_out_as_they_went_in_however_they_are_picked(tmp_path: Path) -> None:
    rows: TokenisedRows = loaded(tmp_path, [{"text": f"w{n} " * (n + 1)} for n in range(6)]).train
    picked = rows.subset([4, 1])
    assert [words(row) for row in picked] == [words(rows[4]), words(rows[1])]
    assert [row.index for row in picked] == [4, 1]
    assert rows.num_tokens == int(rows.lengths.sum()) == sum(n + 2 for n in range(6))
    assert rows.num_labels == int(rows.label_counts.sum())


QUESTION = {"role": "user", "content": "Is the sky blue?"}
TURNS = (
    QUESTION,
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "Light scatters."},
)


@pytest.mark.real
class TestWithTheRealTokenizer:
    def decoded(self, data: JobData, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
        (row,) = data.train
        return tokenizer.decode(row.ids), tokenizer.decode(row.ids[row.labelled])

    def test_a_completion_is_learned_with_its_end(self, tmp_path: Path, smollm2: PreTrainedTokenizerBase) -> None:
        data = loaded(tmp_path, [{"prompt": "Question: 2+2?\nAnswer:", "completion": " four"}], smollm2)
        assert self.decoded(data, smollm2) == ("Question: 2+2?\nAnswer: four<|im_end|>", " four<|im_end|>")

    def test_of_a_conversation_everything_is_learned(self, tmp_path: Path, smollm2: PreTrainedTokenizerBase) -> None:
        whole, learned = self.decoded(loaded(tmp_path, [{"messages": TURNS}], smollm2), smollm2)
        assert whole == smollm2.apply_chat_template(list(TURNS), tokenize=False)
        assert whole == "<|im_start|>" + learned

    def test_with_assistant_only_loss_its_turns_and_their_ends_are_learned(
        self, tmp_path: Path, smollm2: PreTrainedTokenizerBase
    ) -> None:
        data = loaded(tmp_path, [{"messages": TURNS}], smollm2, training={"assistant_only_loss": True})
        whole, learned = self.decoded(data, smollm2)
        assert whole == smollm2.apply_chat_template(list(TURNS), tokenize=False)
        assert learned == "Yes.<|im_end|>\nLight scatters.<|im_end|>\n"

    def test_of_whole_conversations_there_is_no_completion_to_be_learned_alone(
        self, tmp_path: Path, smollm2: PreTrainedTokenizerBase
    ) -> None:
        with pytest.raises(DataError, match=r"completion_only_loss is on, and rows that are whole conversations"):
            loaded(tmp_path, [{"messages": TURNS}], smollm2, training={"completion_only_loss": True})
        both = {"completion_only_loss": True, "assistant_only_loss": True}
        data = loaded(tmp_path, [{"messages": TURNS}], smollm2, training=both)
        assert self.decoded(data, smollm2)[1] == "Yes.<|im_end|>\nLight scatters.<|im_end|>\n"

    @pytest.mark.parametrize("completion", ["Yes.", [{"role": "assistant", "content": "Yes."}]], ids=["text", "turns"])
    def test_a_conversational_prompt_is_not_learned(
        self, completion: Any, tmp_path: Path, smollm2: PreTrainedTokenizerBase
    ) -> None:
        data = loaded(tmp_path, [{"prompt": [QUESTION], "completion": completion}], smollm2)
        whole, learned = self.decoded(data, smollm2)
        assert whole == smollm2.apply_chat_template(list(TURNS[:2]), tokenize=False)
        assert learned == "Yes.<|im_end|>\n"

    def test_sharegpt_and_alpaca_rows_are_the_conversations_they_stand_for(
        self, tmp_path: Path, smollm2: PreTrainedTokenizerBase
    ) -> None:
        turns = [{"from": "human", "value": "Is the sky blue?"}, {"from": "gpt", "value": "Yes."}]
        expected = smollm2.apply_chat_template(list(TURNS[:2]), tokenize=False)
        assert self.decoded(loaded(tmp_path, [{"conversations": turns}], smollm2), smollm2)[0] == expected
        alpaca = [{"instruction": "Is the sky blue?", "input": "", "output": "Yes."}]
        assert self.decoded(loaded(tmp_path, alpaca, smollm2), smollm2) == (expected, "Yes.<|im_end|>\n")

    def test_without_a_turn_of_the_assistant_there_is_nothing_to_learn(
        self, tmp_path: Path, smollm2: PreTrainedTokenizerBase
    ) -> None:
        with pytest.raises(DataError, match="no row has a turn of the assistant"):
            loaded(tmp_path, [{"messages": [QUESTION]}], smollm2, training={"assistant_only_loss": True})

    def test_text_beyond_ascii_keeps_its_labels_aligned(self, tmp_path: Path, smollm2: PreTrainedTokenizerBase) -> None:
        data = loaded(tmp_path, [{"prompt": "Übersetze 😀: ", "completion": "größer 東京"}], smollm2)
        assert self.decoded(data, smollm2)[1].endswith("größer 東京<|im_end|>")
        assert "Übersetze" not in self.decoded(data, smollm2)[1]
