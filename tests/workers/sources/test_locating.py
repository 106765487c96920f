"""Which files a block means, and which of its fields would do nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, Split

from jobs.errors import DataError
from tests.workers.sources.reading import read, refusal, source, write


def lines(*texts: str) -> str:
    return "".join(f'{{"text": "{text}"}}\n' for text in texts)


def texts(path: Path | str, **block: Any) -> list[str]:
    return [row["text"] for row in read(path, **block)]


@pytest.mark.parametrize(
    "name", ["d[v2].jsonl", "what?.jsonl", "a*b.jsonl", "my data (v2) ünï/train set.jsonl", "[x]/y.csv"]
)
def test_a_name_that_looks_like_a_pattern_is_a_name(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, "text\na\n" if name.endswith("csv") else lines("a"))
    write(tmp_path / "dv.jsonl", lines("another"))
    assert texts(path) == ["a"]
    assert texts("csv" if name.endswith("csv") else "json", data_files=str(path)) == ["a"]


def test_patterns_are_read_in_the_order_of_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("part-2.jsonl", "part-10.jsonl", "part-1.jsonl", "deep/er/part-3.jsonl", ".hidden.jsonl"):
        write(tmp_path / name, lines(name))
    monkeypatch.chdir(tmp_path)
    flat = ["part-1.jsonl", "part-10.jsonl", "part-2.jsonl"]
    assert texts("json", data_files="part-*.jsonl") == flat
    assert texts("part-*.jsonl") == flat
    assert texts(str(tmp_path / "part-*.jsonl")) == flat
    assert texts("json", data_files=["part-2.jsonl", "part-1*.jsonl"]) == [
        "part-2.jsonl",
        "part-1.jsonl",
        "part-10.jsonl",
    ]
    assert texts("**/part-*.jsonl") == ["deep/er/part-3.jsonl", *flat]
    assert "matches no file" in refusal("part-*.csv")
    assert "matches no file" in refusal("json", data_files="none-*.jsonl")


def test_a_folder_is_split_by_its_names_as_datasets_does(tmp_path: Path) -> None:
    folder = tmp_path / "my data [v2]"
    write(folder / "train.jsonl", lines("a", "b"))
    write(folder / "test.jsonl", lines("c"))
    write(folder / ".cache" / "train.jsonl", lines("hidden"))
    write(folder / "README.md", "# A data set\n")
    assert texts(folder) == ["a", "b"]
    assert texts(folder, split="test") == ["c"]
    assert texts(folder, split="test+train[1:]") == ["c", "b"]
    assert texts(folder, data_files="te*.jsonl") == ["c"]
    assert texts(folder, data_files="te*.jsonl", split="test") == ["c"]
    assert "has no split `validation`: its splits are train, test" in refusal(folder, split="validation")
    assert "has no file nothing.jsonl" in refusal(folder, data_files="nothing.jsonl")
    assert "has no configuration `en`" in refusal(folder, name="en")


def test_a_folder_of_shards_and_one_without_splits(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "a" / "data" / f"train-0000{number}-of-00003.csv", f"text\n{number}\n")
        write(tmp_path / "b" / f"x{number}.csv", f"text\n{number}\n")
    assert texts(tmp_path / "a") == texts(tmp_path / "b") == ["0", "1", "2"]
    write(tmp_path / "b" / "y.jsonl", lines("z"))
    assert "files of several formats (csv, json)" in refusal(tmp_path / "b")
    (tmp_path / "empty").mkdir()
    assert "is a folder without data files" in refusal(tmp_path / "empty")


def test_the_card_of_a_folder_names_configurations(tmp_path: Path) -> None:
    write(tmp_path / "en" / "a.csv", "text\nen\n")
    write(tmp_path / "de" / "a.csv", "text;n\nde;1\n")
    card = """---
