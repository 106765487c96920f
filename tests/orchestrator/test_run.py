"""`loraloom run` end to end, in process: real worker, real files, tiny base."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from peft import PeftModel
from rich.console import Console
from transformers import AutoModelForCausalLM

from jobs.artifacts import verify
from jobs.errors import SpecError
from orchestrator.journal import Journal, JournalLocked
from orchestrator.run import RunOptions, run
from orchestrator.summary import RunSummary
from tests.published import content

WriteSpecs = Callable[..., Path]


def run_in_process(specs: Path, output_dir: Path, **options: Any) -> RunSummary:
    quiet = Console(stderr=True, quiet=True)
    return run(RunOptions(specs=(specs,), output_dir=output_dir, in_process=True, **options), quiet)


def states(summary: RunSummary) -> dict[str, str]:
    return {job.name: job.state for job in summary.jobs}


def problems_of(specs: Path, output_dir: Path) -> list[str]:
    with pytest.raises(SpecError) as caught:
        run_in_process(specs, output_dir)
    return [str(problem) for problem in caught.value.problems]


def test_every_job_ends_with_an_artifact_that_peft_opens(
    tmp_path: Path, write_specs: WriteSpecs, tiny_base: Path
) -> None:
    specs = write_specs({}, {"lora": {"r": 8, "target_modules": "all-linear"}}, {"training": {"optim": "sgd"}})
    summary = run_in_process(specs, tmp_path / "out")
    assert states(summary) == dict.fromkeys(("job-0", "job-1", "job-2"), "SUCCEEDED")
    for job in summary.jobs:
        assert job.artifact is not None
        manifest = verify(Path(job.artifact))
        assert manifest["metrics"]["eval_loss"] == job.eval_loss
        base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, job.artifact)
        assert sum(weights.abs().sum() for name, weights in model.named_parameters() if "lora_B" in name) > 0


def test_training_learns_the_task(tmp_path: Path, write_specs: WriteSpecs) -> None:
    specs = write_specs({"training": {"max_steps": 60, "eval_strategy": "steps", "eval_steps": 20}})
    [job] = run_in_process(specs, tmp_path / "out").jobs
    history = [json.loads(line) for line in (tmp_path / "out/metrics/job-0.jsonl").read_text().splitlines()]
    evaluations = {line["step"]: line["eval_loss"] for line in history if "eval_loss" in line}
    assert list(evaluations) == [0, 20, 40, 60]
    assert job.eval_loss == evaluations[60] < evaluations[0] / 2
    steps = [line["step"] for line in history if "loss" in line]
    assert steps == [1, 10, 20, 30, 40, 50, 60]
    wanted = {"step", "epoch", "loss", "learning_rate", "grad_norm", "label_tokens", "tokens", "seconds", "attempt"}
    assert all(set(line) == wanted for line in history if "loss" in line)


def test_two_runs_give_the_same_bytes(tmp_path: Path, write_specs: WriteSpecs) -> None:
    specs = write_specs({"lora": {"lora_dropout": 0.2}}, {"training": {"gradient_accumulation_steps": 2}})
    for name in ("one", "two"):
        run_in_process(specs, tmp_path / name)
    folders = sorted(path.name for path in (tmp_path / "one/artifacts").iterdir())
    assert len(folders) == 2
    for name in folders:
        one, two = (content(tmp_path / run / "artifacts" / name) for run in ("one", "two"))
        assert len(one) == 4
        assert one == two


def test_unlike_bases_get_workers_of_their_own(tmp_path: Path, write_specs: WriteSpecs, other_base: Path) -> None:
    specs = write_specs({}, {"model": {"model_name_or_path": str(other_base)}}, {})
    summary = run_in_process(specs, tmp_path / "out", workers=2)
    assert set(states(summary).values()) == {"SUCCEEDED"}
    bases = {job.name: verify(Path(job.artifact or ""))["base"]["model_name_or_path"] for job in summary.jobs}
    assert bases["job-1"] == str(other_base)
    assert bases["job-0"] == bases["job-2"] != bases["job-1"]


def test_with_one_device_bases_take_turns(tmp_path: Path, write_specs: WriteSpecs, other_base: Path) -> None:
    specs = write_specs({}, {"model": {"model_name_or_path": str(other_base)}})
    assert set(states(run_in_process(specs, tmp_path / "out", workers=1)).values()) == {"SUCCEEDED"}


def test_a_job_that_diverges_fails_alone(tmp_path: Path, write_specs: WriteSpecs) -> None:
    diverging = {"training": {"learning_rate": 3e38, "max_steps": 30}}
    summary = run_in_process(write_specs({}, diverging, {}), tmp_path / "out")
    assert states(summary) == {"job-0": "SUCCEEDED", "job-1": "FAILED", "job-2": "SUCCEEDED"}
    assert not summary.ok
    failed = summary.jobs[1]
    assert failed.reason == "nonfinite"
    assert "3 steps in a row" in failed.message
    assert failed.artifact is None
    assert not (tmp_path / "out/artifacts/job-1").exists()
    assert "skipped" in (tmp_path / "out/logs/job-1.log").read_text()


def test_run_again_trains_only_what_has_not_finished(tmp_path: Path, write_specs: WriteSpecs) -> None:
    first = run_in_process(write_specs({}), tmp_path / "out")
    weights = tmp_path / "out/artifacts/job-0/adapter_model.safetensors"
    written = weights.stat().st_mtime_ns
    again = run_in_process(write_specs({}, {}), tmp_path / "out")
    assert states(again) == {"job-0": "SUCCEEDED", "job-1": "SUCCEEDED"}
    assert again.jobs[0].reason == "finished_before"
    assert again.jobs[0].eval_loss == first.jobs[0].eval_loss
    assert weights.stat().st_mtime_ns == written


def test_another_spec_under_a_finished_name_is_refused_with_what_changed(
    tmp_path: Path, write_specs: WriteSpecs
) -> None:
    run_in_process(write_specs({}), tmp_path / "out")
    specs = write_specs({"training": {"learning_rate": 0.5}})
    [problem] = problems_of(specs, tmp_path / "out")
    assert problem.startswith(f"{specs}:1: name: ")
    assert "training.learning_rate: 0.01 then, 0.5 now" in problem


def test_a_damaged_artifact_is_refused_not_trusted(tmp_path: Path, write_specs: WriteSpecs) -> None:
    run_in_process(write_specs({}), tmp_path / "out")
    weights = tmp_path / "out/artifacts/job-0/adapter_model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    [problem] = problems_of(write_specs({}), tmp_path / "out")
    assert "adapter_model.safetensors is not what was written" in problem


def test_two_runs_cannot_share_a_directory(tmp_path: Path, write_specs: WriteSpecs) -> None:
    (tmp_path / "out").mkdir()
    with (
        Journal(tmp_path / "out/journal.db"),
        pytest.raises(JournalLocked, match=f"is being written by process {os.getpid()} on .*name another folder"),
    ):
        run_in_process(write_specs({}), tmp_path / "out")


def test_nothing_half_written_stays_behind(tmp_path: Path, write_specs: WriteSpecs) -> None:
    run_in_process(write_specs({}, {}), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "artifacts", "checkpoints", "journal.db", "journal.db.lock", "logs", "loss.png", "metrics",
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "out/artifacts").iterdir()) == ["job-0", "job-1"]


def test_problems_of_all_jobs_come_at_once_with_their_lines(tmp_path: Path, write_specs: WriteSpecs) -> None:
    specs = write_specs(
        {"lora": {"target_modules": ["q_prj"]}},
        {"datasets": [{"path": "nowhere.jsonl"}]},
        {"model": {"model_name_or_path": "./no-such-base"}},
    )
    found = problems_of(specs, tmp_path / "out")
    lines = specs.read_text().splitlines()
    wanted = ["q_prj", "nowhere.jsonl", "./no-such-base"]
    assert len(found) == 3
    for problem, text in zip(found, wanted, strict=True):
        line = next(number for number, content in enumerate(lines, start=1) if text in content)
        assert problem.startswith(f"{specs}:{line}: "), problem
    assert "did you mean q_proj" in found[0]
    assert not list((tmp_path / "out").glob("artifacts/*"))


@pytest.mark.parametrize(
    "content, expected",
    [
        ('{"prompt": "a", "completion": "b"}\n{"prompt": "a", "completion": }\n', "row 2 is not valid JSON"),
        ('{"prompt": "a", "completion": "b"}\n{"prompt": "a", "completion": null}\n', "row 2: column `completion`"),
        ('{"prompt": "a", "completion": "b"}\n{"prompt": 3, "completion": {"x": 1}}\n', "row 2: column `completion`"),
        ('{"question": "a", "answer": "b"}\n', "of no known shape"),
        ("", "is empty"),
    ],
)
def test_bad_rows_are_refused_before_anything_starts(
    tmp_path: Path, write_specs: WriteSpecs, content: str, expected: str
) -> None:
    data = tmp_path / "bad.jsonl"
    data.write_text(content, encoding="utf-8")
    [problem] = problems_of(write_specs({"datasets": [{"path": str(data)}]}), tmp_path / "out")
    assert expected in problem
    assert str(data) in problem


def test_all_labels_masked_is_refused_with_the_reason(tmp_path: Path, write_specs: WriteSpecs) -> None:
    specs = write_specs({"training": {"max_length": 3}})
    [problem] = problems_of(specs, tmp_path / "out")
    assert "all labels of all 24 rows are masked" in problem
    assert "max_length = 3" in problem


def test_a_picture_that_cannot_be_drawn_changes_nothing_else(
    tmp_path: Path, write_specs: WriteSpecs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("orchestrator.run.plot_losses", full_disk)
    assert run_in_process(write_specs({}), tmp_path / "out").ok


def test_a_broken_csv_row_is_named(tmp_path: Path, write_specs: WriteSpecs) -> None:
    data = tmp_path / "bad.csv"
    data.write_text('prompt,completion\na,b\n"c,d\n', encoding="utf-8")
    [problem] = problems_of(write_specs({"datasets": [{"path": str(data)}]}), tmp_path / "out")
    assert "bad.csv: row 2 (line 3)" in problem
    assert "never closed" in problem


def test_csv_and_parquet_rows_train_like_jsonl(tmp_path: Path, write_specs: WriteSpecs, rows: Path) -> None:
    table = pandas.read_json(rows, lines=True)
    table.to_csv(tmp_path / "rows.csv", index=False)
    table.to_parquet(tmp_path / "rows.parquet")
    exact = {"scheduling": {"packing": "exact"}}
    specs = write_specs(
        {"datasets": [{"path": str(tmp_path / "rows.csv")}]} | exact,
        {"datasets": [{"path": str(tmp_path / "rows.parquet")}]} | exact,
        exact,
    )
    csv, parquet, jsonl = run_in_process(specs, tmp_path / "out").jobs
    for other in (csv, parquet):
        assert (other.train_loss, other.eval_loss) == (jsonl.train_loss, jsonl.eval_loss)
