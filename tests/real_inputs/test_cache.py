"""The cache: where it is, and that a folder in it is whole or absent."""

import pytest

from tests.real_inputs import RealInputsError, cache_dir, data_file, require, smollm2_dir
from tests.real_inputs.folders import is_complete, publishing


def test_the_variable_names_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORALOOM_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path.resolve()
    assert smollm2_dir() == tmp_path.resolve() / "smollm2-135m-instruct"
    monkeypatch.delenv("LORALOOM_CACHE")
    assert cache_dir().parts[-2:] == (".cache", "real-inputs")


def test_an_unknown_data_file_is_named_with_those_there_are():
    with pytest.raises(KeyError, match=r"no data file 'trec.jsonl'; there are trec-coarse.train.jsonl"):
        data_file("trec.jsonl")


def test_an_empty_cache_is_reported_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("LORALOOM_CACHE", str(tmp_path))
    with pytest.raises(RealInputsError, match=r"lacks smollm2-135m-instruct, .*data.*make real-inputs.*LORALOOM_CACHE"):
        require()


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "product"

    def fail_halfway():
        with publishing(folder, "1") as scratch:
            (scratch / "a").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert list(tmp_path.iterdir()) == []

    with publishing(folder, "1") as scratch:
        (scratch / "a").write_text("whole")
    assert list(tmp_path.iterdir()) == [folder]
    assert is_complete(folder, "1")


def test_a_folder_of_another_recipe_or_with_a_cut_file_is_not_complete(tmp_path):
    folder = tmp_path / "product"
    with publishing(folder, "1") as scratch:
        (scratch / "a").write_text("whole")
    assert not is_complete(folder, "2")
    (folder / "a").write_text("who")
    assert not is_complete(folder, "1")
    with publishing(folder, "2") as scratch:
        (scratch / "b").write_text("next")
    assert is_complete(folder, "2")
    assert not (folder / "a").exists()
