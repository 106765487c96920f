"""Jobs of unlike kinds run side by side on lanes, and each is counted as what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.records import StepReport
from tests.models import Trained, make_data, make_spec, make_worker, tiny_llama, train
from tests.workers.test_isolation import assert_same_bits
from workers.memory import PackLoad
from workers.rounds import Rounds
from workers.worker import Worker

DATA = {
    "plain": make_data(1, [9, 5, 7, 6]),
    "evaluating": make_data(2, [4, 8, 6, 5], held_out=[11, 3, 6, 9, 5]),
    "checkpointing": make_data(3, [10, 4, 6, 8]),
    "both": make_data(4, [7, 7, 5, 9], held_out=[12, 4, 8]),
}


def spec_of(name: str) -> Any:
    training = {
        "max_steps": 4,
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 1,
        "gradient_checkpointing": name in ("checkpointing", "both"),
        "seed": len(name),
    }
    blocks = {"eval_datasets": [{"path": "injected.jsonl"}]} if DATA[name].evaluation is not None else {}
    return make_spec(name, packing="exact", training=training, **blocks)


def trained(folder: Path, names: tuple[str, ...], num_lanes: int) -> tuple[Worker, Trained]:
    worker = make_worker(tiny_llama(), DATA, folder, num_lanes=num_lanes)
    return worker, train(worker, [spec_of(name) for name in names])


@pytest.mark.parametrize("num_lanes", [2, 4])
def test_exact_jobs_of_unlike_kinds_never_share_a_wave_or_an_account(
    num_lanes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waves: list[list[tuple[str, bool]]] = []
    run = Rounds.run

    def watched(self: Rounds, pack: list[Any], **how: Any) -> None:
        kinds = [(one.work.kind.value, one.run.spec.training.gradient_checkpointing) for one in pack]
        waves.append(kinds)
        run(self, pack, **how)

    monkeypatch.setattr(Rounds, "run", watched)
    together, found = trained(tmp_path / "together", tuple(DATA), num_lanes)
    assert {len(set(kinds)) for kinds in waves} == {1}
    assert max(len(kinds) for kinds in waves) == 2, "those of one kind run side by side"
    totals = together._pack_accounts.totals
    steps = [one for one in found.reports if isinstance(one, StepReport)]
    assert totals.steps == len(steps) == 4 * len(DATA)
    assert totals.tokens == sum(step.tokens for step in steps)
    assert totals.label_tokens == sum(step.label_tokens for step in steps)
    flops = 0.0
    for name in DATA:
        usage = found.end(name).usage
        assert usage is not None
        assert usage.tokens == sum(step.tokens for step in found.steps(name)) == found.runs[name].tokens
        assert usage.label_tokens == sum(step.label_tokens for step in found.steps(name))
        alone, by_itself = trained(tmp_path / name, (name,), num_lanes)
        assert_same_bits(found, by_itself, name)
        flops += alone._pack_accounts.totals.flops
    assert totals.flops == pytest.approx(flops, rel=1e-12)
    # A pack's time is that of training or of an evaluation.
    assert together._accounts.times.seconds > 0


def test_what_is_learned_of_memory_is_of_one_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = make_worker(tiny_llama(), DATA, tmp_path, num_lanes=4, num_measured_packs=100)
    seen: list[PackLoad] = []
    monkeypatch.setattr(worker._admission.fit, "observe", lambda load, num_bytes: seen.append(load))
    monkeypatch.setattr(worker._rounds.meter, "begin", lambda: True)
    found = train(worker, [spec_of(name) for name in DATA])
    for checkpointing in (False, True):
        names = [name for name in DATA if found.runs[name].spec.training.gradient_checkpointing is checkpointing]
        tokens = sum(load.tokens for load in seen if load.checkpointing is checkpointing)
        assert tokens == sum(found.runs[name].tokens for name in names)


def test_exact_jobs_side_by_side_hold_no_more_tokens_than_one_pack_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens: list[list[int]] = []
    run = Rounds.run

    def watched(self: Rounds, pack: list[Any], **how: Any) -> None:
        tokens.append([one.work.batch.num_tokens for one in pack])
        run(self, pack, **how)

    monkeypatch.setattr(Rounds, "run", watched)
    data = {str(number): make_data(number, [9, 9]) for number in range(4)}
    worker = make_worker(tiny_llama(), data, tmp_path, num_lanes=4, token_budget=20)
    training = {"max_steps": 2, "per_device_train_batch_size": 1}
    train(worker, [make_spec(name, packing="exact", training=training) for name in data])
    assert tokens == [[9, 9]] * 4
