"""Weights that are missing, cut off, damaged or quantized are told before anything loads; `.bin` weights load."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from jobs.errors import BaseModelError
from jobs.spec import JobSpec, ModelSpec
from tests.models import tiny_llama
from tests.tiny_base import write_rows, write_tiny_base
from workers import stored_weights
from workers.base_model import BaseModel, read_blueprint
from workers.preflight import Preflight
from workers.weight_files import find_weights

SINGLE = "model.safetensors"
SHARD = "model-00002-of-00005.safetensors"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("bases") / "plain")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "sharded"
    tiny_llama().save_pretrained(folder, max_shard_size="30KB")
    assert (folder / SHARD).is_file()
    return folder


def copy_of(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "base"))


def configure(folder: Path, **values: object) -> None:
    """Set values in config.json; `None` removes one."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | values
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}), encoding="utf-8")


def to_bin(folder: Path) -> None:
    torch.save(load_file(folder / SINGLE), folder / "pytorch_model.bin")
    (folder / SINGLE).unlink()


def dtype_of(folder: Path) -> str:
    return read_blueprint(ModelSpec(model_name_or_path=str(folder))).key.dtype


def problems_of(folder: Path, rows: Path, **blocks: object) -> list[str]:
    spec = {"name": "job", "model": {"model_name_or_path": str(folder)}, "datasets": [{"path": str(rows)}]}
    estimate, problems = Preflight().check(JobSpec.model_validate(spec | blocks))
    assert (estimate is None) == bool(problems)
    return [str(problem) for problem in problems]


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def write_header(path: Path, header: bytes, data: bytes = b"") -> None:
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def test_whole_weights_are_found_with_the_type_that_they_are_stored_in(plain: Path, sharded: Path) -> None:
    assert find_weights(plain).dtype == "float32"
    assert [file.name for file in find_weights(sharded).files] == sorted(
        file.name for file in sharded.glob("*.safetensors")
    )


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda folder: (folder / SINGLE).unlink(), "holds no weights: there is no model.safetensors"),
    "weights of another kind": (
        lambda folder: (folder / SINGLE).rename(folder / "model.h5"),
        r"no weights that can be loaded: model\.h5 .* save_pretrained",
    ),
    "cut off in the data": (
        lambda folder: cut(folder / SINGLE, 20_000),
        "20,000 bytes long and its header promises",
    ),
    "cut off in the header": (lambda folder: cut(folder / SINGLE, 100), "header does not fit; fetch it again"),
    "empty": (lambda folder: cut(folder / SINGLE, 0), "header does not fit"),
    "a longer file": (
        lambda folder: (folder / SINGLE).write_bytes((folder / SINGLE).read_bytes() + b"x"),
        "header promises",
    ),
    "a header of letters": (lambda folder: write_header(folder / SINGLE, b"not json at all"), "header .* is damaged"),
    "a header of a list": (lambda folder: write_header(folder / SINGLE, b"[1]"), "header .* is damaged"),
    "a header without places": (
        lambda folder: write_header(folder / SINGLE, b'{"a":{"dtype":"F32"}}'),
        "header .* is damaged",
    ),
    "no tensors": (lambda folder: write_header(folder / SINGLE, b"{}"), "holds no tensors"),
    "a page of a web server": (
        lambda folder: (folder / SINGLE).write_text("<html>" + "not found " * 100, encoding="utf-8"),
        "header does not fit",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_are_told_by_validate_beside_what_else_is_wrong(
    damage: str, plain: Path, tmp_path: Path
) -> None:
    folder = copy_of(plain, tmp_path)
    make, told = DAMAGES[damage]
    make(folder)
    with pytest.raises(BaseModelError, match=told):
        find_weights(folder)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": 1}\n', encoding="utf-8")
    fields = [one.split(":")[0] for one in problems_of(folder, rows, lora={"target_modules": ["q_porj"]})]
    assert fields == ["model.model_name_or_path", "lora.target_modules[0]", "datasets[0]"]


def test_missing_shards_are_named(sharded: Path, tmp_path: Path) -> None:
    folder = copy_of(sharded, tmp_path)
    (folder / SHARD).unlink()
    with pytest.raises(BaseModelError, match=f"1 of 5 files of the weights are missing: {SHARD}"):
        find_weights(folder)


def test_a_shard_of_another_model_is_noticed(sharded: Path, tmp_path: Path) -> None:
    folder = copy_of(sharded, tmp_path)
    save_file({"other": torch.zeros(2)}, folder / SHARD)
    with pytest.raises(BaseModelError, match=f"{SHARD} does not hold the tensor"):
        find_weights(folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', '{"weight_map": {}}'])
def test_a_broken_index_is_told(content: str, sharded: Path, tmp_path: Path) -> None:
    folder = copy_of(sharded, tmp_path)
    (folder / "model.safetensors.index.json").write_text(content, encoding="utf-8")
    with pytest.raises(BaseModelError, match=r"model\.safetensors\.index\.json"):
        find_weights(folder)


def test_bin_weights_are_loaded_as_the_same_base(plain: Path, tmp_path: Path) -> None:
    folder = copy_of(plain, tmp_path)
    to_bin(folder)
    spec = ModelSpec(model_name_or_path=str(folder))
    assert read_blueprint(spec).problems == ()
    ours = BaseModel.load(read_blueprint(spec).key)
    theirs = BaseModel.load(read_blueprint(ModelSpec(model_name_or_path=str(plain))).key)
    assert ours.fingerprint == theirs.fingerprint


class _Harm:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return Path.touch, (Path("harm.txt"),)  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("content", [pickle.dumps({"a": _Harm()}), b"", b"garbage"], ids=["code", "empty", "garbage"])
def test_a_bin_file_that_is_no_plain_tensors_is_refused_without_running_it(
    content: bytes, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of(plain, tmp_path)
    (folder / SINGLE).unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BaseModelError, match=r"pytorch_model\.bin is damaged or holds more than tensors"):
        find_weights(folder)
    assert not (tmp_path / "harm.txt").exists()


@pytest.mark.parametrize("as_bin", [False, True], ids=["safetensors", "bin"])
def test_the_type_of_weights_whose_config_names_none_is_read_from_them(as_bin: bool, tmp_path: Path) -> None:
    tiny_llama(torch.bfloat16).save_pretrained(tmp_path)
    configure(tmp_path, dtype=None)
    if as_bin:
        to_bin(tmp_path)
    assert dtype_of(tmp_path) == "bfloat16"


def test_the_old_name_of_the_type_is_understood(tmp_path: Path) -> None:
    tiny_llama(torch.bfloat16).save_pretrained(tmp_path)
    configure(tmp_path, dtype=None, torch_dtype="bfloat16")
    assert dtype_of(tmp_path) == "bfloat16"


@pytest.mark.parametrize(
    "stored, told",
    [
        ({"load_in_4bit": True, "quant_method": "bitsandbytes"}, "stored in 4 bits (bitsandbytes)"),
        ({"load_in_8bit": True}, "stored in 8 bits (bitsandbytes)"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "stored in 4 bits (gptq)"),
        ({"quant_method": "awq", "bits": 4}, "stored in 4 bits (awq)"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "stored quantized (fp8)"),
        ({"quant_method": "mxfp4"}, "stored quantized (mxfp4)"),
        ({"quant_method": "compressed-tensors", "format": "int-quantized"}, "stored quantized (compressed-tensors)"),
    ],
    ids=lambda value: value.get("quant_method", "old bitsandbytes") if isinstance(value, dict) else None,
)
def test_a_quantized_base_is_refused_with_its_storage(
    stored: dict[str, object], told: str, plain: Path, tmp_path: Path
) -> None:
    folder = copy_of(plain, tmp_path)
    configure(folder, quantization_config=stored)
    [problem] = problems_of(folder, write_rows(tmp_path / "rows.jsonl"))
    assert told in problem
    assert "name the unquantized model" in problem


def test_weights_that_lack_a_tensor_are_no_base(plain: Path, tmp_path: Path) -> None:
    """transformers fills what is missing with random numbers and warns."""
    folder = copy_of(plain, tmp_path)
    tensors = load_file(folder / SINGLE)
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    key = read_blueprint(ModelSpec(model_name_or_path=str(folder))).key
    with pytest.raises(BaseModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight; they would be random"):
        BaseModel.load(key)


class _Hub:
    def __init__(self, files: list[str]) -> None:
        self._files = files

    def list_repo_files(self, name: str, *, revision: str | None) -> list[str]:
        return self._files

    def parse_safetensors_file_metadata(self, name: str, file: str, *, revision: str | None) -> SimpleNamespace:
        return SimpleNamespace(tensors={"ids": SimpleNamespace(dtype="I64"), "w": SimpleNamespace(dtype="BF16")})


def test_weights_on_a_hub_are_looked_at_where_they_lie(monkeypatch: pytest.MonkeyPatch, sharded: Path) -> None:
    index = sharded / "model.safetensors.index.json"
    monkeypatch.setattr(stored_weights, "hf_hub_download", lambda *_, **__: str(index))
    whole = [file.name for file in sharded.iterdir()]
    for files, told in (
        (["config.json", "model.gguf"], "no weights that can be loaded"),
        ([name for name in whole if name != SHARD], f"the first is {SHARD}"),
    ):
        monkeypatch.setattr(stored_weights, "HfApi", lambda files=files: _Hub(files))
        with pytest.raises(BaseModelError, match=told):
            stored_weights.look_at_weights("someone/model", None)
    monkeypatch.setattr(stored_weights, "HfApi", lambda: _Hub(whole))
    assert stored_weights.look_at_weights("someone/model", None) == "bfloat16"
