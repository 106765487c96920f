"""What a base cannot take of a job's rows and targets is told by preflight, at once, with the field that fixes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import DataError, Problem
from jobs.records import Assignment
from jobs.spec import JobSpec
from tests.models import make_data, make_spec, make_worker
from tests.tiny_base import write_tiny_base
from tests.workers.families import FAMILIES, POSITIONS, random_model
from workers.estimate import Estimate
from workers.preflight import Preflight


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose tokenizer the others borrow: 257 ids, one a byte."""
    return write_tiny_base(tmp_path_factory.mktemp("bases") / "plain")


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("ERROR", logger="transformers")


def make_base(folder: Path, tokenizer: Path, family: str, **changes: Any) -> Path:
    sizes: dict[str, Any] = {"vocab_size": 257}
    if "tower" in family:
        sizes = {"text_config": FAMILIES[family][1]["text_config"] | sizes}
    random_model(family, **sizes | changes).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tokenizer / name).read_bytes())
    return folder


def write(path: Path, *rows: dict[str, str]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def check(folder: Path, rows: Path, **blocks: Any) -> tuple[Estimate | None, list[Problem]]:
    spec = {"name": "job", "model": {"model_name_or_path": str(folder)}, "datasets": [{"path": str(rows)}]}
    return Preflight().check(JobSpec.model_validate(spec | blocks))


def test_rows_longer_than_the_table_of_positions_are_refused_with_the_length_that_fits(
    tokenizer: Path, tmp_path: Path
) -> None:
    folder = make_base(tmp_path / "gpt2", tokenizer, "gpt2")
    rows = write(tmp_path / "rows.jsonl", {"text": "fox"}, {"text": "x" * 119})
    estimate, [problem] = check(folder, rows)
    assert estimate is None
    assert problem.message == "rows of 120 tokens; this base has 32 positions; set training.max_length: 32"
    assert (problem.field, problem.value) == ("training.max_length", "1024")
    _, [problem] = check(folder, rows, training={"max_length": 33})
    assert "rows of 33 tokens" in problem.message
    estimate, problems = check(folder, write(tmp_path / "fitting.jsonl", {"text": "x" * (POSITIONS - 1)}))
    assert not problems
    assert estimate is not None


def test_rows_of_the_evaluation_count_as_well(tokenizer: Path, tmp_path: Path) -> None:
    folder = make_base(tmp_path / "opt", tokenizer, "opt")
    short, long = write(tmp_path / "short.jsonl", {"text": "x"}), write(tmp_path / "long.jsonl", {"text": "x" * 60})
    _, [problem] = check(folder, short, eval_datasets=[{"path": str(long)}])
    assert problem.field == "training.max_length"


def test_rows_beyond_positions_that_are_computed_get_a_note(tokenizer: Path, tmp_path: Path) -> None:
    folder = make_base(tmp_path / "llama", tokenizer, "llama")
    estimate, problems = check(folder, write(tmp_path / "rows.jsonl", {"text": "x" * 99}))
    assert not problems
    assert estimate is not None
    [note] = estimate.notes
    assert "rows of 100 tokens; this base was made for 32" in note
    assert Estimate.from_json(json.loads(json.dumps(estimate.to_json()))) == estimate


def test_ids_that_the_base_has_no_embedding_for_are_refused_only_where_they_occur(
    tokenizer: Path, tmp_path: Path
) -> None:
    folder = make_base(tmp_path / "base", tokenizer, "llama", vocab_size=200)
    low = write(tmp_path / "low.jsonl", {"prompt": "!!", "completion": "!"})
    high = write(tmp_path / "high.jsonl", {"prompt": "!!", "completion": " !"})
    assert check(folder, low)[1] == []
    _, [problem] = check(folder, high)
    assert problem.field == "model.model_name_or_path"
    assert "tokens of the rows have ids that the base has no embedding for" in problem.message
    assert "it has 200, its tokenizer more" in problem.message
    assert "resize_token_embeddings" in problem.message


def test_a_base_that_sees_later_tokens_is_refused_with_the_setting_that_it_may_lack(
    tokenizer: Path, tmp_path: Path
) -> None:
    folder = make_base(tmp_path / "bert", tokenizer, "bert")
    _, [problem] = check(folder, write(tmp_path / "rows.jsonl", {"text": "x"}))
    assert "every token sees those that come after it" in problem.message
    assert "is_decoder: true" in problem.message


def test_problems_of_base_targets_and_rows_come_at_once(tokenizer: Path, tmp_path: Path) -> None:
    folder = make_base(tmp_path / "bert", tokenizer, "bert")
    rows = write(tmp_path / "rows.jsonl", {"text": "x" * 60})
    _, problems = check(folder, rows, lora={"target_modules": ["q_porj"], "exclude_modules": ["nothing"]})
    assert [problem.field for problem in problems] == [
        "model.model_name_or_path",
        "lora.target_modules[0]",
        "lora.exclude_modules[0]",
        "training.max_length",
    ]


def test_experts_without_an_adapter_are_told(tokenizer: Path, tmp_path: Path) -> None:
    folder = make_base(tmp_path / "moe", tokenizer, "qwen3moe")
    rows = write(tmp_path / "rows.jsonl", {"text": "x"})
    estimate, problems = check(folder, rows)
    assert not problems
    assert estimate is not None
    assert "6.14 K of 9.42 K parameters per layer lie in experts that get no adapter" in estimate.notes[0]
    for entry in ("gate_proj", "mlp.experts.gate_up_proj", "experts"):
        _, [problem] = check(folder, rows, lora={"target_modules": [entry]})
        assert problem.field == "lora.target_modules[0]"
        assert "lies in the experts of this base" in problem.message
        assert "did you mean" not in problem.message


def test_a_tower_gets_no_adapter_and_it_is_said(tokenizer: Path, tmp_path: Path) -> None:
    folder = make_base(tmp_path / "gemma3", tokenizer, "gemma3 with a tower")
    rows = write(tmp_path / "rows.jsonl", {"text": "x"})
    estimate, problems = check(folder, rows)
    assert not problems
    assert estimate is not None
    assert any("text does not pass them: model.vision_tower" in note for note in estimate.notes)
    _, [problem] = check(folder, rows, lora={"target_modules": ["vision_tower.*"]})
    assert "text does not pass" in problem.message
    assert check(folder, rows, lora={"exclude_modules": ["vision_tower", "multi_modal_projector"]})[1] == []


def test_a_base_that_changes_its_logits_is_asked_room_for_all_of_them(tokenizer: Path, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", {"text": "x"})
    for family, chunked in (("gemma2", False), ("gemma3", True)):
        estimate, problems = check(make_base(tmp_path / family, tokenizer, family), rows)
        assert not problems
        assert estimate is not None
        assert estimate.base_shape.chunked_head is chunked


def test_a_worker_looks_again_so_that_no_row_too_many_meets_a_neighbour(tmp_path: Path) -> None:
    specs = [make_spec("short"), make_spec("long")]
    data = {"short": make_data(1, [5, 6]), "long": make_data(2, [5, POSITIONS + 1])}
    worker = make_worker(random_model("gpt2"), data, tmp_path)
    assert worker._admission is not None
    worker._admission.prepare(Assignment(job_id="short", spec=specs[0]))
    with pytest.raises(DataError, match="rows of 33 tokens; this base has 32 positions"):
        worker._admission.prepare(Assignment(job_id="long", spec=specs[1]))
