"""Rows as token ids and label masks: what a job trains on and is measured on."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from jobs.errors import DataError
from jobs.spec import DatasetSpec, JobSpec, TrainingSpec
from workers.chat_template import time_of
from workers.end_tokens import end_ids
from workers.examples import Example, read_block, require_few
from workers.seeds import generator


@dataclass(frozen=True, kw_only=True)
class Row:
    """One tokenised row."""

    index: int
    """Position among the job's rows, counted before any were dropped: the row's name in logs."""
    ids: np.ndarray
    """(t,) int64."""
    labelled: np.ndarray
    """(t,) bool: this token is to be predicted. Never true for the first, which nothing precedes."""

    @property
    def num_labels(self) -> int:
        """Tokens that count in the loss."""
        return int(self.labelled.sum())


@dataclass(frozen=True, kw_only=True)
class Microbatch:
    """One job's next rows; the unit that must fit on the device."""

    rows: tuple[Row, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows, without padding."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def num_labels(self) -> int:
        """Label tokens of all rows."""
        return sum(row.num_labels for row in self.rows)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What tokenising did to the rows, told to the user once."""

    rows: int
    truncated: int
    dropped: int
    """Rows left without a label, by truncation or from the start."""
    skipped: int = 0
    """Rows that could not be used and were passed over, as `max_skipped_rows` allows."""
    endless: int = 0
    """Rows of which no end token is learned, though nothing was cut off."""
    columns_unused: tuple[str, ...] = ()
    """Columns of the files, and keys of turns as `messages[].name`, that change nothing."""
    reasons: tuple[str, ...] = ()
    """Of the rows passed over: file, row and what is wrong."""

    def plus(self, other: Counts) -> Counts:
        """Of both together."""
        return Counts(
            rows=self.rows + other.rows,
            truncated=self.truncated + other.truncated,
            dropped=self.dropped + other.dropped,
            skipped=self.skipped + other.skipped,
            endless=self.endless + other.endless,
            columns_unused=tuple(dict.fromkeys((*self.columns_unused, *other.columns_unused))),
            reasons=(*self.reasons, *other.reasons),
        )


class TokenisedRows(Sequence[Row]):
    """All rows of one purpose, flat in memory: about five bytes a token."""

    def __init__(self, ids: np.ndarray, labelled: np.ndarray, ends: np.ndarray, indices: np.ndarray, counts: Counts):
        self._ids, self._labelled, self._indices = ids, labelled, indices
        self._ends = ends
        self._starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
        self.counts = counts

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, position: int) -> Row:  # pyright: ignore[reportIncompatibleMethodOverride]
        window = slice(self._starts[position], self._ends[position])
        return Row(
            index=int(self._indices[position]),
            ids=self._ids[window].astype(np.int64),
            labelled=self._labelled[window],
        )

    @property
    def lengths(self) -> np.ndarray:
        """(rows,) tokens of each row."""
        return self._ends - self._starts

    @property
    def label_counts(self) -> np.ndarray:
        """(rows,) label tokens of each row."""
        return np.add.reduceat(self._labelled.astype(np.int64), self._starts)

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows."""
        return len(self._ids)

    @property
    def largest_id(self) -> int:
        """The largest token id of all rows."""
        return int(self._ids.max())

    def count_ids_from(self, first: int) -> int:
        """Tokens of all rows whose id is `first` or larger."""
        return int((self._ids >= first).sum())

    @property
    def num_labels(self) -> int:
        """Label tokens of all rows."""
        return int(self._labelled.sum())

    def subset(self, positions: Sequence[int]) -> TokenisedRows:
        """The rows at these positions, in this order; counts are those of the whole."""
        rows = [self[position] for position in positions]
        return _assemble([(row.index, row.ids, row.labelled) for row in rows], replace(self.counts, rows=len(rows)))

    @property
    def fingerprint(self) -> str:
        """sha256 over ids, labels and borders: equal where training would see the same rows."""
        digest = hashlib.sha256()
        for part in (self._ids.astype("<i4"), np.packbits(self._labelled), self._ends.astype("<i8")):
            digest.update(part.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class JobData:
    """What a job trains on and is measured on."""

    train: TokenisedRows
    evaluation: TokenisedRows | None
    notes: tuple[str, ...]
    """What was truncated or dropped, for the job's log."""
    warnings: tuple[str, ...] = ()
    """Those of the notes that should be known before training."""
    counts: Counts = Counts(rows=0, truncated=0, dropped=0)
    """Of all rows that were read, for training and evaluation together."""


def load_job_data(
    spec: JobSpec, tokenizer: PreTrainedTokenizerBase, *, now_unix_seconds: float | None = None
) -> JobData:
    """Load, render, tokenise and split the rows of a job.

    Args:
        spec: The job.
        tokenizer: Of its base, with its chat template.
        now_unix_seconds: What chat templates take for the current time; `None`: the time of this call.

    Raises:
        DataError: With `field` naming the block, and file and row in the message. Also where every label is masked.
    """
    now = time_of(now_unix_seconds)
    train = _tokenised_blocks(spec.datasets, "datasets", spec.training, tokenizer, now)
    counts = train.counts
    notes = _notes(counts, tokenizer)
    evaluation = None
    if spec.eval_datasets:
        evaluation = _tokenised_blocks(spec.eval_datasets, "eval_datasets", spec.training, tokenizer, now)
        counts = counts.plus(evaluation.counts)
    elif spec.val_size:
        train, evaluation = _held_out(train, spec)
    both = (("training", train), ("evaluation", evaluation))
    described = [_describe(purpose, rows) for purpose, rows in both if rows is not None]
    return JobData(train=train, evaluation=evaluation, notes=(*described, *notes), warnings=tuple(notes), counts=counts)


def _tokenised_blocks(
    blocks: Sequence[DatasetSpec],
    field: str,
    training: TrainingSpec,
    tokenizer: PreTrainedTokenizerBase,
    now: datetime,
) -> TokenisedRows:
    readers = [
        read_block(block, field=f"{field}[{number}]", training=training, tokenizer=tokenizer, now=now)
        for number, block in enumerate(blocks)
    ]
    kept: list[tuple[int, np.ndarray, np.ndarray]] = []
    bad: list[Example] = []
    total = truncated = dropped = endless = 0
    for index, example in enumerate(itertools.chain.from_iterable(readers)):
        total += 1
        truncated += example.truncated
        if example.is_bad:
            bad.append(example)
        elif example.dropped is not None:
            dropped += 1
        else:
            kept.append((index, example.ids, example.labelled))
            endless += not example.teaches_end and not example.truncated
    require_few(bad, total, training)
    unused = {name: None for reader in readers for name in reader.columns_unused}
    counts = Counts(
        rows=total,
        truncated=truncated,
        dropped=dropped,
        skipped=len(bad),
        endless=endless,
        columns_unused=tuple(unused),
        reasons=tuple(example.dropped or "" for example in bad),
    )
    if not kept:
        raise DataError(_nothing_to_learn(counts, training), field=field)
    return _assemble(kept, counts)


def _assemble(rows: list[tuple[int, np.ndarray, np.ndarray]], counts: Counts) -> TokenisedRows:
    empty = [np.empty(0)]
    return TokenisedRows(
        np.concatenate([ids for _, ids, _ in rows] or empty).astype(np.int32),
        np.concatenate([labelled for _, _, labelled in rows] or empty).astype(bool),
        np.cumsum([len(ids) for _, ids, _ in rows], dtype=np.int64),
        np.asarray([index for index, _, _ in rows], dtype=np.int64),
        counts,
    )


def _nothing_to_learn(counts: Counts, training: TrainingSpec) -> str:
    reason = f"all labels of all {counts.rows} rows are masked, so there is nothing to learn"
    if counts.truncated:
        return (
            f"{reason}: {counts.truncated} rows are longer than training.max_length = {training.max_length} and lost "
            "their labels at the end; raise it"
        )
    if training.assistant_only_loss:
        return f"{reason}: assistant_only_loss is on and no row has a turn of the assistant"
    return f"{reason}: the completions are empty"


def _held_out(train: TokenisedRows, spec: JobSpec) -> tuple[TokenisedRows, TokenisedRows]:
    """Split off `val_size` rows, drawn by the job's seed."""
    wanted = spec.val_size
    size = round(len(train) * wanted) if wanted < 1 else int(wanted)
    if not 0 < size < len(train):
        raise DataError(
            f"val_size = {wanted} would leave {len(train) - size} of {len(train)} rows for training and {size} for "
            "evaluation; both need at least one",
            field="val_size",
        )
    order = torch.randperm(len(train), generator=generator(spec.training.seed, "val_size")).tolist()
    return train.subset(sorted(order[size:])), train.subset(sorted(order[:size]))


def _describe(purpose: str, rows: TokenisedRows) -> str:
    counts, lengths = rows.counts, rows.lengths
    skipped = f", {counts.skipped} passed over as they cannot be used" if counts.skipped else ""
    unused = f"; not used: {', '.join(counts.columns_unused)}" if counts.columns_unused else ""
    return (
        f"{purpose}: {len(rows)} rows, {rows.num_tokens} tokens ({rows.num_labels} with labels), "
        f"{int(lengths.min())} to {int(lengths.max())} tokens a row; "
        f"{counts.truncated} truncated, {counts.dropped} dropped for lack of labels{skipped}{unused}"
    )


def _notes(counts: Counts, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What the user should know of the training rows before they are trained on."""
    notes = [f"passed over: {reason}" for reason in counts.reasons]
    if counts.endless:
        kept = counts.rows - counts.skipped - counts.dropped
        which = "no row teaches" if counts.endless == kept else f"{counts.endless} of {kept} rows do not teach"
        ends = [str(token) for token in tokenizer.convert_ids_to_tokens(sorted(end_ids(tokenizer)))]
        named = f"the end token {' or '.join(ends)}" if ends else "an end token: the tokenizer names none"
        notes.append(
            f"{which} {named}, so the adapter may not learn where to stop; take a model.chat_template_path that closes "
            "the assistant's turns with it, or write it at the end of the completions"
        )
    return notes


def chunks(rows: TokenisedRows, size: int) -> list[Microbatch]:
    """All rows in order, `size` at a time, for evaluation."""
    return [
        Microbatch(rows=tuple(rows[position] for position in range(start, min(start + size, len(rows)))))
        for start in range(0, len(rows), size)
    ]
