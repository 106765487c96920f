"""No link leads outside of `--root`, nor a file that names another: whenever it is put there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pytest
from safetensors import safe_open

from jobs.errors import LoraloomError
from tests.orchestrator.confinement.place import SECRET, Place, data, model, template, write_rows


def link(path: Path, target: Path) -> None:
    """Put a link in the place of whatever is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


@dataclass(frozen=True)
class Linked:
    """Something good, and what an attacker puts in its place."""

    blocks: Callable[[Place], dict[str, Any]]
    prepare: Callable[[Place], object]
    attack: Callable[[Place], object]


def saved_set(folder: Path, text: str) -> None:
    datasets.Dataset.from_list([{"prompt": "say:", "completion": text}]).save_to_disk(folder)


def parquet(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list([{"prompt": "say:", "completion": text}]).to_parquet(path)


def index_that_climbs(at: Place) -> None:
    weights = at.root / "base/model.safetensors"
    with safe_open(weights, "pt") as stream:
        names = list(stream.keys())
    weights.unlink()
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../../other/base/model.safetensors")}
    (at.root / "base/model.safetensors.index.json").write_text(json.dumps(index))


def adapter_elsewhere(at: Place) -> None:
    config = {"peft_type": "LORA", "base_model_name_or_path": str(at.outside / "base")}
    (at.root / "base/adapter_config.json").write_text(json.dumps(config))


def hard_link(at: Place) -> None:
    (at.root / "rows.jsonl").unlink()
    os.link(at.outside / "rows.jsonl", at.root / "rows.jsonl")


def pipe(at: Place) -> None:
    (at.root / "base/merges.txt").unlink(missing_ok=True)
    os.mkfifo(at.root / "base/merges.txt")


LINKS: dict[str, Linked] = {
    "a file": Linked(
        lambda at: data(at.root / "rows.jsonl"),
        lambda at: None,
        lambda at: link(at.root / "rows.jsonl", at.outside / "rows.jsonl"),
    ),
    "a file of data_files": Linked(
        lambda at: data("json", data_files=[str(at.root / "rows.jsonl")]),
        lambda at: None,
        lambda at: link(at.root / "rows.jsonl", at.outside / "rows.jsonl"),
    ),
    "a file that a pattern finds": Linked(
        lambda at: data("json", data_files=f"{at.root}/many/*.jsonl"),
        lambda at: write_rows(at.root / "many/a.jsonl", "ours"),
        lambda at: link(at.root / "many/b.jsonl", at.outside / "rows.jsonl"),
    ),
    "a folder of a pattern": Linked(
        lambda at: data("json", data_files=f"{at.root}/many/*/*.jsonl"),
        lambda at: write_rows(at.root / "many/a/a.jsonl", "ours"),
        lambda at: link(at.root / "many/b", at.outside / "set"),
    ),
    "a folder": Linked(
        lambda at: data(at.root / "set"),
        lambda at: write_rows(at.root / "set/train.jsonl", "ours"),
        lambda at: link(at.root / "set", at.outside / "set"),
    ),
    "a file in a folder": Linked(
        lambda at: data(at.root / "set"),
        lambda at: write_rows(at.root / "set/train.jsonl", "ours"),
        lambda at: link(at.root / "set/train.jsonl", at.outside / "rows.jsonl"),
    ),
    "a folder above": Linked(
        lambda at: data(at.root / "above/set/train.jsonl"),
        lambda at: write_rows(at.root / "above/set/train.jsonl", "ours"),
        lambda at: link(at.root / "above", at.outside),
    ),
    "the service's own": Linked(
        lambda at: data(at.root / "rows.jsonl"),
        lambda at: None,
        lambda at: link(at.root / "rows.jsonl", at.own / "rows.jsonl"),
    ),
    "parquet": Linked(
        lambda at: data(at.root / "rows.parquet"),
        lambda at: parquet(at.root / "rows.parquet", "ours"),
        lambda at: (
            parquet(at.outside / "rows.parquet", SECRET),
            link(at.root / "rows.parquet", at.outside / "rows.parquet"),
        ),
    ),
    "a saved set": Linked(
        lambda at: data(at.root / "saved"),
        lambda at: saved_set(at.root / "saved", "ours"),
        lambda at: (
            saved_set(at.outside / "saved", SECRET),
            [link(one, at.outside / "saved" / one.name) for one in (at.root / "saved").glob("*.arrow")],
        ),
    ),
    "a set's state that names a file elsewhere": Linked(
        lambda at: data(at.root / "saved"),
        lambda at: saved_set(at.root / "saved", "ours"),
        lambda at: (
            saved_set(at.outside / "saved", SECRET),
            (at.root / "saved/state.json").write_text(
                (at.root / "saved/state.json").read_text().replace('"data-', '"../../other/saved/data-')
            ),
        ),
    ),
    "another name of a file": Linked(lambda at: data(at.root / "rows.jsonl"), lambda at: None, hard_link),
    "a model's folder": Linked(
        lambda at: model(at.root / "base"), lambda at: None, lambda at: link(at.root / "base", at.outside / "base")
    ),
    "a model's weights": Linked(
        lambda at: model(at.root / "base"),
        lambda at: None,
        lambda at: link(at.root / "base/model.safetensors", at.outside / "base/model.safetensors"),
    ),
    "a model's tokenizer": Linked(
        lambda at: model(at.root / "base"),
        lambda at: None,
        lambda at: link(at.root / "base/tokenizer.json", at.outside / "base/tokenizer.json"),
    ),
    "a model's configuration": Linked(
        lambda at: model(at.root / "base"),
        lambda at: None,
        lambda at: link(at.root / "base/config.json", at.outside / "base/config.json"),
    ),
    "an index of weights that names a file elsewhere": Linked(
        lambda at: model(at.root / "base"), lambda at: None, index_that_climbs
    ),
    "a folder that names another base": Linked(lambda at: model(at.root / "base"), lambda at: None, adapter_elsewhere),
    "a pipe": Linked(lambda at: model(at.root / "base"), lambda at: None, pipe),
    "a chat template": Linked(
        lambda at: template(at, at.root / "template.jinja"),
        lambda at: None,
        lambda at: link(at.root / "template.jinja", at.outside / "template.jinja"),
    ),
    "a chat template in a folder": Linked(
        lambda at: template(at, at.root / "templates"),
        lambda at: None,
        lambda at: link(at.root / "templates/chat_template.jinja", at.outside / "template.jinja"),
    ),
}


@pytest.mark.parametrize("attempt", LINKS)
def test_what_is_put_in_place_of_a_file_after_submission_is_not_read(place: Place, attempt: str) -> None:
    linked = LINKS[attempt]
    linked.prepare(place)
    spec = place.submitted(**linked.blocks(place))
    assert place.checked(spec) == []
    assert place.trained_on(spec) >= 1
    # After the checker, before the worker.
    linked.attack(place)
    with pytest.raises(LoraloomError) as caught:
        place.trained_on(spec)
    # After submission, before the checker.
    problems = place.checked(spec)
    assert problems
    assert SECRET not in f"{caught.value}{problems}"


def test_a_link_that_stays_below_the_root_is_followed_in_every_kind_of_file(place: Place) -> None:
    kept = place.root / "kept"
    shutil.copytree(place.root / "base", kept / "base")
    shutil.copytree(kept / "base", kept / "shards")
    write_rows(kept / "rows.jsonl", "ours")
    write_rows(kept / "set/train.jsonl", "ours")
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        link(place.root / "base" / name, Path("../kept/shards") / name)
    link(place.root / "linked-base", kept / "base")
    link(place.root / "linked.jsonl", kept / "rows.jsonl")
    link(place.root / "linked", kept / "set")
    (place.root / "many").mkdir()
    link(place.root / "many/one.jsonl", Path("../kept/rows.jsonl"))
    link(place.root / "linked.jinja", place.root / "template.jinja")
    os.link(kept / "rows.jsonl", place.root / "second-name.jsonl")
    several: tuple[dict[str, Any], ...] = (
        model(place.root / "base"),
        model(place.root / "linked-base"),
        data(place.root / "linked.jsonl"),
        data(place.root / "linked"),
        data("json", data_files=f"{place.root}/many/*.jsonl"),
        data("json", data_files=str(place.root / "linked.jsonl")),
        data(place.root / "second-name.jsonl"),
        data(f"file://{place.root}/rows.jsonl"),
        template(place, place.root / "linked.jinja"),
        {"eval_datasets": [{"path": str(place.root / "linked.jsonl")}]},
    )
    for blocks in several:
        spec = place.submitted(**blocks)
        assert place.checked(spec) == []
        assert place.trained_on(spec) >= 1


def test_what_the_hub_gave_is_read_from_its_cache_wherever_that_lies(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = place.outside / "template.jinja"
    monkeypatch.setattr(
        "workers.template_files.cached_file", lambda _, name, **__: kept if name.endswith("jinja") else None
    )
    spec = place.submitted(**template(place, "org/with-a-template"))
    assert spec.model.chat_template_path == "org/with-a-template"
    assert place.checked(spec) == []
    assert place.trained_on(spec) == 1
