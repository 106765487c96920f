"""From a running job to a snapshot of it, and back.

The optimizer keeps its moments flat, in the adapter's own layout; a snapshot names them by module, since another worker
may lay the same adapter out otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from jobs.checkpoints import CheckpointIdentity, Surroundings
from workers.job_run import JobRun
from workers.optimizer import OptimizerState
from workers.snapshot import JobSnapshot, Modules, Pair


def capture(
    run: JobRun, *, identity: CheckpointIdentity, surroundings: Surroundings, peft_config: Mapping[str, Any]
) -> JobSnapshot:
    """A copy of all that the job needs to go on; between two of its micro-batches only."""
    standing = run.standing
    return JobSnapshot.take(
        identity=identity,
        surroundings=surroundings,
        peft_config=peft_config,
        factors=_by_module(run, run.adapter.values.detach()),
        moments={name: _by_module(run, flat) for name, flat in run.optimizer.state.moments.items()},
        gradients=_by_module(run, run.adapter.grads) if standing.accumulation is not None else None,
        standing=standing,
    )


def restore(run: JobRun, snapshot: JobSnapshot) -> None:
    """Let a fresh run of the same job stand where the snapshot was taken. The snapshot stays usable: all is copied."""
    standing = snapshot.standing
    _fill(_by_module(run, run.adapter.values.detach()), snapshot.factors)
    run.adapter.zero_grad()
    if snapshot.gradients is not None:
        _fill(_by_module(run, run.adapter.grads), snapshot.gradients)
    moments = {}
    for name, modules in snapshot.moments.items():
        # Zero in the padding between factors, where the optimizer has zeros too.
        moments[name] = torch.zeros_like(run.adapter.values.detach())
        _fill(_by_module(run, moments[name]), modules)
    run.optimizer.go_on_from(
        OptimizerState(
            moments=moments,
            steps=standing.optimizer_steps,
            learning_rates=standing.learning_rates,
            schedule=standing.schedule,
        )
    )
    run.stand_at(standing)


def _by_module(run: JobRun, flat: Tensor) -> Modules:
    """Views into a flat buffer that is laid out as the adapter."""
    # An adapter may lie in a stack, a moment has storage of its own.
    shift = flat.storage_offset() - run.adapter.values.storage_offset()

    def view(like: Tensor) -> Tensor:
        return flat.as_strided(like.shape, like.stride(), like.storage_offset() + shift)

    return {
        name: Pair(a_RI=view(factors.a_RI), b_OR=view(factors.b_OR)) for name, factors in run.adapter.factors.items()
    }


def _fill(into: Modules, values: Modules) -> None:
    for name, pair in into.items():
        pair.a_RI.copy_(values[name].a_RI)
        pair.b_OR.copy_(values[name].b_OR)
