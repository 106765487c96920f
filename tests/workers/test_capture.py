"""A job stopped after any micro-batch and restored elsewhere ends with the bytes of one that was never stopped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.spec import JobSpec
from tests.models import Trained, admit, make_data, make_spec, make_worker, tiny_llama
from tests.workers.snapshots import IDENTITY, SURROUNDINGS, assert_same
from workers.capture import capture, restore
from workers.checkpoint import load, save
from workers.job_run import JobRun
from workers.snapshot import JobSnapshot
from workers.worker import Worker

DATA = make_data(1, [5, 9, 7, 4, 8, 6, 11, 3, 5, 6, 7], held_out=[4, 6])


def spec_of(**training: Any) -> JobSpec:
    return make_spec(
        "one",
        packing="exact",
        lora={
            "r": 4,
            "lora_dropout": 0.2,
            "rank_pattern": {"*q_proj": 3},
            "target_modules": ["*_proj", "lm_head"],
        },
        training={
            "max_steps": 9,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 3,
            "learning_rate": 0.01,
            "weight_decay": 0.1,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 2,
            **training,
        },
    )


@dataclass
class Life:
    """A job on its worker, which can be exchanged for another one."""

    spec: JobSpec
    folder: Path
    rows: list[tuple[int, ...]]
    """Positions of the rows of each micro-batch that was trained on."""
    begins_from: JobSnapshot | None = None

    def __post_init__(self) -> None:
        self.move_to_a_fresh_worker(self.begins_from)

    def move_to_a_fresh_worker(self, snapshot: JobSnapshot | None) -> None:
        self.worker: Worker = make_worker(tiny_llama(), {"one": DATA}, self.folder)
        admitted: Trained = admit(self.worker, [self.spec])
        self.run: JobRun = admitted.runs["one"]
        if snapshot is not None:
            restore(self.run, snapshot)

    def snapshot(self) -> JobSnapshot:
        return capture(self.run, identity=IDENTITY, surroundings=SURROUNDINGS, peft_config={})

    def round(self) -> bool:
        work = self.run.next_work()
        if work is None:
            return False
        if work.kind == "train":
            self.rows.append(tuple(row.index for row in work.batch.rows))
        self.worker.step()
        return True

    def end(self) -> tuple[torch.Tensor, int, float, tuple[float | None, ...]]:
        run = self.run
        assert run.last_step is not None
        evaluations = tuple(one and one.loss for one in (run.first_eval, run.last_eval))
        return run.adapter.values.detach().clone(), run.tokens, run.last_step.loss, evaluations


@pytest.mark.parametrize("training", [{}, {"optim": "sgd"}, {"adam_beta1": 0.0, "max_grad_norm": 0}])
def test_stopped_after_any_micro_batch_a_job_ends_with_the_same_bytes(training: dict[str, Any], tmp_path: Path) -> None:
    whole = Life(spec_of(**training), tmp_path / "whole", [])
    rounds = 0
    while whole.round():
        rounds += 1
    weights, *figures = whole.end()
    assert rounds > 20
    # It goes on from where it was looked at, which must change nothing in it.
    stopped = Life(spec_of(**training), tmp_path / "stopped", [])
    for stop in range(rounds):
        # Peeked at, so that a batch is drawn of which nothing has run.
        stopped.run.next_work()
        record = save(stopped.snapshot(), tmp_path / f"checkpoints-{stop}")
        snapshot = load(tmp_path / f"checkpoints-{stop}", record, IDENTITY)
        resumed = Life(spec_of(**training), tmp_path / f"{stop}", list(stopped.rows), snapshot)
        while resumed.round():
            pass
        assert ends_as(resumed, whole, weights, figures), stop
        stopped.round()
    assert ends_as(stopped, whole, weights, figures)


def ends_as(life: Life, whole: Life, weights: torch.Tensor, figures: list[Any]) -> bool:
    ended, *same = life.end()
    return torch.equal(ended, weights) and same == figures and life.rows == whole.rows


def test_training_on_changes_nothing_of_a_snapshot(tmp_path: Path) -> None:
    life = Life(spec_of(), tmp_path / "a", [])
    for _ in range(11):
        life.round()
    looked_at, untouched = life.snapshot(), life.snapshot()
    assert looked_at.gradients is not None
    # Views are made when they are asked for: of one snapshot now, of the other when training has gone on.
    record = save(looked_at, tmp_path / "checkpoints")
    while life.round():
        pass
    for flat in (life.run.adapter.values.detach(), life.run.adapter.grads, *life.run.optimizer.state.moments.values()):
        flat.fill_(77.0)
    on_disk = load(tmp_path / "checkpoints", record, IDENTITY)
    assert_same(looked_at, on_disk)
    assert_same(untouched, on_disk)


def test_a_snapshot_can_be_gone_on_from_twice_and_is_not_touched_by_it(tmp_path: Path) -> None:
    life = Life(spec_of(), tmp_path / "a", [])
    for _ in range(11):
        life.round()
    snapshot = life.snapshot()
    ends = []
    for _ in range(2):
        life.move_to_a_fresh_worker(snapshot)
        while life.round():
            pass
        ends.append(life.end()[0])
    assert torch.equal(*ends)


def test_steps_that_were_skipped_count_for_the_cursor_and_not_for_the_optimizer(tmp_path: Path) -> None:
    life = Life(spec_of(), tmp_path / "a", [])
    for _ in range(8):
        life.round()
    life.run.adapter.grads[0] = torch.nan
    while life.run.nonfinite_in_a_row == 0:
        life.round()
    standing = life.snapshot().standing
    assert standing.optimizer_steps == standing.step - 1
    life.move_to_a_fresh_worker(life.snapshot())
    assert life.run.standing == standing


def test_padding_between_factors_stays_zero(tmp_path: Path) -> None:
    life = Life(spec_of(), tmp_path / "a", [])
    for _ in range(11):
        life.round()
    before = life.run.adapter.values.detach().clone()
    moments = {name: flat.clone() for name, flat in life.run.optimizer.state.moments.items()}
    life.move_to_a_fresh_worker(life.snapshot())
    assert torch.equal(life.run.adapter.values.detach(), before)
    assert {name: torch.equal(flat, moments[name]) for name, flat in life.run.optimizer.state.moments.items()} == {
        "exp_avg": True,
        "exp_avg_sq": True,
    }
