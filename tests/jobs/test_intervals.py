import pytest

from jobs.intervals import interval, save_interval
from jobs.spec import TrainingSpec


@pytest.mark.parametrize(
    "wanted, total, steps", [(100, 7, 100), (0.25, 10, 3), (0.25, 8, 2), (0.5, 1, 1), (0.001, 10, 1), (1, 10, 1)]
)
def test_a_decimal_is_a_share_of_all_steps_rounded_up(wanted: float, total: int, steps: int) -> None:
    assert interval(wanted, total) == steps


@pytest.mark.parametrize(
    "training, steps",
    [
        ({}, 100),
        ({"save_steps": 0.25}, 6),
        ({"save_strategy": "epoch"}, 7),
        ({"save_strategy": "no"}, None),
    ],
)
def test_checkpoints_are_as_far_apart_as_asked(training: dict[str, object], steps: int | None) -> None:
    spec = TrainingSpec.model_validate(training)
    assert save_interval(spec, total_steps=21, steps_per_epoch=7) == steps
