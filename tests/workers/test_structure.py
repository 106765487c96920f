"""What a base is and does with text is read off its modules, for every family alike, without weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jobs.errors import BaseModelError
from jobs.records import BaseKey
from tests.models import make_rows
from tests.workers.families import POSITIONS, VOCABULARY, outline, random_model
from workers.base_model import BaseModel
from workers.structure import linears, read_structure

KEY = BaseKey(model_name_or_path="tiny", revision=None, dtype="float32")
TABLES = (
    ["gpt2", "gptj", "codegen", "opt", "biogpt", "ctrl", "mpt", "bert as decoder", "roberta as decoder"]
)  # fmt: skip
ROTARY = ["llama", "neox", "mistral", "qwen2", "gemma2", "gemma3", "qwen3moe"]


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("ERROR", logger="transformers")


@pytest.mark.parametrize("family", TABLES)
def test_a_table_of_positions_limits_the_rows_at_exactly_its_length(family: str) -> None:
    structure = read_structure(outline(family))
    assert structure.most_positions == POSITIONS
    model = random_model(family)
    ids = torch.full((1, POSITIONS), 5)
    model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    ids = torch.full((1, POSITIONS + 1), 5)
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)


@pytest.mark.parametrize("family", ROTARY)
def test_positions_that_are_computed_are_no_limit_but_known(family: str) -> None:
    structure = read_structure(outline(family))
    assert structure.most_positions is None
    assert structure.usual_positions == POSITIONS


def test_a_table_that_grows_is_no_limit() -> None:
    assert read_structure(outline("xglm")).most_positions is None


def test_positions_by_distance_are_no_limit_at_all() -> None:
    structure = read_structure(outline("bloom"))
    assert structure.most_positions is structure.usual_positions is None


@pytest.mark.parametrize("family", ["bert", "xlnet", "llama that sees both ways"])
def test_attention_to_later_tokens_is_seen_before_and_after_loading(family: str) -> None:
    assert read_structure(outline(family)).sees_later_tokens
    with pytest.raises(BaseModelError, match="sees those that come after it"):
        BaseModel(random_model(family), KEY)


@pytest.mark.parametrize("family", ["llama", "bert as decoder", "roberta as decoder", "gemma2", "bloom", "llama4"])
def test_attention_to_earlier_tokens_alone_is_no_fault(family: str) -> None:
    assert not read_structure(outline(family)).sees_later_tokens
    BaseModel(random_model(family), KEY)


@pytest.mark.parametrize(
    "family, plain",
    [
        *((family, True) for family in ("llama", "gpt2", "opt", "qwen3moe", "gemma3")),
        *((family, False) for family in ("gemma2", "granite", "bert as decoder")),
    ],
)
def test_whether_logits_come_chunk_by_chunk_is_known_as_the_probe_finds_it(family: str, plain: bool) -> None:
    structure = read_structure(outline(family))
    assert structure.plain_head is plain
    assert BaseModel(random_model(family), KEY).has_plain_head is plain


def test_linears_of_a_tower_that_text_does_not_pass_are_set_apart() -> None:
    model = outline("gemma3 with a tower")
    structure = read_structure(model)
    assert all("language_model" in name for name in structure.shapes)
    assert structure.beside_text
    assert all("vision_tower" in name for name in structure.beside_text)
    assert set(structure.shapes) | structure.beside_text == set(linears(model))


@pytest.mark.parametrize("family", ["qwen3moe", "mixtral", "llama4"])
def test_experts_are_counted_by_layer(family: str) -> None:
    model = outline(family)
    experts = read_structure(model).experts
    assert experts is not None
    assert {name.rsplit(".", 1)[-1] for name in experts.names} == {"gate_up_proj", "down_proj"}
    [layer] = {name.split(".layers.")[0] for name in linears(model)}
    first = model.get_submodule(f"{layer}.layers.0")
    assert experts.layer_parameters == sum(one.numel() for one in first.parameters())
    assert experts.num_parameters == sum(first.get_parameter(name).numel() for name in experts.names)


def test_a_model_with_weights_is_read_as_its_outline_is() -> None:
    assert read_structure(random_model("gpt2")) == read_structure(outline("gpt2"))


def test_a_linear_with_a_forward_of_its_own_carries_no_adapter() -> None:
    """Llama 4's routers are linears that give back two tensors: wrapped as others are, they would fail."""
    assert not [name for name in linears(outline("llama4")) if "router" in name]


def test_a_head_is_tied_or_not() -> None:
    assert read_structure(outline("gpt2")).head_is_tied
    assert not read_structure(outline("llama")).head_is_tied
    assert read_structure(outline("llama")).head == "lm_head"
    assert read_structure(outline("llama", tie_word_embeddings=True)).head_is_tied


@pytest.mark.parametrize("tuning", [True, False], ids=["scaled queries", "chunks"])
@pytest.mark.parametrize("chunk", [8, 8192])
def test_chunks_of_attention_that_packed_rows_would_lose_make_a_base_padded(chunk: int, tuning: bool) -> None:
    changes = {"attention_chunk_size": chunk, "attn_temperature_tuning": tuning}
    assert BaseModel(random_model("llama4", **changes), KEY).layout == "padded"


@pytest.mark.parametrize("window", [4, 4096])
@pytest.mark.parametrize("family", ["mistral", "qwen2", "gemma3"])
def test_windows_that_packed_rows_keep_leave_a_base_packed(family: str, window: int) -> None:
    assert BaseModel(random_model(family, sliding_window=window), KEY).layout == "packed"


@pytest.mark.parametrize("family", ["mistral", "qwen2", "gemma2", "gemma3", "llama4"])
def test_rows_beyond_windows_and_chunks_give_what_the_plain_model_gives(family: str) -> None:
    plain, base = random_model(family), BaseModel(random_model(family), KEY)
    rows = list(make_rows(3, [25, 9, 30, 5], vocabulary=VOCABULARY))
    with torch.no_grad():
        logits, _, _ = base.label_logits(rows, [])
        alone = [plain(torch.from_numpy(row.ids)[None]).logits[0] for row in rows]
    expected = torch.cat([row[np.flatnonzero(one.labelled) - 1] for row, one in zip(alone, rows, strict=True)])
    assert (logits - expected).norm() <= 1e-5 * expected.norm()
