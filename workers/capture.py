"""From a running job to a snapshot of it, and back.

The optimizer keeps its moments flat, in the adapter's own layout; a snapshot names them by module, since another worker
may lay the same adapter out otherwise. Taking one copies the flat buffers and no more, since those who train wait for
it: what is where in them is looked up by the thread that writes.

Shape suffixes: N all numbers of an adapter, R rank, I input features, O output features of a linear.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from jobs.checkpoints import CheckpointIdentity, Surroundings
from workers.adapter import Adapter
from workers.job_run import JobRun
from workers.optimizer import OptimizerState
from workers.snapshot import JobSnapshot, Modules, Pair


def capture(
    run: JobRun, *, identity: CheckpointIdentity, surroundings: Surroundings, peft_config: Mapping[str, Any]
) -> JobSnapshot:
    """A copy of all that the job needs to go on; between two of its micro-batches only."""
    adapter, standing = run.adapter, run.standing
    return JobSnapshot(
        identity=identity,
        surroundings=surroundings,
        peft_config=peft_config,
        factors=held(adapter, adapter.values),
        moments={name: held(adapter, flat_N) for name, flat_N in run.optimizer.state.moments.items()},
        gradients=held(adapter, adapter.grads) if standing.accumulation is not None else None,
        standing=replace(standing, schedule=copy.deepcopy(dict(standing.schedule))),
    )


def restore(run: JobRun, snapshot: JobSnapshot) -> None:
    """Let a fresh run of the same job stand where the snapshot was taken. The snapshot stays usable: all is copied."""
    standing = snapshot.standing
    _fill(ByModule(run.adapter, run.adapter.values.detach()), snapshot.factors)
    run.adapter.zero_grad()
    if snapshot.gradients is not None:
        _fill(ByModule(run.adapter, run.adapter.grads), snapshot.gradients)
    moments = {}
    for name, modules in snapshot.moments.items():
        # Zero in the padding between factors, where the optimizer has zeros too.
        moments[name] = torch.zeros_like(run.adapter.values.detach())
        _fill(ByModule(run.adapter, moments[name]), modules)
    run.optimizer.go_on_from(
        OptimizerState(
            moments=moments,
            steps=standing.optimizer_steps,
            learning_rates=standing.learning_rates,
            schedule=standing.schedule,
        )
    )
    run.stand_at(standing)


class ByModule(Mapping[str, Pair]):
    """Views into a flat buffer that is laid out as an adapter, each made when it is first asked for."""

    def __init__(self, adapter: Adapter, flat_N: Tensor) -> None:
        """The adapter's own buffers are not held on to."""
        self._flat_N = flat_N
        self._targets = adapter.targets
        self._layout = adapter.layout
        self._pairs: dict[str, Pair] = {}

    def __getitem__(self, name: str) -> Pair:
        if name not in self._pairs:
            a_RI, b_OR = self._layout.views(self._flat_N, name, self._targets[name].r)
            self._pairs[name] = Pair(a_RI=a_RI, b_OR=b_OR)
        return self._pairs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)


def held(adapter: Adapter, flat_N: Tensor) -> ByModule:
    """A copy on the CPU, in one piece: hundreds of small transfers from a GPU would take longer than some steps do."""
    return ByModule(adapter, torch.empty(flat_N.shape, dtype=flat_N.dtype).copy_(flat_N.detach()))


def _fill(into: Modules, values: Modules) -> None:
    for name, pair in into.items():
        pair.a_RI.copy_(values[name].a_RI)
        pair.b_OR.copy_(values[name].b_OR)
