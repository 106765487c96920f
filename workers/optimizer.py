"""One optimizer, schedule, clip and finite check per job, over the job's one flat buffer.

torch.optim and transformers' schedules do the arithmetic: over flat storage an optimizer step of a whole adapter is a
handful of operations, so nothing is gained by writing our own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer
from transformers import get_scheduler

from jobs.intervals import interval
from jobs.spec import TrainingSpec
from workers.adapter import Adapter


@dataclass(frozen=True, kw_only=True)
class Update:
    """What one optimizer step did."""

    grad_norm: float
    """L2 norm of the whole gradient before clipping."""
    learning_rate: float
    """The rate that the step used."""
    applied: bool
    """False where the gradient or the loss was not finite: weights, moments and schedule were left alone."""


@dataclass(frozen=True, kw_only=True)
class OptimizerState:
    """What an optimizer goes on from. `moments` are live when asked of it, and copied when given to it."""

    moments: Mapping[str, Tensor]
    """By torch.optim's names, flat, laid out as the adapter; none for plain SGD."""
    steps: int
    """Steps taken; those that were skipped do not count."""
    learning_rates: tuple[float, ...]
    """Of each parameter group, for the next step."""
    schedule: Mapping[str, Any]
    """The schedule's `state_dict`: plain values."""


class JobOptimizer:
    """Updates one adapter and nothing else."""

    def __init__(self, adapter: Adapter, training: TrainingSpec, total_steps: int) -> None:
        self._adapter = adapter
        self._max_grad_norm = training.max_grad_norm
        self._optimizer = _build(adapter, training)
        if training.optim != "sgd":
            # As torch does in the first step, but now: between packs there are no activations whose place in memory the
            # moments would take for good.
            self._keep({name: torch.zeros_like(adapter.values) for name in ("exp_avg", "exp_avg_sq")}, steps=0)
        self._schedule = get_scheduler(
            training.lr_scheduler_type,
            self._optimizer,
            num_warmup_steps=warmup_steps(training, total_steps),
            num_training_steps=total_steps,
        )

    def step(self, loss: float) -> Update:
        """Clip, check, update, advance the schedule, zero the gradient.

        Clipping follows torch.nn.utils.clip_grad_norm_: factor min(1, max_norm / (norm + 1e-6)).
        """
        gradient = self._adapter.grads
        norm = float(torch.linalg.vector_norm(gradient))
        learning_rate = float(self._optimizer.param_groups[0]["lr"])
        applied = math.isfinite(norm) and math.isfinite(loss)
        if applied:
            if self._max_grad_norm and (factor := self._max_grad_norm / (norm + 1e-6)) < 1.0:
                gradient.mul_(factor)
            self._optimizer.step()
            self._schedule.step()
        self._adapter.zero_grad()
        return Update(grad_norm=norm, learning_rate=learning_rate, applied=applied)

    @property
    def state(self) -> OptimizerState:
        """Where it stands."""
        kept = self._optimizer.state.get(self._adapter.values, {})
        return OptimizerState(
            moments={name: value for name, value in kept.items() if name != "step" and value is not None},
            steps=self._schedule.last_epoch,
            learning_rates=tuple(float(group["lr"]) for group in self._optimizer.param_groups),
            schedule=self._schedule.state_dict(),
        )

    def go_on_from(self, state: OptimizerState) -> None:
        """Stand where another one stood. Not through `load_state_dict`, which would alias what it is given."""
        if state.moments:
            values = self._adapter.values
            copies = {name: torch.empty_like(values).copy_(moment) for name, moment in state.moments.items()}
            self._keep(copies, steps=state.steps)
        self._schedule.load_state_dict(dict(state.schedule))
        # The schedule's state does not reach the groups, and the next step reads its rate there.
        for group, rate in zip(self._optimizer.param_groups, state.learning_rates, strict=True):
            group["lr"] = rate

    def _keep(self, moments: Mapping[str, Tensor], *, steps: int) -> None:
        values = self._adapter.values
        # Where torch keeps it for fused optimizers: beside the weights, in fp32 whatever these are.
        step = torch.tensor(float(steps), dtype=torch.float32, device=values.device)
        self._optimizer.state[values] = {"step": step, **moments}


def warmup_steps(training: TrainingSpec, total_steps: int) -> int:
    """Warm-up in steps."""
    return interval(training.warmup_steps, total_steps)


def _build(adapter: Adapter, training: TrainingSpec) -> Optimizer:
    if training.optim == "sgd":
        return SGD([adapter.values], lr=training.learning_rate, weight_decay=training.weight_decay)
    return AdamW(
        [adapter.values],
        lr=training.learning_rate,
        betas=(training.adam_beta1, training.adam_beta2),
        eps=training.adam_epsilon,
        weight_decay=training.weight_decay,
        fused=True,
    )
