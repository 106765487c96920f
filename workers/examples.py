"""The rows of one dataset block as a model will see them, one by one: text, token ids, and what of them is learned."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from transformers import PreTrainedTokenizerBase

from jobs.errors import DataError
from jobs.spec import DatasetSpec, TrainingSpec
from workers.rows import Rendered, Shape, columns_of, recognise, render
from workers.sources import RowSource, open_rows

_TOKENISE_ROWS = 512
"""Rows handed to the tokenizer at once; it spreads a batch over threads."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One row of a dataset as the model will see it."""

    dataset: str
    """`path` of its block."""
    field: str
    """The block's place in the spec, such as `datasets[0]`."""
    index: int
    """Position of the row in its block, from 0."""
    text: str
    """As rendered, whole."""
    ids: np.ndarray
    """(t,) int32, cut to `max_length`."""
    labelled: np.ndarray
    """(t,) bool: this token is to be predicted. Never true for the first, which nothing precedes."""
    truncated: bool
    """The row was longer than `max_length`."""
    dropped: str | None
    """Why nothing is learned of the row; `None` where something is."""


class BlockReader:
    """The examples of one dataset block; each iteration reads them anew, and holds only a few at a time."""

    def __init__(
        self, block: DatasetSpec, *, field: str, training: TrainingSpec, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self._block = block
        self._field = field
        self._training = training
        self._tokenizer = tokenizer

    @cached_property
    def _source(self) -> RowSource:
        return open_rows(self._block, field=self._field)

    @cached_property
    def _shape(self) -> Shape:
        try:
            return recognise(self._source.column_names)
        except DataError as error:
            raise DataError(f"{self._block.path}: {error}", field=self._field) from error

    @property
    def columns_unused(self) -> tuple[str, ...]:
        """Columns of the block that rows of its shape do not have, in the file's order."""
        used = columns_of(self._shape)
        return tuple(name for name in self._source.column_names if name not in used)

    def __iter__(self) -> Iterator[Example]:
        shape = self._shape
        rows = enumerate(self._source)
        while batch := list(itertools.islice(rows, _TOKENISE_ROWS)):
            rendered = []
            for index, row in batch:
                try:
                    rendered.append(render(row, shape, self._tokenizer, self._training))
                except DataError as error:
                    raise DataError(f"{self._block.path}: row {index + 1}: {error}", field=self._field) from error
            for (index, _), (item, ids, labelled) in zip(batch, self._tokenise(rendered), strict=True):
                yield self._cut(index, item, ids, labelled)

    def _tokenise(self, rendered: list[Rendered]) -> Iterator[tuple[Rendered, list[int], list[bool]]]:
        end = self._tokenizer.eos_token_id
        # A rendered conversation carries its special tokens in its text already.
        encoded = self._tokenizer(
            [item.text for item in rendered],
            return_offsets_mapping=True,
            add_special_tokens=rendered[0].closed,
        )
        for item, ids, offsets in zip(rendered, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            labelled = [any(stop > first and begin < last for first, last in item.spans) for begin, stop in offsets]
            ids = list(ids)
            if item.closed and end is not None and (not ids or ids[-1] != end):
                ids.append(end)
                labelled.append(True)
            elif item.closed and ids:
                labelled[-1] = True
            yield item, ids, labelled

    def _cut(self, index: int, rendered: Rendered, ids: list[int], labelled: list[bool]) -> Example:
        most = self._training.max_length
        labels = np.asarray(labelled[:most], dtype=bool)
        labels[:1] = False
        truncated = len(ids) > most
        dropped = None
        if not labels.any():
            had = any(labelled[1:])
            dropped = f"its labels lie beyond max_length = {most}" if had else "no token of it is to be learned"
        return Example(
            dataset=self._block.path,
            field=self._field,
            index=index,
            text=rendered.text,
            ids=np.asarray(ids[:most], dtype=np.int32),
            labelled=labels,
            truncated=truncated,
            dropped=dropped,
        )


def read_block(
    block: DatasetSpec, *, field: str, training: TrainingSpec, tokenizer: PreTrainedTokenizerBase
) -> BlockReader:
    """The examples of one dataset block.

    Args:
        block: Which rows.
        field: Its place in the spec, for messages.
        training: `max_length` and which parts are learned.
        tokenizer: Of the base, with the job's chat template.

    Raises:
        DataError: When it is iterated or asked for its columns: with `field` naming the block, and file and row in
            the message.
    """
    return BlockReader(block, field=field, training=training, tokenizer=tokenizer)
