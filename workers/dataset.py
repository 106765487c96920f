"""Rows as token ids and label masks, and the order in which a job sees them.

A micro-batch is decided by the job's spec and cursor alone; who else is on the worker has no say.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import datasets
import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from jobs.errors import DataError
from jobs.spec import DatasetSpec, JobSpec, TrainingSpec
from workers import sources
from workers.rows import recognise, render
from workers.seeds import generator

_TOKENISE_ROWS = 512
"""Rows handed to the tokenizer at once; it spreads a batch over threads."""


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


def load_job_data(spec: JobSpec, tokenizer: PreTrainedTokenizerBase) -> JobData:
    """Load, render, tokenise and split the rows of a job.

    Raises:
        DataError: With `field` naming the block, and file and row in the message. Also where every label is masked.
    """
    train = _tokenised_blocks(spec.datasets, "datasets", spec.training, tokenizer)
    evaluation = None
    if spec.eval_datasets:
        evaluation = _tokenised_blocks(spec.eval_datasets, "eval_datasets", spec.training, tokenizer)
    elif spec.val_size:
        train, evaluation = _held_out(train, spec)
    notes = [_describe("training", train)]
    if evaluation is not None:
        notes.append(_describe("evaluation", evaluation))
    return JobData(train=train, evaluation=evaluation, notes=tuple(notes))


def _tokenised_blocks(
    blocks: Sequence[DatasetSpec], field: str, training: TrainingSpec, tokenizer: PreTrainedTokenizerBase
) -> TokenisedRows:
    tables = [
        (f"{field}[{number}]", block, sources.load(block, field=f"{field}[{number}]"))
        for number, block in enumerate(blocks)
    ]
    examples = itertools.chain.from_iterable(
        _examples(table, block.path, name, training, tokenizer) for name, block, table in tables
    )
    rows = _assemble_counted(examples, training.max_length)
    if len(rows) == 0:
        raise DataError(_nothing_to_learn(rows.counts, training), field=field)
    return rows


def _examples(
    table: datasets.Dataset, path: str, field: str, training: TrainingSpec, tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[list[int], list[bool]]]:
    """Ids and labels of every row of one dataset block, at full length."""
    try:
        shape = recognise(table.column_names)
    except DataError as error:
        raise DataError(f"{path}: {error}", field=field) from error
    end = tokenizer.eos_token_id
    for start in range(0, len(table), _TOKENISE_ROWS):
        rendered = []
        for number, row in enumerate(table.select(range(start, min(start + _TOKENISE_ROWS, len(table)))), start + 1):
            try:
                rendered.append(render(row, shape, tokenizer, training))  # pyright: ignore[reportArgumentType]
            except DataError as error:
                raise DataError(f"{path}: row {number}: {error}", field=field) from error
        # A rendered conversation carries its special tokens in its text already.
        encoded = tokenizer(
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
            yield ids, labelled


def _assemble_counted(examples: Iterable[tuple[list[int], list[bool]]], max_length: int) -> TokenisedRows:
    kept: list[tuple[int, np.ndarray, np.ndarray]] = []
    total = truncated = dropped = 0
    for index, (ids, labelled) in enumerate(examples):
        total += 1
        truncated += len(ids) > max_length
        labels = np.asarray(labelled[:max_length], dtype=bool)
        labels[:1] = False
        if not labels.any():
            dropped += 1
            continue
        kept.append((index, np.asarray(ids[:max_length], dtype=np.int32), labels))
    return _assemble(kept, Counts(rows=total, truncated=truncated, dropped=dropped))


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
    return (
        f"{purpose}: {len(rows)} rows, {rows.num_tokens} tokens ({rows.num_labels} with labels), "
        f"{int(lengths.min())} to {int(lengths.max())} tokens a row; "
        f"{counts.truncated} truncated, {counts.dropped} dropped for lack of labels"
    )


def total_steps(training: TrainingSpec, num_rows: int) -> int:
    """Optimizer steps of a job, as transformers counts them: short last batches and accumulations step too."""
    if training.max_steps > 0:
        return training.max_steps
    return math.ceil(training.num_train_epochs * steps_per_epoch(training, num_rows))


def steps_per_epoch(training: TrainingSpec, num_rows: int) -> int:
    """Optimizer steps in one pass over the rows."""
    return math.ceil(math.ceil(num_rows / training.per_device_train_batch_size) / training.gradient_accumulation_steps)


@dataclass
class Cursor:
    """Where a job stands in its rows. Each epoch is a permutation of its own, a function of (seed, epoch)."""

    num_rows: int
    training: TrainingSpec
    epoch: int = 0
    position: int = 0
    """Rows of this epoch already handed out."""
    _order: tuple[int, torch.Tensor] | None = field(default=None, repr=False)

    def order(self, epoch: int) -> torch.Tensor:
        """The (num_rows,) permutation of one epoch."""
        if self._order is None or self._order[0] != epoch:
            draw = generator(self.training.seed, "order", epoch)
            self._order = (epoch, torch.randperm(self.num_rows, generator=draw))
        return self._order[1]

    def next_batch(self) -> list[list[int]]:
        """Row positions of the next optimizer batch, one list per micro-batch, and move past them.

        An optimizer batch does not reach over the end of an epoch: a short last one steps as it is.
        """
        size, most = self.training.per_device_train_batch_size, self.training.gradient_accumulation_steps
        order = self.order(self.epoch)
        batch = []
        while len(batch) < most and self.position < self.num_rows:
            batch.append(order[self.position : self.position + size].tolist())
            self.position += len(batch[-1])
        if self.position >= self.num_rows:
            self.epoch, self.position = self.epoch + 1, 0
        return batch


def chunks(rows: TokenisedRows, size: int) -> list[Microbatch]:
    """All rows in order, `size` at a time, for evaluation."""
    return [
        Microbatch(rows=tuple(rows[position] for position in range(start, min(start + size, len(rows)))))
        for start in range(0, len(rows), size)
    ]
