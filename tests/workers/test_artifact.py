"""What is exported opens in PEFT and computes the same, is the same bytes every time, and tells when it was changed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import PreTrainedModel

from jobs.artifacts import verify
from jobs.ledger import Ledger
from jobs.records import BaseKey
from jobs.spec import JobSpec
from tests.models import make_rows, make_spec, tiny_gpt2, tiny_llama
from tests.workers.families import outline
from workers import artifact
from workers.adapter import Adapter, allocate, initialise
from workers.artifact import Provenance, export, vllm_command, why_not_vllm
from workers.base_model import BaseModel
from workers.lora import Segment
from workers.structure import read_structure
from workers.targets import resolve

KEY = BaseKey(model_name_or_path="tiny", revision=None, dtype="float32")
FILES = {"README.md", "adapter_config.json", "adapter_model.safetensors", "manifest.json"}

LLAMA_SPECS: dict[str, dict[str, Any]] = {
    "all linears": {"r": 4, "lora_alpha": 8},
    "names": {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "mlp.down_proj"], "lora_dropout": 0.3},
    "globs": {"r": 2, "target_modules": ["*self_attn*", "layers.1?mlp?up_proj"]},
    "an exclusion": {"r": 2, "exclude_modules": ["layers.0?*", "o_proj"]},
    "rank pattern": {"r": 4, "lora_alpha": 8, "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 6}},
    "rank and alpha patterns": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj", "o_proj"],
        "rank_pattern": {"layers.0.self_attn.q_proj": 1, "q_proj": 2},
        "alpha_pattern": {"layers.0.self_attn.q_proj": 3, "v_proj": 5},
    },
    "rslora": {"r": 8, "lora_alpha": 3, "use_rslora": True},
    "rslora with patterns": {
        "r": 4,
        "lora_alpha": 3,
        "use_rslora": True,
        "rank_pattern": {"k_proj": 3},
        "alpha_pattern": {"up_proj": 7, "k_proj": 2},
    },
    "a rank by full names": {"r": 2, "lora_alpha": 8, "rank_pattern": {"layers.1.*.q_proj": 8}},
    "a rank by full names, rslora": {"r": 2, "use_rslora": True, "rank_pattern": {"model.layers.1.*.q_proj": 8}},
    "the output head": {
        "r": 3,
        "lora_alpha": 5,
        "target_modules": ["q_proj", "lm_head"],
        "rank_pattern": {"lm_head": 2},
    },
    "the output head alone": {"r": 2, "target_modules": ["lm_head"]},
    "an alpha that divides nothing": {"r": 7, "lora_alpha": 0.3},
}
GPT2_SPECS: dict[str, dict[str, Any]] = {
    "all linears": {"r": 4, "lora_alpha": 8},
    "names": {"r": 3, "target_modules": ["c_attn"]},
    "names of two places": {"r": 3, "target_modules": ["c_proj"], "rank_pattern": {"mlp.c_proj": 5}},
    "alpha pattern": {"r": 3, "lora_alpha": 4, "alpha_pattern": {"attn.c_proj": 9}},
}
CASES = [
    *(pytest.param(tiny_llama, lora, id=f"llama: {name}") for name, lora in LLAMA_SPECS.items()),
    *(pytest.param(tiny_gpt2, lora, id=f"gpt2: {name}") for name, lora in GPT2_SPECS.items()),
]


def source_of(spec: JobSpec, **changes: Any) -> Provenance:
    return Provenance(
        ledger=Ledger(),
        **{
            "job_id": "job-1",
            "spec": spec,
            "base": KEY,
            "model_type": "llama",
            "base_fingerprint": "b" * 64,
            "train_fingerprint": "d" * 64,
            "eval_fingerprint": None,
            "num_threads": 1,
            "last_step": None,
            "first_eval": None,
            "last_eval": None,
            "best_metric": None,
            "best_step": None,
            **changes,
        },
    )


def exported(folder: Path, model: PreTrainedModel, lora: dict[str, Any]) -> tuple[BaseModel, Adapter, JobSpec]:
    """A random adapter (B not zero, so that it changes the model) in a folder."""
    spec = make_spec("job", lora=lora | {"init_lora_weights": False})
    base = BaseModel(model, KEY)
    targets = resolve(spec.lora, base.structure)
    adapter = allocate(targets, dtype=torch.float32, device=torch.device("cpu"))
    initialise(adapter, spec.lora, 3)
    export(adapter, base.structure.adaptable, source_of(spec), folder)
    return base, adapter, spec


@pytest.mark.parametrize("build, lora", CASES)
def test_the_artifact_opens_in_peft_and_computes_what_was_trained(
    build: Any, lora: dict[str, Any], tmp_path: Path
) -> None:
    base, adapter, _ = exported(tmp_path / "artifact", build(), lora)
    opened = PeftModel.from_pretrained(build(), str(tmp_path / "artifact")).eval()
    merged = PeftModel.from_pretrained(build(), str(tmp_path / "artifact")).merge_and_unload().eval()
    bare = build()
    rows = list(make_rows(5, [4, 9, 2], share_labelled=1.0))
    changed = 0.0
    with torch.no_grad():
        for row in rows:
            segment = Segment(start=0, stop=len(row.ids), path=(adapter.factors,))
            ours, _, _ = base.label_logits([row], [segment])
            ids = torch.from_numpy(row.ids)[None]
            theirs, folded, plain = (model(ids).logits[0, :-1] for model in (opened, merged, bare))
            assert (ours - theirs).norm() <= 2e-6 * theirs.norm()
            assert (ours - folded).norm() <= 1e-5 * folded.norm()
            changed += float((plain - theirs).norm() / theirs.norm())
    assert changed > 0.1
    assert PeftModel.from_pretrained(build(), str(tmp_path / "artifact")).peft_config["default"].peft_type == "LORA"


@pytest.mark.parametrize("build, lora", CASES)
def test_weights_hold_every_factor_once_under_pefts_names_with_one_scale_for_all(
    build: Any, lora: dict[str, Any], tmp_path: Path
) -> None:
    """vLLM ignores rank and alpha patterns: alpha/r of the config must be right for every module as it stands."""
    _, adapter, spec = exported(tmp_path / "artifact", build(), lora)
    tensors = load_file(tmp_path / "artifact" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "artifact" / "adapter_config.json").read_text(encoding="utf-8"))
    assert set(tensors) == {
        f"base_model.model.{name}.lora_{factor}.weight" for name in adapter.factors for factor in "AB"
    }
    scale = config["lora_alpha"] / (config["r"] ** 0.5 if config["use_rslora"] else config["r"])
    for name, factors in adapter.factors.items():
        a_RI = tensors[f"base_model.model.{name}.lora_A.weight"]
        b_OR = tensors[f"base_model.model.{name}.lora_B.weight"]
        assert a_RI.dtype == b_OR.dtype == torch.float32
        assert torch.equal(a_RI, factors.a_RI)
        ours = factors.scale * factors.b_OR @ factors.a_RI
        assert (scale * b_OR @ a_RI - ours).norm() <= 1e-6 * ours.norm()
    assert config["target_modules"] == sorted(config["target_modules"])
    assert not any(set(entry) & set("*?[") for entry in config["target_modules"])
    assert config["auto_mapping"] is None
    assert config["r"] == spec.lora.r


def test_equal_weights_give_equal_bytes_in_every_file(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        exported(tmp_path / folder, tiny_llama(), LLAMA_SPECS["rank and alpha patterns"])
    assert {path.name for path in (tmp_path / "first").iterdir()} == FILES
    for name in FILES:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_an_existing_folder_is_never_written_into(tmp_path: Path) -> None:
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError):
        exported(tmp_path / "artifact", tiny_llama(), {"r": 2})
    assert [path.name for path in (tmp_path / "artifact").iterdir()] == ["mine.txt"]


def test_verify_gives_the_manifest_of_an_artifact_that_is_as_it_was_written(tmp_path: Path) -> None:
    _, adapter, spec = exported(tmp_path / "artifact", tiny_llama(), {"r": 2})
    manifest = verify(tmp_path / "artifact")
    assert set(manifest["files"]) == FILES - {"manifest.json"}
    assert manifest["trainable_parameters"] == adapter.num_parameters
    assert f"```\n{manifest['vllm_command']}\n```" in (tmp_path / "artifact" / "README.md").read_text(encoding="utf-8")
    assert manifest["spec_sha256"] == spec.spec_sha256()
    assert manifest["base"]["weights_sha256"] == "b" * 64
    assert JobSpec.model_validate(manifest["spec"]) == spec


@pytest.mark.parametrize("name", sorted(FILES - {"manifest.json"}))
def test_verify_notices_a_single_bit_anywhere_in_any_file(name: str, tmp_path: Path) -> None:
    exported(tmp_path / "artifact", tiny_llama(), {"r": 1, "target_modules": ["q_proj"]})
    path = tmp_path / "artifact" / name
    whole = path.read_bytes()
    for position in {0, len(whole) // 3, len(whole) // 2, len(whole) - 1}:
        for bit in (0, 7):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << bit
            path.write_bytes(flipped)
            with pytest.raises(ValueError, match=name):
                verify(tmp_path / "artifact")
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=name):
        verify(tmp_path / "artifact")
    path.unlink()
    with pytest.raises(ValueError, match="missing"):
        verify(tmp_path / "artifact")


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"{}", b'{"files": 3}', b"\xff"])
def test_verify_refuses_an_artifact_without_a_readable_manifest(content: bytes | None, tmp_path: Path) -> None:
    exported(tmp_path / "artifact", tiny_llama(), {"r": 1})
    manifest = tmp_path / "artifact" / "manifest.json"
    manifest.unlink() if content is None else manifest.write_bytes(content)
    with pytest.raises(ValueError, match=r"manifest\.json cannot be read"):
        verify(tmp_path / "artifact")


@pytest.mark.parametrize(
    "lora, expected",
    [
        ({"r": 1}, 1),
        ({"r": 2}, 8),
        ({"r": 8}, 8),
        ({"r": 9}, 16),
        ({"r": 4, "rank_pattern": {"q_proj": 20}}, 32),
        ({"r": 512}, 512),
        ({"r": 513}, None),
    ],
)
def test_the_vllm_command_names_the_smallest_rank_that_vllm_takes(lora: dict[str, Any], expected: int | None) -> None:
    spec = make_spec("job", lora=lora)
    command = vllm_command(source_of(spec), resolve(spec.lora, BaseModel(tiny_llama(), KEY).structure))
    assert command is None if expected is None else f"--max-lora-rank {expected} " in str(command)


@pytest.mark.parametrize("model_type", ["gpt2", "opt", "gemma3", "bloom"])
def test_no_vllm_command_is_given_for_a_base_whose_adapters_vllm_is_not_known_to_serve(model_type: str) -> None:
    spec = make_spec("job", lora={"r": 8})
    source = replace(source_of(spec), model_type=model_type)
    targets = resolve(spec.lora, BaseModel(tiny_llama(), KEY).structure)
    assert vllm_command(source, targets) is None
    assert model_type in str(why_not_vllm(source, targets))


def test_short_names_that_fit_a_tower_as_well_are_written_in_full() -> None:
    """PEFT puts factors on every linear that a short name fits, on a tower's too."""
    structure = read_structure(outline("gemma3 with a tower"))
    spec = make_spec("job", lora={"r": 4, "target_modules": ["q_proj", "down_proj"]})
    targets = resolve(spec.lora, structure)
    assert len(targets) == 4
    config = artifact.peft_config(spec, KEY, targets, structure.shapes, beside_text=structure.beside_text)
    assert config["target_modules"] == sorted(targets)


def test_pattern_keys_are_escaped_full_names() -> None:
    """They are regular expressions in PEFT, where a bare dot would match anything."""
    spec = make_spec("job", lora={"r": 4, "rank_pattern": {"q_proj": 2}})
    structure = BaseModel(tiny_llama(), KEY).structure
    config = artifact.peft_config(spec, KEY, resolve(spec.lora, structure), structure.shapes)
    assert all("\\." in key for key in config["rank_pattern"])
    assert len(config["rank_pattern"]) == len(config["alpha_pattern"]) == 3