configs:
- config_name: en
  data_files: en/*.csv
- config_name: de
  sep: ";"
  data_files:
  - split: train
    path: de/*.csv
- config_name: odd
  skiprows: 3
  data_files: en/*.csv
---
"""
    write(tmp_path / "README.md", card)
    assert texts(tmp_path, name="en") == ["en"]
    assert texts(tmp_path, name="de") == ["de"]
    assert "set `name` to one of en, de, odd" in refusal(tmp_path)
    assert "has no configuration `fr`: it has en, de, odd" in refusal(tmp_path, name="fr")
    assert "README.md asks for skiprows, which is not supported" in refusal(tmp_path, name="odd")


def test_what_save_to_disk_wrote_is_read(tmp_path: Path) -> None:
    """F35 of the cases from the field."""
    rows = [{"text": text, "messages": [{"role": "user", "content": text}]} for text in "abcd"]
    table = Dataset.from_list(rows)
    table.save_to_disk(str(tmp_path / "one"), num_shards=2)
    DatasetDict(train=table.select([0]), test=table.select([1, 2])).save_to_disk(str(tmp_path / "dict"))
    assert read(tmp_path / "one") == rows
    assert texts(tmp_path / "one", split="train[-1:]") == ["d"]
    assert texts(tmp_path / "dict") == ["a"]
    assert texts(tmp_path / "dict", split="test") == ["b", "c"]
    assert texts(tmp_path / "dict" / "test") == ["b", "c"]
    assert "has no split `validation`: its splits are train, test" in refusal(tmp_path / "dict", split="validation")
    Dataset.from_list(rows, split=Split.TEST).save_to_disk(str(tmp_path / "test"))
    assert texts(tmp_path / "test") == texts(tmp_path / "test", split="test") == ["a", "b", "c", "d"]
    assert "has no split `validation`: its splits are test" in refusal(tmp_path / "test", split="validation")
    assert "data_files does nothing" in refusal(tmp_path / "one", data_files="a.jsonl")


@pytest.mark.parametrize("split, expected", [
    ("train[:20%]", "01"), ("train[80%:]", "89"), ("train[-2:]", "89"), ("train[3:5]+train[:1]", "340"),
    ("train[8:]", "89"), ("test[:2]", "01"), ("train[5:99]", "56789"),
])  # fmt: skip
def test_slices_are_those_of_datasets(split: str, expected: str, tmp_path: Path) -> None:
    for name, content in {"r.jsonl": lines(*"0123456789"), "r.csv": "text\n" + "\n".join("0123456789")}.items():
        assert "".join(texts(write(tmp_path / name, content), split=split)) == expected
    Dataset.from_list([{"text": text} for text in "0123456789"]).to_parquet(str(tmp_path / "r.parquet"))
    assert "".join(texts(tmp_path / "r.parquet", split=split, max_samples=3)) == expected[:3]


@pytest.mark.parametrize("split", ["train[", "train[5]", "train[:20 percent]", "my split", "train[:200%]", "+"])
def test_a_split_that_cannot_be_read_is_told_with_what_can(split: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", lines("a"))
    with pytest.raises(DataError, match="is no split that can be read: write train") as caught:
        source(path, split=split)
    assert caught.value.field == "datasets[3].split"
    assert "has no split `test`: it is one split" in refusal(path, split="train+test")
    assert "has no rows in train[5:]" in refusal(path, split="train[5:]")


@pytest.mark.parametrize("field", ["name", "revision"])
def test_a_field_that_would_do_nothing_is_refused_by_name(field: str, tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", "text\na\n")
    for block in ({"path": str(path)}, {"path": "csv", "data_files": str(path)}, {"path": str(tmp_path)}):
        with pytest.raises(DataError) as caught:
            source(block.pop("path"), **block, **{field: "x"})
        assert caught.value.field == f"datasets[3].{field}"


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "train.csv", "text\na\n")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "data").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "round").symlink_to(folder)
    assert texts(folder) == ["a"]


def test_what_is_no_file_or_cannot_be_looked_at_is_told_as_such(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.jsonl")
    assert "can be read only once" in refusal(tmp_path / "rows.jsonl")
    assert "cannot be read: File name too long" in refusal(tmp_path / f"{'x' * 300}.jsonl")
    (tmp_path / "gone.csv").symlink_to(tmp_path / "nothing.csv")
    assert "does not exist" in refusal(tmp_path / "gone.csv")
    write(tmp_path / "file.txt", "a")
    assert "does not exist" in refusal(tmp_path / "file.txt" / "rows.csv")


def test_addresses_are_refused_as_such() -> None:
    assert "is an address: download the file" in refusal("https://example.org/rows.jsonl")
    assert "is an address: download the file" in refusal("json", data_files="s3://bucket/rows.jsonl")


def test_local_files_need_no_cache(tmp_path: Path) -> None:
    """F31 of the cases from the field: no folder of a cache can be made, and nothing is asked of the network."""
    write(tmp_path / "rows.jsonl", lines("a"))
    write(tmp_path / "folder" / "train.csv", "text\na\n")
    Dataset.from_list([{"text": "a"}]).save_to_disk(str(tmp_path / "saved"))
    script = """
from jobs.spec import DatasetSpec
from workers.sources import open_rows
for path in ("rows.jsonl", "folder", "saved"):
    block = DatasetSpec.model_validate({"path": path, "split": "train[:100%]"})
    assert list(open_rows(block, field="f")) == [{"text": "a"}]
"""
    gone = dict.fromkeys(("HOME", "HF_HOME", "HF_DATASETS_CACHE", "HF_HUB_CACHE", "XDG_CACHE_HOME"), "/proc/x")
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | gone | {"PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
