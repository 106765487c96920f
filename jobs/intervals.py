"""Steps between events of a job, such as evaluations and checkpoints."""

from __future__ import annotations

import math

from jobs.spec import TrainingSpec


def interval(wanted: float, total_steps: int) -> int:
    """Steps between two events: a number below 1 is a share of all steps, rounded up, as transformers has it."""
    return math.ceil(total_steps * wanted) if wanted < 1 else int(wanted)


def save_interval(training: TrainingSpec, *, total_steps: int, steps_per_epoch: int) -> int | None:
    """Steps between two checkpoints; `None` where they are taken at interruptions alone."""
    if training.save_strategy == "no":
        return None
    return steps_per_epoch if training.save_strategy == "epoch" else interval(training.save_steps, total_steps)
