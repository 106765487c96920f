"""What a job will learn, row by row, without loading any weights."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from jobs.errors import BaseModelError, DataError, Problem
from jobs.spec import DatasetSpec, JobSpec
from workers.base_model import load_tokenizer, read_blueprint
from workers.examples import Example, read_block, require_few


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Consecutive tokens of a row that are all learned, or all not."""

    text: str
    """Decoded, special tokens kept."""
    learned: bool


@dataclass(frozen=True, kw_only=True)
class PreviewRow:
    """One row as the model will see it."""

    index: int
    """Position in its data set, from 0."""
    dataset: str
    """As the spec names it."""
    purpose: str
    """`training` or `evaluation`."""
    text: str
    """As rendered, before it was cut to `max_length`."""
    ids: tuple[int, ...]
    labelled: tuple[bool, ...]
    """For each id, whether the model learns to predict it."""
    truncated: bool
    stretches: tuple[Stretch, ...]
    """The ids again, decoded."""
    order: int
    """Position among all rows read."""

    @property
    def learned(self) -> tuple[str, ...]:
        """The learned stretches in order."""
        return tuple(stretch.text for stretch in self.stretches if stretch.learned)


@dataclass(frozen=True, kw_only=True)
class DroppedRow:
    """One row that will not be trained on."""

    index: int
    dataset: str
    purpose: str
    reason: str
    order: int
    """Position among all rows read."""


@dataclass(frozen=True, kw_only=True)
class JobPreview:
    """The first rows of every data set of a job."""

    name: str
    rows: tuple[PreviewRow, ...]
    dropped: tuple[DroppedRow, ...]
    columns_unused: tuple[str, ...]
    notes: tuple[str, ...]
    """What else should be known before training."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "rows": [
                {
                    "index": row.index,
                    "dataset": row.dataset,
                    "purpose": row.purpose,
                    "text": row.text,
                    "learned": list(row.learned),
                    "ids": list(row.ids),
                    "labelled": list(row.labelled),
                    "truncated": row.truncated,
                }
                for row in self.rows
            ],
            "dropped": [
                {"index": row.index, "dataset": row.dataset, "purpose": row.purpose, "reason": row.reason}
                for row in self.dropped
            ],
            "columns_unused": list(self.columns_unused),
            "notes": list(self.notes),
        }


def preview_job(spec: JobSpec, most_rows: int | None = None) -> tuple[JobPreview | None, list[Problem]]:
    """Read the first rows of every data set of a job as training would.

    Args:
        spec: The job.
        most_rows: Rows to read of each data set, from the first; all where `None`.

    Returns:
        What was read, `None` where base, tokenizer or data set cannot be used at all; and all problems, with
        `Problem.field` set.
    """
    try:
        tokenizer = load_tokenizer(spec.model, read_blueprint(spec.model).key)
    except BaseModelError as error:
        return None, [Problem(message=str(error), field=error.field, value=error.value)]
    rows: list[PreviewRow] = []
    dropped: list[DroppedRow] = []
    unused: dict[str, None] = {}
    problems: list[Problem] = []
    bad: list[Example] = []
    order = 0
    for purpose, name, blocks in _purposes(spec):
        for number, block in enumerate(blocks):
            reader = read_block(block, field=f"{name}[{number}]", training=spec.training, tokenizer=tokenizer)
            try:
                for example in itertools.islice(reader, most_rows):
                    if example.dropped is None:
                        rows.append(_row(example, purpose, order, tokenizer))
                    else:
                        dropped.append(_dropped(example, purpose, order))
                        bad += [example] if example.is_bad else []
                    order += 1
                unused |= dict.fromkeys(reader.columns_unused)
            except DataError as error:
                problems.append(Problem(message=str(error), field=error.field))
    try:
        require_few(bad, order, spec.training)
    except DataError as error:
        problems.append(Problem(message=str(error), field=error.field))
    if problems and not order:
        return None, problems
    found = JobPreview(name=spec.name, rows=tuple(rows), dropped=tuple(dropped), columns_unused=tuple(unused), notes=())
    return found, problems


def _purposes(spec: JobSpec) -> Iterator[tuple[str, str, tuple[DatasetSpec, ...]]]:
    yield "training", "datasets", tuple(spec.datasets)
    yield "evaluation", "eval_datasets", tuple(spec.eval_datasets or ())


def _row(example: Example, purpose: str, order: int, tokenizer: PreTrainedTokenizerBase) -> PreviewRow:
    return PreviewRow(
        index=example.index,
        dataset=example.dataset,
        purpose=purpose,
        text=example.text,
        ids=tuple(example.ids.tolist()),
        labelled=tuple(example.labelled.tolist()),
        truncated=example.truncated,
        stretches=tuple(_stretches(example, tokenizer)),
        order=order,
    )


def _dropped(example: Example, purpose: str, order: int) -> DroppedRow:
    assert example.dropped is not None
    return DroppedRow(
        index=example.index, dataset=example.dataset, purpose=purpose, reason=example.dropped, order=order
    )


def _stretches(example: Example, tokenizer: PreTrainedTokenizerBase) -> Iterator[Stretch]:
    borders = np.flatnonzero(np.diff(example.labelled)) + 1
    for ids, labelled in zip(np.split(example.ids, borders), np.split(example.labelled, borders), strict=True):
        text = tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        yield Stretch(text=str(text), learned=bool(labelled[0]))
