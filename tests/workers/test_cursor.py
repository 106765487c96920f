"""Which rows a job sees, in which order, and how many steps that makes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset
from transformers import Trainer, TrainingArguments

from jobs.spec import TrainingSpec
from tests.models import make_data, make_rows, make_spec, make_worker, tiny_gpt2, tiny_llama, train
from workers.cursor import Cursor, steps_per_epoch, total_steps
from workers.dataset import chunks


def training_of(**training: object) -> TrainingSpec:
    return make_spec("job", training=training).training


sizes = st.integers(1, 7)


@given(st.integers(1, 60), sizes, st.integers(1, 5), st.integers(0, 99))
def test_each_epoch_hands_out_every_row_exactly_once_in_whole_batches_but_the_last(
    num_rows: int, size: int, accumulation: int, seed: int
) -> None:
    training = training_of(per_device_train_batch_size=size, gradient_accumulation_steps=accumulation, seed=seed)
    cursor = Cursor(num_rows=num_rows, training=training)
    for epoch in range(3):
        batches = []
        while cursor.epoch == epoch:
            batches.append(cursor.next_batch())
        assert len(batches) == steps_per_epoch(training, num_rows)
        micro_batches = [rows for batch in batches for rows in batch]
        assert sorted(row for rows in micro_batches for row in rows) == list(range(num_rows))
        assert all(len(rows) == size for rows in micro_batches[:-1])
        assert all(len(batch) == accumulation for batch in batches[:-1])
        assert 1 <= len(batches[-1]) <= accumulation
    assert cursor.position == 0


def test_epochs_are_permutations_of_their_own_drawn_by_the_seed_alone() -> None:
    def orders(seed: int) -> list[list[int]]:
        cursor = Cursor(num_rows=50, training=training_of(seed=seed))
        return [cursor.order(epoch).tolist() for epoch in range(3)]

    first = orders(1)
    assert orders(1) == first
    assert len({tuple(order) for order in [*first, *orders(2)]}) == 6
    assert list(range(50)) not in first


def test_a_cursor_set_to_a_place_goes_on_as_one_that_walked_there() -> None:
    training = training_of(per_device_train_batch_size=3, gradient_accumulation_steps=2)
    walked = Cursor(num_rows=11, training=training)
    for _ in range(5):
        walked.next_batch()
    jumped = Cursor(num_rows=11, training=training, epoch=walked.epoch, position=walked.position)
    assert [jumped.next_batch() for _ in range(6)] == [walked.next_batch() for _ in range(6)]


@pytest.mark.parametrize(
    "num_rows, size, accumulation, epochs, max_steps",
    [
        (10, 3, 2, 3.0, -1),
        (10, 3, 2, 0.5, -1),
        (10, 3, 2, 1.3, -1),
        (7, 8, 1, 3.0, -1),
        (7, 8, 4, 3.0, -1),
        (64, 8, 3, 2.0, -1),
        (65, 8, 3, 2.0, -1),
        (1, 1, 1, 0.1, -1),
        (100, 7, 5, 0.01, -1),
        (10, 3, 2, 3.0, 5),
        (10, 3, 2, 3.0, 500),
    ],
)
def test_steps_are_counted_as_transformers_trainer_counts_them(
    num_rows: int, size: int, accumulation: int, epochs: float, max_steps: int
) -> None:
    training = training_of(
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=epochs,
        max_steps=max_steps,
    )
    arguments = TrainingArguments(
        output_dir="never-written",
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=epochs,
        max_steps=max_steps,
        use_cpu=True,
        report_to="none",
    )
    trainer = Trainer(model=tiny_gpt2(), args=arguments, train_dataset=TensorDataset(torch.zeros(num_rows, 1)))
    *_, counted = trainer.set_initial_training_values(arguments, trainer.get_train_dataloader())
    assert total_steps(training, num_rows) == counted
    by_hand = math.ceil(epochs * math.ceil(math.ceil(num_rows / size) / accumulation))
    assert total_steps(training, num_rows) == (max_steps if max_steps > 0 else by_hand)


def test_a_short_last_accumulation_steps_with_the_mean_over_its_own_labels(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Five rows at 2 × 2: a full step, then one of a single row, in every epoch."""
    spec = make_spec(
        "job",
        lora={"r": 2},
        training={"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 2},
    )
    data = make_data(1, [5, 3, 8, 2, 6])
    trained = train(make_worker(tiny_llama(), {"job": data}, tmp_path_factory.mktemp("job")), [spec])
    steps = trained.steps("job")
    assert [step.step for step in steps] == [1, 2, 3, 4]
    assert [step.epoch for step in steps] == [0.5, 1.0, 1.5, 2.0]
    for epoch in (steps[:2], steps[2:]):
        assert sum(step.tokens for step in epoch) == data.train.num_tokens
        assert sum(step.label_tokens for step in epoch) == data.train.num_labels
    assert steps[1].tokens in {len(row.ids) for row in data.train}


def test_evaluation_takes_all_rows_in_order() -> None:
    rows = make_rows(1, [3, 4, 5, 6, 7])
    batches = chunks(rows, 2)
    assert [len(batch.rows) for batch in batches] == [2, 2, 1]
    assert [row.index for batch in batches for row in batch.rows] == [0, 1, 2, 3, 4]
    assert sum(batch.num_tokens for batch in batches) == rows.num_tokens
    assert sum(batch.num_labels for batch in batches) == rows.num_labels
