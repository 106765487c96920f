"""Metrics of jobs: bounded, evenly spaced, and without what did not happen."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.records import EvalReport, StepReport
from orchestrator.journal import Journal, MetricKind, MetricPoint, NoSuchJob, history
from tests.orchestrator.journal.entries import contents, make_submission


def point(step: int, *, job_id: str = "a", kind: MetricKind = "train", loss: float = 1.0) -> MetricPoint:
    return MetricPoint(job_id=job_id, step=step, kind=kind, values={"loss": loss})


def thinned(steps: list[int], max_points: int) -> list[int]:
    """The rule, over all steps at once."""
    every = 1
    while True:
        kept = [step for step in steps if step in (steps[0], steps[-1]) or step % every == 0]
        if len(kept) <= max_points:
            return kept
        every *= 2


@pytest.fixture
def two(journal: Journal) -> Journal:
    journal.submit([make_submission("a"), make_submission("b")], at=1.0)
    return journal


def kept_steps(journal: Journal, **which: object) -> list[int]:
    return [one.step for one in journal.metrics("a", **which)]  # type: ignore[arg-type]


def test_points_come_back_by_step(two: Journal) -> None:
    two.record_metrics([point(20), point(10), point(10, kind="eval", loss=0.5), point(1, job_id="b")])
    assert two.metrics("a") == (point(10, kind="eval", loss=0.5), point(10), point(20))
    assert two.metrics("a", kind="train") == (point(10), point(20))
    assert two.metrics("b") == (point(1, job_id="b"),)
    assert two.metrics("unknown") == ()
    assert two.metrics("a", after_step=10) == (point(20),)


def test_reading_on_leaves_nothing_out(two: Journal) -> None:
    """Two points of one step are never parted: the step is what one reads on after."""
    two.record_metrics([point(step, kind=kind) for step in range(1, 8) for kind in ("train", "eval")])
    everything = two.metrics("a")
    for limit in (1, 2, 3, 5, 100):
        found: list[MetricPoint] = []
        while more := two.metrics("a", after_step=found[-1].step if found else -1, limit=limit):
            assert len(more) <= limit + 1
            found += more
        assert tuple(found) == everything


def test_the_same_step_again_takes_the_place_of_the_first(two: Journal) -> None:
    for loss in (1.0, 2.0):
        two.record_metrics([point(10, loss=loss), point(20, loss=loss)])
    assert two.metrics("a") == (point(10, loss=2.0), point(20, loss=2.0))


def test_a_number_that_json_has_not_is_none(two: Journal) -> None:
    two.record_metrics([point(1, loss=math.nan)])
    assert two.metrics("a")[0].values == {"loss": None}


def test_all_or_none(two: Journal) -> None:
    two.record_metrics([point(1)])
    before = contents(two)
    with pytest.raises(NoSuchJob):
        two.record_metrics([point(2), point(2, job_id="unknown")])
    assert contents(two) == before
    two.record_metrics([])


@settings(max_examples=60)
@given(
    steps=st.lists(st.integers(0, 400), min_size=1, max_size=60, unique=True).map(sorted),
    cuts=st.lists(st.integers(1, 8), max_size=40),
    max_points=st.integers(3, 12),
)
def test_thinning_depends_on_the_steps_alone(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], cuts: list[int], max_points: int
) -> None:
    with Journal(tmp_path_factory.mktemp("history") / "journal.db") as journal:
        journal.submit([make_submission("a")], at=1.0)
        rest, sizes = list(steps), iter(cuts)
        while rest:
            size = next(sizes, 1)
            with journal._writing() as connection:
                history.record(connection, [point(step) for step in rest[:size]], max_points)
            del rest[:size]
            done = steps[: len(steps) - len(rest)]
            assert kept_steps(journal) == thinned(done, max_points)


def test_a_long_run_keeps_no_more_than_is_allowed(two: Journal) -> None:
    """Logged as a worker does: the first step, every tenth, and the last."""
    steps = [1, *range(10, 100_000, 10), 99_997]
    for begin in range(0, len(steps), 700):
        two.record_metrics([point(step) for step in steps[begin : begin + 700]])
    found = kept_steps(two)
    assert found == thinned(steps, history.MAX_POINTS)
    assert history.MAX_POINTS / 2 < len(found) <= history.MAX_POINTS
    assert (found[0], found[-1]) == (1, 99_997)
    assert len({after - before for before, after in itertools.pairwise(found[1:-1])}) == 1
    two.record_metrics([point(step, kind="eval") for step in range(5)])
    assert len(two.metrics("a", kind="eval")) == 5


def test_what_came_after_the_checkpoint_did_not_happen(two: Journal) -> None:
    two.record_metrics([point(step) for step in range(1, 31)])
    two.record_metrics([point(step, kind="eval") for step in (0, 10, 20, 25)])
    two.record_metrics([point(25, job_id="b")])
    two.cut_metrics("a", step=22, evaluated_at=20)
    assert kept_steps(two, kind="train") == list(range(1, 23))
    assert kept_steps(two, kind="eval") == [0, 10, 20]
    assert len(two.metrics("b")) == 1
    two.record_metrics([point(step, loss=3.0) for step in range(23, 26)])
    assert [one.values["loss"] for one in two.metrics("a", kind="train", after_step=21)] == [1.0, 3.0, 3.0, 3.0]
    two.cut_metrics("a", step=0, evaluated_at=-1)
    assert two.metrics("a") == ()
    two.cut_metrics("a", step=0, evaluated_at=-1)


def test_cut_and_trained_again_ends_as_if_never_cut(two: Journal) -> None:
    draw = random.Random(5)
    with two._writing() as connection:
        step = 0
        while step < 900:
            step += 1
            history.record(connection, [point(step)], 50)
            if draw.random() < 0.03:
                step = max(0, step - draw.randrange(40))
                history.cut(connection, "a", "train", step)
    assert kept_steps(two) == thinned(list(range(1, 901)), 50)


def test_a_job_that_starts_over_has_its_first_steps_in_full(two: Journal) -> None:
    with two._writing() as connection:
        history.record(connection, [point(step) for step in range(1, 900)], 50)
        history.cut(connection, "a", "train", 0)
        history.record(connection, [point(step) for step in range(1, 40)], 50)
    assert kept_steps(two) == list(range(1, 40))


def test_points_of_reports() -> None:
    step = StepReport(
        job_id="a", step=3, total_steps=9, epoch=0.5, loss=1.5, learning_rate=0.1, grad_norm=2.0, label_tokens=4,
        tokens=8, seconds=0.25, attempt=2,
    )  # fmt: skip
    assert MetricPoint.of_step(step) == MetricPoint(
        job_id="a",
        step=3,
        kind="train",
        values={
            "epoch": 0.5, "loss": 1.5, "learning_rate": 0.1, "grad_norm": 2.0, "label_tokens": 4, "tokens": 8,
            "seconds": 0.25, "attempt": 2,
        },
    )  # fmt: skip
    evaluation = EvalReport(
        job_id="a", step=3, epoch=0.5, loss=1.5, exact_match=0.75, rows=4, label_tokens=9, seconds=0.5
    )
    assert MetricPoint.of_evaluation(evaluation).values == {
        "epoch": 0.5, "eval_loss": 1.5, "eval_exact_match": 0.75, "eval_rows": 4, "label_tokens": 9, "seconds": 0.5,
    }  # fmt: skip
