"""The budget is found once, fits every base, and stays what it was when the run goes on elsewhere."""

from __future__ import annotations

from pathlib import Path

from jobs.records import BaseKey
from orchestrator.journal import Journal
from orchestrator.snapshot import (
    Device,
)
from orchestrator.token_budget import fixed_token_budget, token_budget
from workers.estimate import Estimate
from workers.memory import MAX_TOKEN_BUDGET, MIN_TOKEN_BUDGET, BaseShape, Demand

SMALL = BaseShape(num_parameters=10**6, itemsize=4, vocab_size=1000, linear_features=10_000)
LARGE = BaseShape(num_parameters=10**9, itemsize=4, vocab_size=1000, linear_features=4_000_000)


def estimate(name: str, shape: BaseShape) -> Estimate:
    return Estimate(
        base=BaseKey(model_name_or_path=name, revision=None, dtype="float32"),
        base_shape=shape,
        demand=Demand(adapter_bytes=1000, worst_tokens=10, worst_labels=5),
        trainable_parameters=1,
        train_rows=1,
        eval_rows=0,
        train_tokens=1,
        total_steps=1,
        peak_bytes=1,
    )


def device(gib: int) -> Device:
    return Device(id=f"cpu-{gib}", kind="cpu", memory_bytes=gib * 2**30, num_cpus=1)


def test_the_smallest_device_and_the_largest_base_decide() -> None:
    both = [estimate("small", SMALL), estimate("large", LARGE)]
    assert token_budget(both[:1], [device(64)]) == MAX_TOKEN_BUDGET
    assert token_budget(both, [device(64)]) < MAX_TOKEN_BUDGET
    assert token_budget(both, [device(64), device(8)]) < token_budget(both, [device(64)])
    assert token_budget(both, [device(1)]) == MIN_TOKEN_BUDGET


def test_what_was_fixed_holds_on_another_machine_unless_the_user_asks_otherwise(tmp_path: Path) -> None:
    jobs = [estimate("large", LARGE)]
    with Journal(tmp_path / "journal.db") as journal:
        found = fixed_token_budget(None, journal, jobs, [device(8)])
        assert found == token_budget(jobs, [device(8)]) != token_budget(jobs, [device(64)])
    with Journal(tmp_path / "journal.db") as journal:
        assert fixed_token_budget(None, journal, jobs, [device(64)]) == found
        assert fixed_token_budget(777, journal, jobs, [device(64)]) == 777
        assert fixed_token_budget(None, journal, jobs, [device(8)]) == 777
