"""Evaluation rows share nothing with training rows, and the same examples always give the same split."""

import random

import pytest

from tests.real_inputs.sources import Example
from tests.real_inputs.splits import distinct, near_duplicate_key, split, split_balanced

LABELS = ("a", "a", "a", "b")


def words(number: int) -> str:
    """A text of letters only, since texts that differ in numbers alone count as duplicates."""
    return " ".join("abcdefghij"[int(digit)] for digit in str(number))


EXAMPLES = [Example(words(number), LABELS[number % 4]) for number in range(200)]
TRIPLED = [Example(example.text + mark, example.label) for mark in (" ?", "?", "") for example in EXAMPLES]


def test_near_duplicates_have_one_key():
    assert near_duplicate_key("Call 0906 NOW!") == near_duplicate_key("call  12 now")
    assert near_duplicate_key("call now") != near_duplicate_key("call then")


def test_distinct_drops_groups_whose_labels_disagree():
    examples = [Example("x", "a"), Example("y", "a"), Example("X!", "b"), Example("Y.", "a")]
    assert distinct(examples) == [Example("y", "a")]


@pytest.mark.parametrize("divide", [split, split_balanced])
def test_duplicates_go_before_the_split(divide):
    train, evaluation = divide(TRIPLED, num_train=1000, num_eval=40, seed="s")
    train_keys = {near_duplicate_key(row.text) for row in train}
    eval_keys = {near_duplicate_key(row.text) for row in evaluation}
    assert len(evaluation) == len(eval_keys) == 40
    assert len(train) == len(train_keys)
    assert not train_keys & eval_keys


def test_split_uses_every_row_there_is():
    train, evaluation = split(TRIPLED, num_train=1000, num_eval=40, seed="s")
    assert {row.text for row in distinct(TRIPLED)} == {row.text for row in train + evaluation}


def test_a_balanced_split_has_equally_many_rows_of_each_label():
    train, evaluation = split_balanced(TRIPLED, num_train=1000, num_eval=40, seed="s")
    assert sorted(row.label for row in evaluation) == ["a"] * 20 + ["b"] * 20
    assert sorted(row.label for row in train) == ["a"] * 30 + ["b"] * 30
    # Not in blocks of a label: rows are taken in order where nothing shuffles them.
    assert len({row.label for row in train[:20]}) == 2


def test_a_balanced_split_refuses_a_count_that_cannot_be_balanced():
    with pytest.raises(ValueError, match="num_eval 41 is no multiple of the 2 labels"):
        split_balanced(TRIPLED, num_train=10, num_eval=41, seed="s")


@pytest.mark.parametrize("divide", [split, split_balanced])
def test_the_order_of_the_source_does_not_matter(divide):
    reordered = random.Random(0).sample(EXAMPLES, len(EXAMPLES))
    settings = {"num_train": 50, "num_eval": 40, "seed": "s"}
    assert divide(reordered, **settings) == divide(EXAMPLES, **settings)
    assert divide(EXAMPLES, **settings) != divide(EXAMPLES, **{**settings, "seed": "other"})
