"""A base is packed where rows then give what each gives alone, padded everywhere else, and right in both."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import PreTrainedModel

from jobs.errors import BaseModelError
from jobs.records import BaseKey
from jobs.spec import ModelSpec
from tests.models import (
    DTYPE_NAMES,
    VOCABULARY,
    admit,
    make_data,
    make_rows,
    make_spec,
    make_worker,
    norms_in_own_dtype,
    tiny_gpt2,
    tiny_llama,
)
from tests.parity.oracle import compare, noise_floor, point_five, train_alone
from tests.tiny_base import write_tiny_base
from workers.attention import PACKED_ROWS
from workers.base_model import BaseModel, load_tokenizer, read_blueprint
from workers.lane import LabelHead
from workers.lora import MultiAdapterLinear

KEY = BaseKey(model_name_or_path="tiny", revision=None, dtype="float32")
LLAMA_LIKE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "head_dim": 8,
}
NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
BLOOM = {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2, **NO_DROPOUT}
FALCON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.2,
    "alibi": True,
    **NO_DROPOUT,
}
MAMBA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "state_size": 4,
    "initializer_range": 0.2,
    "time_step_rank": 4,
}


def random_model(family: str, **config: Any) -> PreTrainedModel:
    """A model of any family, with the attention that transformers chooses for it."""
    settings = getattr(transformers, f"{family}TextConfig" if family == "Gemma3" else f"{family}Config")(**config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, f"{family}ForCausalLM")(settings).eval()


PACKABLE: dict[str, Callable[[], PreTrainedModel]] = {
    "Llama": tiny_llama,
    "GPT-2": tiny_gpt2,
    "Qwen2": lambda: random_model("Qwen2", **LLAMA_LIKE),
    "Qwen3": lambda: random_model("Qwen3", **LLAMA_LIKE),
    "Mistral, sliding window": lambda: random_model("Mistral", **LLAMA_LIKE, sliding_window=4),
    "Gemma 3, sliding window in some layers": lambda: random_model("Gemma3", **LLAMA_LIKE, sliding_window=4),
}
NOT_PACKABLE: dict[str, Callable[[], PreTrainedModel]] = {
    "BLOOM: positions by ALiBi": lambda: random_model("Bloom", **BLOOM),
    "Falcon: attention of its own": lambda: random_model("Falcon", **FALCON),
    "Mamba: a recurrence over tokens": lambda: random_model("Mamba", **MAMBA),
    "Gemma 2: capped scores": lambda: random_model("Gemma2", **LLAMA_LIKE, sliding_window=4),
}
EVERY = {**PACKABLE, **NOT_PACKABLE}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    """transformers tells at length about token ids of its default configs."""
    logging.getLogger("transformers").setLevel(logging.ERROR)


@pytest.mark.parametrize("name", PACKABLE)
def test_a_model_that_asks_the_attention_interface_is_packed(name: str) -> None:
    base = BaseModel(PACKABLE[name](), KEY)
    assert base.layout == "packed"
    assert base.model.config._attn_implementation == PACKED_ROWS


@pytest.mark.parametrize("name", NOT_PACKABLE)
def test_a_model_that_would_mix_packed_rows_is_padded_with_its_own_attention(name: str) -> None:
    model = NOT_PACKABLE[name]()
    usual = model.config._attn_implementation
    base = BaseModel(model, KEY)
    assert base.layout == "padded"
    assert base.model.config._attn_implementation == usual != PACKED_ROWS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2])
def test_packing_does_not_depend_on_the_type_of_the_weights(
    build: Callable[..., PreTrainedModel], dtype: torch.dtype
) -> None:
    assert BaseModel(build(dtype), KEY).layout == "packed"


@pytest.mark.parametrize("name", EVERY)
def test_label_logits_of_rows_together_are_those_of_the_plain_model_on_each_row(name: str) -> None:
    plain, base = EVERY[name](), BaseModel(EVERY[name](), KEY)
    rows = list(make_rows(3, [5, 2, 11, 7]))
    with torch.no_grad():
        logits, labels, num_padding = base.label_logits(rows, [])
        alone = [plain(torch.from_numpy(row.ids)[None]).logits[0] for row in rows]
    expected = torch.cat([row[np.flatnonzero(one.labelled) - 1] for row, one in zip(alone, rows, strict=True)])
    assert logits.shape == (sum(row.num_labels for row in rows), VOCABULARY)
    assert (logits - expected).norm() <= 1e-5 * expected.norm()
    assert labels.tolist() == [int(one) for row in rows for one in row.ids[row.labelled]]
    assert num_padding == (0 if base.layout == "packed" else 4 * 11 - 25)


@pytest.mark.parametrize("name", [name for name in NOT_PACKABLE if not name.startswith("Gemma")])
def test_training_on_a_padded_base_equals_peft(name: str, tmp_path: Path) -> None:
    # transformers computes Mamba's recurrence in fp32 whatever the dtype of its weights.
    dtype = torch.float32 if "Mamba" in name else torch.float64
    specs = [
        make_spec(
            job,
            dtype=dtype,
            lora={
                "r": r,
                "lora_alpha": 8,
                "target_modules": ["in_proj", "x_proj"] if "Mamba" in name else "all-linear",
            },
            training={
                "max_steps": 6,
                "per_device_train_batch_size": 2,
                "gradient_accumulation_steps": 2,
                "learning_rate": 3e-3,
                "weight_decay": 0.1,
                "seed": r,
            },
        )
        for job, r in (("one", 2), ("two", 5))
    ]
    data = {spec.name: make_data(spec.lora.r, [6, 3, 9, 4, 12, 5, 7]) for spec in specs}
    model = NOT_PACKABLE[name]().to(dtype)
    worker = make_worker(copy.deepcopy(model), data, tmp_path)
    with norms_in_own_dtype():
        trained = admit(worker, specs)
        while not worker.is_idle:
            trained.reports += worker.step()
        for spec in specs:
            padded, unpadded = (
                train_alone(model, spec, data[spec.name].train, trained.initial[spec.name], num_steps=6, row_by_row=one)
                for one in (False, True)
            )
            bound = point_five(dtype, [noise_floor(padded, unpadded)])
            errors = compare(trained.losses(spec.name), trained.final(spec.name), padded)
            assert errors.loss <= bound.loss
            assert errors.adapter <= bound.adapter


def test_the_base_is_frozen_in_evaluation_mode_with_every_linear_wrapped_but_the_head() -> None:
    model = tiny_llama()
    head = model.get_output_embeddings()
    base = BaseModel(model.train(), KEY)
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    wrapped = {name for name, one in base.model.named_modules() if isinstance(one, MultiAdapterLinear)}
    assert wrapped == set(base.shapes)
    outer = base.model.get_output_embeddings()
    assert isinstance(outer, LabelHead)
    assert outer.head is head


def test_the_fingerprint_changes_with_a_single_bit_of_a_single_weight() -> None:
    base = BaseModel(tiny_gpt2(), KEY)
    assert base.fingerprint == base.weights_sha256() == BaseModel(tiny_gpt2(), KEY).fingerprint
    weight = base.model.get_submodule("transformer.h.1.mlp.c_fc").base_layer.weight
    weight.data[0, 0] = math.nextafter(float(weight[0, 0]), math.inf) * (1 + 2**-23)
    assert base.weights_sha256() != base.fingerprint


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_base_on_disk_is_described_without_its_weights_and_loaded_as_it_is(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    model = tiny_llama(dtype)
    model.save_pretrained(tmp_path)
    blueprint = read_blueprint(ModelSpec(model_name_or_path=str(tmp_path)))
    assert blueprint.key.dtype == DTYPE_NAMES[dtype]
    base = BaseModel.load(blueprint.key)
    assert base.shapes == blueprint.shapes
    assert base.module_names == blueprint.module_names
    assert base.dtype == dtype
    assert blueprint.base_bytes == sum(one.numel() * one.dtype.itemsize for one in base.model.parameters())
    assert base.fingerprint == BaseModel(model, KEY).fingerprint


def test_a_base_without_fused_attention_is_loaded_all_the_same(tmp_path: Path) -> None:
    random_model("Bloom", **BLOOM).save_pretrained(tmp_path)
    base = BaseModel.load(read_blueprint(ModelSpec(model_name_or_path=str(tmp_path))).key)
    assert base.layout == "padded"


def test_two_spellings_of_a_folder_are_one_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_llama().save_pretrained(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    spellings = ("./base", str(tmp_path / "base"), str(tmp_path / "base" / ".." / "base"))
    assert len({read_blueprint(ModelSpec(model_name_or_path=name)).key for name in spellings}) == 1


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_a_base_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(BaseModelError, match="there is no folder") as caught:
        read_blueprint(ModelSpec(model_name_or_path=name))
    assert caught.value.field == "model.model_name_or_path"
    assert name in str(caught.value)


def test_a_folder_without_a_model_and_a_model_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"no config\.json"):
        read_blueprint(ModelSpec(model_name_or_path=str(tmp_path)))
    (tmp_path / "config.json").write_text('{"model_type": "vit"}', encoding="utf-8")
    with pytest.raises(BaseModelError, match="not a causal language model"):
        read_blueprint(ModelSpec(model_name_or_path=str(tmp_path)))


def test_missing_weights_and_a_missing_tokenizer_are_said_to_be_missing(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    spec = ModelSpec(model_name_or_path=str(tmp_path))
    key = read_blueprint(spec).key
    with pytest.raises(BaseModelError, match="tokenizer"):
        load_tokenizer(spec, key)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(BaseModelError, match="weights cannot be loaded"):
        BaseModel.load(key)


def test_a_chat_template_is_a_file_that_ends(tmp_path: Path) -> None:
    base = write_tiny_base(tmp_path / "base")
    large = tmp_path / "large.jinja"
    large.write_text("x" * (2**20 + 1))
    for path, told in (("/dev/zero", "is not a file"), (str(large), "larger than"), (str(tmp_path / "no"), "No such")):
        spec = ModelSpec(model_name_or_path=str(base), chat_template_path=path)
        with pytest.raises(BaseModelError, match=told):
            load_tokenizer(spec, BaseKey(model_name_or_path=str(base), revision=None, dtype="float32"))
