"""The order in which a job sees its rows: a function of its spec and of where it stands, of no neighbour."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from jobs.spec import TrainingSpec
from workers.seeds import generator


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
