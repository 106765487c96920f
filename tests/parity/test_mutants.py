"""The parity test can fail: each well-known way to get multi-adapter training wrong breaks it by far.

A mutant changes one small thing on our side; the oracle stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.models.llama import modeling_llama

from tests.parity.oracle import compare_all
from tests.parity.scenario import LLAMA, oracles, pack_together, tolerance
from workers import admission, job_run, layout
from workers.dataset import Microbatch, Row
from workers.job_run import JobRun, Work
from workers.lora import MultiAdapterLinear
from workers.optimizer import JobOptimizer, Update
from workers.targets import resolve
from workers.worker import Worker

FAR = 1e-2
"""What a mutant must miss by, relative: thousands of times the noise of rounding, so that no luck is involved."""


def no_rotary_embedding(patch: pytest.MonkeyPatch) -> None:
    def unrotated(query: Tensor, key: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return query, key

    patch.setattr(modeling_llama, "apply_rotary_pos_emb", unrotated)


def one_row_attends_to_another_jobs(patch: pytest.MonkeyPatch) -> None:
    """The last row of one job and the first of the next share a segment."""
    packed = layout.packed

    def joined(rows: Sequence[Row], device: torch.device) -> layout.LaidOut:
        pack = packed(rows, device)
        lengths = list(pack.inputs["row_lengths"])
        middle = len(lengths) // 2
        if len(lengths) > 1:
            lengths[middle - 1 : middle + 1] = [lengths[middle - 1] + lengths[middle]]
        pack.inputs["row_lengths"] = tuple(lengths)
        return pack

    # The layout is chosen by trying it, which would notice; the mutant comes after that.
    load = Worker.load

    def then_join(self: Worker) -> None:
        load(self)
        patch.setattr(layout, "packed", joined)

    patch.setattr(Worker, "load", then_join)


def alpha_without_rank(patch: pytest.MonkeyPatch) -> None:
    def unscaled(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return {name: replace(target, scale=target.alpha) for name, target in resolve(*args, **kwargs).items()}

    patch.setattr(admission, "resolve", unscaled)


def root_of_rank_for_all(patch: pytest.MonkeyPatch) -> None:
    def stabilised(*args: Any, **kwargs: Any) -> dict[str, Any]:
        targets = resolve(*args, **kwargs)
        return {name: replace(one, scale=one.alpha / math.sqrt(one.r)) for name, one in targets.items()}

    patch.setattr(admission, "resolve", stabilised)


def dropout_on_the_base_branch(patch: pytest.MonkeyPatch) -> None:
    """The base's product sees the dropped input, the adapter's the whole one: mLoRA had it so."""

    def forward(self: MultiAdapterLinear, x: Tensor) -> Tensor:
        branches = self._router.branches(self.name)
        dropped = x.clone()
        for branch in branches:
            if branch.dropout is not None:
                keep = branch.dropout.mask(self.name, (branch.length, x.shape[-1]), x.device)
                dropped[0, branch.start : branch.start + branch.length] *= keep / (1.0 - branch.dropout.probability)
        undropped = tuple(replace(branch, dropout=None) for branch in branches)
        self._router._branches[self.name] = undropped
        adapters = forward_as_it_is(self, x) - self.base_layer(x)
        self._router._branches[self.name] = branches
        return self.base_layer(dropped) + adapters

    forward_as_it_is = MultiAdapterLinear.forward
    patch.setattr(MultiAdapterLinear, "forward", forward)


def decay_on_a_neighbour(patch: pytest.MonkeyPatch) -> None:
    """Weight decay over the whole stack of adapters, whoever asked for it."""
    seen: dict[str, JobRun] = {}
    trained = JobRun.trained

    def decaying(self: JobRun, work: Work, *, loss_sum: float, seconds: float) -> Any:
        seen[self.job_id] = self
        report = trained(self, work, loss_sum=loss_sum, seconds=seconds)
        if report is not None:
            for neighbour in seen.values():
                if neighbour is not self:
                    neighbour.adapter.values.data.mul_(1.0 - report.learning_rate * self.spec.training.weight_decay)
        return report

    patch.setattr(JobRun, "trained", decaying)


def padding_in_the_loss(patch: pytest.MonkeyPatch) -> None:
    """Rows filled up to the longest with a padding id that counts as a label."""

    def filled_up(rows: tuple[Row, ...]) -> Microbatch:
        longest = max(len(row.ids) for row in rows)
        return Microbatch(
            rows=tuple(
                replace(
                    row,
                    ids=np.pad(row.ids, (0, longest - len(row.ids))),
                    labelled=np.pad(row.labelled, (0, longest - len(row.labelled)), constant_values=True),
                )
                for row in rows
            )
        )

    patch.setattr(job_run, "Microbatch", filled_up)


def mean_per_micro_batch(patch: pytest.MonkeyPatch) -> None:
    """Each micro-batch's own mean, averaged over the accumulation, as many trainers did for years."""

    def denominator(self: JobRun) -> int:
        batch = self._batch
        assert batch is not None
        return batch.micro_batches[batch.done].num_labels * len(batch.micro_batches)

    patch.setattr(JobRun, "loss_denominator", property(denominator))


def one_clip_norm_for_all_jobs(patch: pytest.MonkeyPatch) -> None:
    optimizers: list[JobOptimizer] = []
    init, step = JobOptimizer.__init__, JobOptimizer.step

    def remembered(self: JobOptimizer, *args: Any) -> None:
        init(self, *args)
        optimizers.append(self)

    def clipped_together(self: JobOptimizer, loss: float) -> Update:
        norm = math.sqrt(sum(float(one._adapter.grads.norm()) ** 2 for one in optimizers))
        if self._max_grad_norm and norm > self._max_grad_norm:
            self._adapter.grads.mul_(self._max_grad_norm / (norm + 1e-6))
        return step(self, loss)

    patch.setattr(JobOptimizer, "__init__", remembered)
    patch.setattr(JobOptimizer, "step", clipped_together)


def gradient_kept_after_a_step(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("workers.adapter.Adapter.zero_grad", lambda self: None)


Mutant = Callable[[pytest.MonkeyPatch], None]
MUTANTS: tuple[Mutant, ...] = (
    no_rotary_embedding,
    one_row_attends_to_another_jobs,
    alpha_without_rank,
    root_of_rank_for_all,
    dropout_on_the_base_branch,
    decay_on_a_neighbour,
    padding_in_the_loss,
    mean_per_micro_batch,
    one_clip_norm_for_all_jobs,
    gradient_kept_after_a_step,
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_mutant_breaks_parity_by_far(mutant: Mutant, tmp_path: Path) -> None:
    expected, bound = oracles("llama", torch.float32), tolerance("llama", torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        mutant(patch)
        trained = pack_together(LLAMA, torch.float32, tmp_path)
    errors = compare_all(trained, expected)
    assert min(errors.adapter, errors.loss) > FAR > 1000 * max(bound.adapter, bound.loss)


def test_without_a_mutant_parity_holds(tmp_path: Path) -> None:
    """The other half of the proof: it is the mutants that break it, not the way they are run."""
    errors = compare_all(pack_together(LLAMA, torch.float32, tmp_path), oracles("llama", torch.float32))
    bound = tolerance("llama", torch.float32)
    assert errors.adapter <= bound.adapter
    assert errors.loss <= bound.loss
