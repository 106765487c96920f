"""`loraloom preview`: a person, and every program, sees exactly what will be learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import PreTrainedTokenizerFast

from tests.field_cases import field_llama, field_spec, field_tokenizer, save_base, write_rows
from tests.orchestrator.conftest import Forked

CHAT: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "fox"}, {"role": "assistant", "content": "hello"}], "note": 1},
    {"messages": [{"role": "user", "content": "fox " * 400}, {"role": "assistant", "content": "hello"}], "note": 2},
    {"messages": [{"role": "user", "content": "[red]b"}, {"role": "assistant", "content": "ünï " * 60}], "note": 3},
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = field_tokenizer()
    return save_base(tmp_path_factory.mktemp("preview") / "tiny", field_llama(len(tokenizer)), tokenizer)


def spec_file(folder: Path, base: Path, rows: list[dict[str, Any]], **fields: Any) -> Path:
    """A spec of one job over these rows."""
    training = {"assistant_only_loss": True, "max_length": 100}
    spec = field_spec(write_rows(folder / "rows.jsonl", rows), base=base, training=training, **fields)
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


def test_json_has_each_row_its_tokens_and_what_is_learned(forked: Forked, base: Path, tmp_path: Path) -> None:
    done = forked("preview", spec_file(tmp_path, base, CHAT), "--json")
    assert done.returncode == 0, done.stderr
    [job] = json.loads(done.stdout)["jobs"]
    first, third = job["rows"]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    assert (job["name"], first["index"], first["truncated"]) == ("case", 0, False)
    assert first["learned"] == ["hello<|im_end|>\n"]
    assert first["text"].endswith("<|im_start|>assistant\nhello<|im_end|>\n")
    assert tokenizer.decode(first["ids"]) == first["text"]
    labelled = [one for one, learned in zip(first["ids"], first["labelled"], strict=True) if learned]
    assert tokenizer.decode(labelled) == "hello<|im_end|>\n"
    assert (third["index"], third["truncated"], len(third["ids"])) == (2, True, 100)
    [dropped] = job["dropped"]
    assert dropped["index"] == 1
    assert "max_length = 100" in dropped["reason"]
    assert job["columns_unused"] == ["note"]


def test_a_person_sees_the_learned_part_marked_and_what_was_dropped(forked: Forked, base: Path, tmp_path: Path) -> None:
    done = forked("preview", spec_file(tmp_path, base, CHAT))
    assert done.returncode == 0, done.stderr
    assert "⟦hello<|im_end|>↵\n⟧" in done.stdout
    assert "<|im_start|>user\n[red]b<|im_end|>" in done.stdout
    assert "row 2: dropped, its labels lie beyond max_length = 100" in done.stdout
    assert "3 rows read: 2 kept, 1 of them truncated; 1 dropped" in done.stdout
    assert "columns not used: note" in done.stdout


def test_only_the_rows_and_jobs_that_were_asked_for(forked: Forked, base: Path, tmp_path: Path) -> None:
    path = spec_file(tmp_path, base, CHAT)
    other = yaml.safe_load(path.read_text()) | {
        "name": "other",
        "eval_datasets": [{"path": str(tmp_path / "rows.jsonl")}],
    }
    path.write_text(f"{path.read_text()}---\n{yaml.safe_dump(other)}")
    done = forked("preview", path, "--job", "other", "--rows", "1", "--json")
    assert done.returncode == 0, done.stderr
    [job] = json.loads(done.stdout)["jobs"]
    assert [(row["purpose"], row["index"]) for row in job["rows"]] == [("training", 0), ("evaluation", 0)]
    wrong = forked("preview", path, "--job", "othr")
    assert wrong.returncode == 2
    assert "did you mean other?" in wrong.stderr


def test_a_bad_data_set_hides_no_other_job(forked: Forked, base: Path, tmp_path: Path) -> None:
    path = spec_file(tmp_path, base, CHAT)
    bad = yaml.safe_load(path.read_text()) | {"name": "bad", "datasets": [{"path": str(tmp_path / "rowz.jsonl")}]}
    path.write_text(f"{path.read_text()}---\n{yaml.safe_dump(bad)}")
    done = forked("preview", path, "--json")
    assert done.returncode == 2
    assert [job["name"] for job in json.loads(done.stdout)["jobs"]] == ["case"]
    assert "rowz.jsonl does not exist" in done.stderr
    assert "did you mean" in done.stderr


def test_validate_counts_what_is_cut_dropped_and_not_used(forked: Forked, base: Path, tmp_path: Path) -> None:
    path = spec_file(tmp_path, base, [*CHAT, {"messages": []}])
    strict = forked("validate", path)
    assert strict.returncode == 2
    assert "row 4" in strict.stderr
    spec = yaml.safe_load(path.read_text())
    spec["training"]["max_skipped_rows"] = 1
    path.write_text(yaml.safe_dump(spec))
    done = forked("validate", path, "--json")
    assert done.returncode == 0, done.stderr
    [job] = json.loads(done.stdout)["jobs"]
    counts = {name: job[f"rows_{name}"] for name in ("read", "truncated", "dropped", "skipped")}
    assert counts == {"read": 4, "truncated": 2, "dropped": 1, "skipped": 1}
    assert job["columns_unused"] == ["note"]
    shown = forked("validate", path)
    said = "case: 4 rows read, 2 truncated, 1 dropped, 1 passed over as they cannot be used; columns not used: note"
    assert said in shown.stdout + shown.stderr
