"""The life of a job on a worker as its reports tell it: evaluations, steps, figures, end."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from jobs.errors import DataError
from jobs.records import Assignment, EvalReport, JobState, LogReport, Report, StateReport, StepReport
from jobs.spec import JobSpec
from tests.models import Trained, admit, make_data, make_spec, make_worker, tiny_llama, train
from workers.dataset import JobData, TokenisedRows
from workers.worker import Worker


def spec_of(name: str = "job", *, lora: dict[str, Any] | None = None, **training: Any) -> JobSpec:
    return make_spec(name, lora={"r": 4, **(lora or {})}, training={"learning_rate": 1e-2, **training})


def plain_loss(model: PreTrainedModel, rows: TokenisedRows) -> tuple[float, float]:
    """Mean loss over label tokens, and share of rows predicted in full, by the bare model row by row."""
    loss_sum, num_labels, exact = 0.0, 0, 0
    for row in rows:
        with torch.no_grad():
            logits = model(torch.from_numpy(row.ids)[None]).logits[0, :-1][torch.from_numpy(row.labelled[1:])]
        labels = torch.from_numpy(row.ids[row.labelled])
        loss_sum += float(F.cross_entropy(logits, labels, reduction="sum"))
        num_labels += len(labels)
        exact += bool((logits.argmax(-1) == labels).all())
    return loss_sum / num_labels, exact / len(rows)


def test_the_evaluation_before_training_is_the_bare_models_weighted_by_tokens(tmp_path: Path) -> None:
    """Rows of unlike lengths, batches of unlike sizes: a mean of means would be another number."""
    model = tiny_llama()
    data = make_data(1, [4, 5], held_out=[2, 11, 3, 9, 2, 2, 14])
    assert data.evaluation is not None
    # One row that the model predicts in full, so that exact match is neither 0 nor 1.
    with torch.no_grad():
        for _ in range(3):
            row = data.evaluation[0]
            data.evaluation._ids[1] = int(model(torch.from_numpy(row.ids)[None]).logits[0, 0].argmax())
    expected, exact = plain_loss(model, data.evaluation)
    spec = spec_of(max_steps=1, per_device_eval_batch_size=3)
    trained = train(make_worker(tiny_llama(), {"job": data}, tmp_path), [spec])
    before = trained.evaluations("job")[0]
    assert before.step == 0
    assert before.loss == pytest.approx(expected, rel=1e-6)
    assert before.exact_match == exact == 1 / 7
    assert (before.rows, before.label_tokens) == (7, data.evaluation.num_labels)


@pytest.mark.parametrize(
    "training, expected",
    [
        ({"max_steps": 5}, [0, 5]),
        ({"max_steps": 5, "eval_strategy": "steps", "eval_steps": 2}, [0, 2, 4, 5]),
        ({"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2}, [0, 2, 4]),
        ({"num_train_epochs": 2, "per_device_train_batch_size": 2, "eval_strategy": "epoch"}, [0, 3, 6]),
        ({"num_train_epochs": 1.5, "per_device_train_batch_size": 2, "eval_strategy": "epoch"}, [0, 3, 5]),
    ],
)
def test_a_job_is_evaluated_before_at_the_steps_it_names_and_after(
    training: dict[str, Any], expected: list[int], tmp_path: Path
) -> None:
    # The rows to evaluate on are injected, so a spec that names none is told so unless it is made in two steps.
    strategy = {"eval_strategy": training.get("eval_strategy", "no")}
    plain = spec_of(**training | {"eval_strategy": "no"})
    spec = plain.model_copy(update={"training": plain.training.model_copy(update=strategy)})
    data = make_data(1, [3, 4, 5, 6, 7], held_out=[4, 5])
    trained = train(make_worker(tiny_llama(), {"job": data}, tmp_path), [spec])
    assert [report.step for report in trained.evaluations("job")] == expected
    places = [
        (report.step, isinstance(report, EvalReport))
        for report in trained.reports
        if isinstance(report, StepReport | EvalReport)
    ]
    assert places == sorted(places)


def test_reports_tell_a_whole_life_in_order_and_survive_pickling(tmp_path: Path) -> None:
    data = JobData(
        train=make_data(1, [3, 4]).train, evaluation=make_data(2, [5]).train, notes=("three rows truncated",)
    )
    worker = make_worker(tiny_llama(), {"job": data}, tmp_path)
    worker.assign([Assignment(job_id="job", spec=spec_of(max_steps=2, logging_steps=100))])
    reports: list[Report] = []
    while not worker.is_idle:
        reports += worker.step()
    kinds = [type(report) for report in reports]
    assert kinds == [LogReport, StateReport, EvalReport, StepReport, StepReport, EvalReport, StateReport]
    assert isinstance(reports[0], LogReport)
    assert reports[0].message == "three rows truncated"
    assert [report.state for report in reports if isinstance(report, StateReport)] == [
        JobState.RUNNING,
        JobState.SUCCEEDED,
    ]
    assert all(report.logged for report in reports if isinstance(report, StepReport))
    assert pickle.loads(pickle.dumps(reports)) == reports
    assert worker.step() == []


def test_the_manifest_holds_the_figures_of_the_last_step_and_of_the_evaluations(tmp_path: Path) -> None:
    """At this rate of learning what was held out gets worse in the end."""
    data = make_data(1, [3, 4, 6], held_out=[5, 7])
    training = {"max_steps": 12, "learning_rate": 0.05, "eval_strategy": "steps", "eval_steps": 2}
    spec = make_spec("job", training=training, eval_datasets=[{"path": "injected.jsonl"}])
    trained = train(make_worker(tiny_llama(), {"job": data}, tmp_path), [spec])
    staged = trained.end("job").staged_artifact
    assert staged is not None
    metrics = json.loads((Path(staged) / "manifest.json").read_text(encoding="utf-8"))["metrics"]
    before, *between, after = trained.evaluations("job")
    best = min(between, key=lambda one: one.loss)
    assert best.loss < min(before.loss, after.loss)
    assert metrics == {
        "eval_loss_best": best.loss,
        "eval_loss_best_step": best.step,
        "step": 12,
        "train_loss": trained.losses("job")[-1],
        "eval_loss_before": before.loss,
        "eval_exact_match_before": before.exact_match,
        "eval_loss": after.loss,
        "eval_exact_match": after.exact_match,
    }


def test_steps_are_logged_first_last_and_every_so_many(tmp_path: Path) -> None:
    spec = spec_of(max_steps=8, logging_steps=3)
    trained = train(make_worker(tiny_llama(), {"job": make_data(1, [3, 4])}, tmp_path), [spec])
    assert [report.step for report in trained.steps("job") if report.logged] == [1, 3, 6, 8]


def test_a_worker_counts_the_tokens_that_were_trained_on(tmp_path: Path) -> None:
    names = ("one", "two")
    data = {name: make_data(number, [3, 4, 8], held_out=[9]) for number, name in enumerate(names)}
    worker = make_worker(tiny_llama(), data, tmp_path)
    trained = train(worker, [spec_of(name, max_steps=4) for name in names])
    status = worker.status()
    assert status.tokens == sum(step.tokens for name in names for step in trained.steps(name)) == 2 * 4 * 15
    assert 0 < status.busy_seconds <= status.wall_seconds
    shares = sum(report.seconds for report in trained.reports if isinstance(report, StepReport | EvalReport))
    assert 0 < shares <= status.busy_seconds


def test_a_job_whose_rows_or_targets_cannot_be_used_fails_before_it_is_admitted(tmp_path: Path) -> None:
    def load(spec: JobSpec, key: object, now: object) -> JobData:
        if spec.name == "unreadable":
            raise DataError("rows.jsonl: row 7: no text", field="datasets[0]")
        return make_data(1, [3, 4])

    worker = make_worker(tiny_llama(), {}, tmp_path)
    worker._admission._load_data = load
    specs = [
        spec_of("unreadable", max_steps=1),
        spec_of("lost", lora={"target_modules": ["nowhere"]}, max_steps=1),
        spec_of("fine", max_steps=1),
    ]
    trained = train(worker, specs)
    ends = {name: (trained.end(name).state, trained.end(name).reason) for name in ("unreadable", "lost", "fine")}
    assert ends == {
        "unreadable": (JobState.FAILED, "data"),
        "lost": (JobState.FAILED, "invalid"),
        "fine": (JobState.SUCCEEDED, "finished"),
    }
    assert "row 7" in trained.end("unreadable").message
    assert "its linear layers are called" in trained.end("lost").message


def test_a_released_job_leaves_nothing_whether_it_waits_or_runs(tmp_path: Path) -> None:
    data = {name: make_data(1, [3, 4]) for name in ("running", "waiting")}
    worker: Worker = make_worker(tiny_llama(), data, tmp_path)
    trained: Trained = admit(worker, [spec_of("running", max_steps=50)])
    worker.step()
    worker.assign([Assignment(job_id="waiting", spec=spec_of("waiting", max_steps=50))])
    assert worker.release("waiting")
    assert worker.release("running")
    assert worker.is_idle
    assert worker.step() == []
    assert list(tmp_path.iterdir()) == []
    assert trained.runs["running"].step == 1


def test_a_second_attempt_on_a_worker_discards_what_the_first_has_staged(tmp_path: Path) -> None:
    worker = make_worker(tiny_llama(), {"job": make_data(1, [3, 4])}, tmp_path)
    ends = [train(worker, [spec_of(max_steps=1)]).end("job") for _ in range(2)]
    assert [end.state for end in ends] == [JobState.SUCCEEDED, JobState.SUCCEEDED]
    assert ends[0].staged_artifact == ends[1].staged_artifact


def test_a_changed_priority_counts_for_a_running_job_from_the_next_round_on(tmp_path: Path) -> None:
    data = {name: make_data(number, [8, 8, 8]) for number, name in enumerate(("high", "low"))}
    # A token budget of one: the two never share a pack, so that priority decides who runs.
    worker = make_worker(tiny_llama(), data, tmp_path, token_budget=1)
    specs = {name: spec_of(name, max_steps=500, logging_steps=500, gradient_accumulation_steps=1) for name in data}
    worker.assign([Assignment(job_id=name, spec=spec, priority=5) for name, spec in specs.items()])

    def steps(rounds: int) -> dict[str, int]:
        before = {job_id: run.step for job_id, run in worker.runs().items()}
        for _ in range(rounds):
            worker.step()
        return {job_id: run.step - before.get(job_id, 0) for job_id, run in worker.runs().items()}

    worker.step()
    assert steps(16) == {"high": 16, "low": 16}
    worker.prioritise("low", 3)
    worker.prioritise("nobody", 3)
    shares = steps(32)
    assert shares["high"] == 32
    assert shares["low"] == pytest.approx(8, abs=1)
    worker.prioritise("low", 5)
    assert steps(16) == {"high": 16, "low": 16}
