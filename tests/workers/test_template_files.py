"""A chat template is found wherever a tokenizer keeps it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import BaseModelError
from jobs.records import BaseKey
from jobs.spec import ModelSpec
from tests.field_cases import CHATML, field_job, field_tokenizer, write_rows
from workers.base_model import load_tokenizer
from workers.dataset import load_job_data
from workers.template_files import read_template

SIMPLE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
NAMED = [{"name": "default", "template": SIMPLE}, {"name": "tool_use", "template": CHATML}]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"chat_template.jinja": SIMPLE}, SIMPLE),
        ({"chat_template.json": json.dumps({"chat_template": SIMPLE})}, SIMPLE),
        ({"tokenizer_config.json": json.dumps({"chat_template": SIMPLE})}, SIMPLE),
        (
            {"tokenizer_config.json": json.dumps({"chat_template": NAMED})},
            {"default": SIMPLE, "tool_use": CHATML},
        ),
        ({"tokenizer_config.json": "{}", "chat_template.json": json.dumps({"chat_template": SIMPLE})}, SIMPLE),
    ],
)
def test_of_a_folder(tmp_path: Path, files: dict[str, str], expected: Any) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert read_template(str(tmp_path)) == expected
    for name in files:
        if name.endswith(".json") and files[name] != "{}":
            assert read_template(str(tmp_path / name)) == expected


def test_a_job_takes_the_template_of_a_folder(tmp_path: Path) -> None:
    base, other = tmp_path / "base", tmp_path / "other"
    field_tokenizer().save_pretrained(base)
    other.mkdir()
    (other / "tokenizer_config.json").write_text(json.dumps({"chat_template": SIMPLE}))
    spec = ModelSpec(model_name_or_path=str(base), chat_template_path=str(other))
    tokenizer = load_tokenizer(spec, BaseKey(model_name_or_path=str(base), revision=None, dtype="float32"))
    assert tokenizer.chat_template == SIMPLE


def test_a_folder_without_one_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has none: no chat_template\.jinja, and no `chat_template` in"):
        read_template(str(tmp_path))


def test_a_hub_name_that_cannot_be_fetched_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def offline(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to the hub")

    monkeypatch.setattr("workers.template_files.cached_file", offline)
    field_tokenizer().save_pretrained(tmp_path / "base")
    spec = ModelSpec(model_name_or_path=str(tmp_path / "base"), chat_template_path="Qwen/Qwen3-0.6B")
    key = BaseKey(model_name_or_path=str(tmp_path / "base"), revision=None, dtype="float32")
    with pytest.raises(BaseModelError, match=r"Qwen/Qwen3-0\.6B is neither a file nor a folder here") as caught:
        load_tokenizer(spec, key)
    assert caught.value.field == "model.chat_template_path"


def test_a_hub_names_template_is_its_tokenizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").write_text(json.dumps({"chat_template": SIMPLE}))
    kept = {"tokenizer_config.json": str(tmp_path / "config")}
    monkeypatch.setattr("workers.template_files.cached_file", lambda _, name, **__: kept.get(name))
    assert read_template("Qwen/Qwen3-0.6B") == SIMPLE


def test_named_templates_are_chosen_by_whether_there_are_tools(tmp_path: Path) -> None:
    tokenizer = field_tokenizer()
    tokenizer.chat_template = {"default": SIMPLE, "tool_use": CHATML}  # type: ignore[assignment]
    turns = [{"role": "user", "content": "fox"}, {"role": "assistant", "content": "hello"}]
    tools = [{"name": "add", "parameters": {"type": "object"}}]
    rows = write_rows(tmp_path / "rows.jsonl", [{"messages": turns}, {"messages": turns, "tools": tools}])
    plain, with_tools = load_job_data(field_job(rows), tokenizer).train
    assert tokenizer.decode(plain.ids) == "user: fox\nassistant: hello\n"
    assert "<|im_start|>assistant\nhello<|im_end|>" in tokenizer.decode(with_tools.ids)
