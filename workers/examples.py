"""The rows of one dataset block as a model will see them, one by one: text, token ids, and what of them is learned."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import numpy as np
from transformers import PreTrainedTokenizerBase

from jobs.errors import DataError
from jobs.spec import DatasetSpec, TrainingSpec
from workers.chat_template import ChatTemplate, time_of
from workers.end_tokens import end_ids
from workers.labels import Labelled, Labeller
from workers.row_values import RowError
from workers.rows import PlainText, columns_used, read_row, recognise
from workers.sources import BadRow, RowSource, open_rows
from workers.sources.rows import Row
from workers.tokenising import Text, Tokenising

_TOKENISE_ROWS = 512
"""Rows handed to the tokenizer at once; it spreads a batch over threads."""
_SHOWN_ROWS = 3
"""Rows that cannot be used and are named in the message about them."""


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
    teaches_end: bool = False
    """One of the learned tokens is an end token."""
    is_bad: bool = False
    """The row cannot be used at all: `dropped` says why, and so many are allowed as `max_skipped_rows` says."""


class BlockReader:
    """The examples of one dataset block; each iteration reads them anew, and holds only a few at a time."""

    def __init__(
        self,
        block: DatasetSpec,
        *,
        field: str,
        training: TrainingSpec,
        tokenizer: PreTrainedTokenizerBase,
        now: datetime,
    ) -> None:
        self._block = block
        self._field = field
        self._training = training
        special = [str(token) for token in tokenizer.added_tokens_decoder.values()]
        self._labeller = Labeller(ChatTemplate(tokenizer, now), special, training)
        self._tokenising = Tokenising(tokenizer)
        self._end_ids = np.asarray(sorted(end_ids(tokenizer)), dtype=np.int32)
        self._columns: dict[str, None] = {}
        """Columns that rows had something in."""
        self._used: set[str] = set()
        self._unprinted: dict[str, None] = {}
        """Keys of turns, and columns, that the chat template does not print."""

    @cached_property
    def _source(self) -> RowSource:
        source = open_rows(self._block, field=self._field)
        try:
            recognise(source.column_names)
        except DataError as error:
            raise DataError(f"{self._block.path}: {error}", field=self._field) from error
        return source

    @property
    def columns_unused(self) -> tuple[str, ...]:
        """Columns, and keys of turns as `messages[].name`, that had no say in the rows that were read so far."""
        named = dict.fromkeys(self._source.column_names) | self._columns
        unused = [name for name in named if name not in self._used]
        return tuple(dict.fromkeys([*unused, *self._unprinted]))

    def __iter__(self) -> Iterator[Example]:
        rows = enumerate(self._source.outcomes())
        while batch := list(itertools.islice(rows, _TOKENISE_ROWS)):
            texts: dict[int, Text] = {}
            reasons: dict[int, str] = {}
            for index, row in batch:
                if isinstance(row, BadRow):
                    reasons[index] = row.message
                    continue
                try:
                    texts[index] = self._text(row)
                except RowError as error:
                    reasons[index] = f"{self._block.path}: row {index + 1}: {error}"
                except DataError as error:
                    raise DataError(f"{self._block.path}: row {index + 1}: {error}", field=self._field) from error
            tokens = dict(zip(texts, self._tokenising.encode([*texts.values()]), strict=True))
            for index, _ in batch:
                if index in reasons:
                    yield self._bad(index, reasons[index])
                else:
                    yield self._cut(index, texts[index].text, *tokens[index])

    def _text(self, row: Row) -> Text:
        """A row as text, and what of it is learned."""
        whole = dict.fromkeys(self._source.column_names) | row
        said = read_row(whole, self._training, has_template=self._labeller.has_template)
        self._columns |= {name: None for name, value in row.items() if value is not None}
        self._used |= columns_used(whole, said)
        if isinstance(said, PlainText):
            return Text(text=said.text, spans=((said.start, len(said.text)),), masked=(), is_closed=True)
        labelled: Labelled = self._labeller.label(said)
        self._unprinted |= dict.fromkeys(labelled.unused)
        return Text(text=labelled.text, spans=labelled.spans, masked=labelled.masked, is_closed=False)

    def _cut(self, index: int, text: str, ids: list[int], labelled: list[bool]) -> Example:
        most = self._training.max_length
        labels = np.asarray(labelled[:most], dtype=bool)
        labels[:1] = False
        truncated = len(ids) > most
        dropped = None
        if not labels.any():
            had = any(labelled[1:])
            dropped = f"its labels lie beyond max_length = {most}" if had else "no token of it is to be learned"
        cut = np.asarray(ids[:most], dtype=np.int32)
        return Example(
            dataset=self._block.path,
            field=self._field,
            index=index,
            text=text,
            ids=cut,
            labelled=labels,
            truncated=truncated,
            dropped=dropped,
            teaches_end=bool(np.isin(cut[labels], self._end_ids).any()),
        )

    def _bad(self, index: int, reason: str) -> Example:
        return Example(
            dataset=self._block.path,
            field=self._field,
            index=index,
            text="",
            ids=np.empty(0, dtype=np.int32),
            labelled=np.empty(0, dtype=bool),
            truncated=False,
            dropped=reason,
            is_bad=True,
        )


def read_block(
    block: DatasetSpec,
    *,
    field: str,
    training: TrainingSpec,
    tokenizer: PreTrainedTokenizerBase,
    now: datetime | None = None,
) -> BlockReader:
    """The examples of one dataset block.

    Args:
        block: Which rows.
        field: Its place in the spec, for messages.
        training: `max_length` and which parts are learned.
        tokenizer: Of the base, with the job's chat template.
        now: What chat templates take for the current time; `None`: the time of this call.

    Raises:
        DataError: When it is iterated or asked for its columns: with `field` naming the block.
    """
    return BlockReader(block, field=field, training=training, tokenizer=tokenizer, now=now or time_of(None))


def require_few(bad: Sequence[Example], num_rows: int, training: TrainingSpec) -> None:
    """Refuse rows of which more are bad than may be passed over.

    Args:
        bad: Those that cannot be used.
        num_rows: All rows read.
        training: How many are passed over.

    Raises:
        DataError: With how many are bad, and the reasons of the first.
    """
    if len(bad) <= training.max_skipped_rows:
        return
    reasons = "; ".join(example.dropped or "" for example in bad[:_SHOWN_ROWS])
    more = f"; and {len(bad) - _SHOWN_ROWS} more" if len(bad) > _SHOWN_ROWS else ""
    count = "" if len(bad) == 1 else f"{len(bad)} of {num_rows} rows cannot be used: "
    raise DataError(
        f"{count}{reasons}{more}; correct or remove {'it' if len(bad) == 1 else 'them'}, or pass over as many with "
        f"training.max_skipped_rows: {len(bad)}",
        field=bad[0].field,
    )
