"""Which linears a spec means, with what rank and scale, and what is said where it means none."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from jobs.errors import Problem, SpecError
from jobs.spec import LoraSpec
from tests.models import tiny_gpt2, tiny_llama
from workers.structure import LinearShape, linears, read_structure
from workers.target_names import matches
from workers.targets import Target, resolve

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
LLAMA = tiny_llama()
SHAPES = linears(LLAMA)
STRUCTURE = read_structure(LLAMA)


def resolved(**lora: Any) -> dict[str, Target]:
    return resolve(LoraSpec(**lora), STRUCTURE)


def layers(short: str) -> set[str]:
    part = "self_attn" if short in ATTENTION else "mlp"
    return {f"model.layers.{layer}.{part}.{short}" for layer in range(3)}


def error_of(**lora: Any) -> Problem:
    with pytest.raises(SpecError) as caught:
        resolved(**lora)
    [problem] = caught.value.problems
    return problem


def test_linears_are_all_but_the_output_head_with_their_widths() -> None:
    assert set(SHAPES) == set().union(*(layers(short) for short in ATTENTION + FEED_FORWARD))
    assert SHAPES["model.layers.0.self_attn.k_proj"] == LinearShape(in_features=32, out_features=16)
    assert SHAPES["model.layers.2.mlp.down_proj"] == LinearShape(in_features=48, out_features=32)
    gpt2 = linears(tiny_gpt2())
    assert len(gpt2) == 8
    assert gpt2["transformer.h.1.mlp.c_fc"] == LinearShape(in_features=32, out_features=128, is_conv1d=True)


def test_all_linear_means_every_linear_in_the_models_own_order() -> None:
    assert list(resolved(target_modules="all-linear")) == list(SHAPES)


@pytest.mark.parametrize(
    "entries, expected",
    [
        (["q_proj"], layers("q_proj")),
        (["v_proj", "q_proj"], layers("q_proj") | layers("v_proj")),
        (["self_attn.q_proj"], layers("q_proj")),
        (["layers.1.self_attn.q_proj"], {"model.layers.1.self_attn.q_proj"}),
        (["model.layers.1.self_attn.q_proj"], {"model.layers.1.self_attn.q_proj"}),
        (["*_proj"], set(SHAPES)),
        (["[qk]_proj"], layers("q_proj") | layers("k_proj")),
        (["?_proj"], set().union(*(layers(short) for short in ATTENTION))),
        (["*self_attn*"], set().union(*(layers(short) for short in ATTENTION))),
        (["layers.2?*"], {name for name in SHAPES if ".2." in name}),
    ],
)
def test_names_mean_the_whole_name_or_its_end_at_a_dot_and_may_be_globs(entries: list[str], expected: set[str]) -> None:
    assert set(resolved(target_modules=entries)) == expected


@pytest.mark.parametrize("entry", ["proj", "q", "attn.q_proj", "Q_PROJ", "layers.1"])
def test_part_of_a_name_is_no_match(entry: str) -> None:
    assert not any(matches(name, entry) for name in SHAPES)


def test_order_of_entries_does_not_matter_and_doubles_count_once() -> None:
    assert list(resolved(target_modules=["v_proj", "q_proj"])) == list(
        resolved(target_modules=["q_proj", "v_proj", "*q_proj"])
    )


def test_excluded_modules_are_left_alone_where_targets_match_them() -> None:
    kept = resolved(target_modules="all-linear", exclude_modules=["*mlp*", "layers.0.self_attn.q_proj"])
    expected = set().union(*(layers(short) for short in ATTENTION)) - {"model.layers.0.self_attn.q_proj"}
    assert set(kept) == expected


def test_first_matching_pattern_decides_rank_and_alpha() -> None:
    targets = resolved(
        r=8,
        lora_alpha=16,
        target_modules=["q_proj", "v_proj", "o_proj"],
        rank_pattern={"layers.0.self_attn.q_proj": 2, "q_proj": 4},
        alpha_pattern={"o_proj": 5},
    )
    figures = {(target.r, target.alpha, target.scale) for name, target in targets.items() if name.endswith("v_proj")}
    assert figures == {(8, 16.0, 2.0)}
    first = targets["model.layers.0.self_attn.q_proj"]
    assert (first.r, first.scale, first.num_parameters) == (2, 8.0, 2 * (32 + 32))
    assert (targets["model.layers.1.self_attn.q_proj"].r, targets["model.layers.1.self_attn.q_proj"].scale) == (4, 4.0)
    assert targets["model.layers.2.self_attn.o_proj"].scale == 5 / 8


def test_rslora_scales_by_the_root_of_each_modules_own_rank() -> None:
    targets = resolved(
        r=9, lora_alpha=6, use_rslora=True, target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 4}
    )
    assert targets["model.layers.0.self_attn.q_proj"].scale == 2.0
    assert targets["model.layers.0.self_attn.v_proj"].scale == 6 / math.sqrt(4)


@pytest.mark.parametrize("entry, nearest", [("q_porj", "q_proj"), ("query_proj", "q_proj"), ("mlp.up_prj", "up_proj")])
def test_an_unknown_name_is_answered_with_the_nearest(entry: str, nearest: str) -> None:
    error = error_of(target_modules=["v_proj", entry])
    assert error.field == "lora.target_modules[1]"
    assert error.value == entry
    assert f"did you mean {nearest}" in str(error) or f" or {nearest}" in str(error)


def test_a_name_like_none_is_answered_with_those_there_are() -> None:
    error = error_of(target_modules=["zzz"])
    assert "did you mean" not in str(error)
    assert all(short in str(error) for short in ATTENTION + FEED_FORWARD)


@pytest.mark.parametrize("entry", ["embed_tokens", "model.embed_tokens"])
def test_the_embedding_is_refused_with_the_reason(entry: str) -> None:
    error = error_of(target_modules=["q_proj", entry])
    assert error.field == "lora.target_modules[1]"
    assert "input embedding" in str(error)


def test_a_tied_head_is_refused_with_the_reason() -> None:
    with pytest.raises(SpecError, match="tied embeddings") as caught:
        resolve(LoraSpec(target_modules=("c_attn", "lm_head")), read_structure(tiny_gpt2()))
    assert caught.value.problems[0].field == "lora.target_modules[1]"


@pytest.mark.parametrize("entry", ["lm_head", "*head"])
def test_an_untied_head_is_a_target_where_it_is_named(entry: str) -> None:
    targets = resolved(target_modules=["q_proj", entry], rank_pattern={"lm_head": 3})
    assert list(targets)[-1] == "lm_head"
    assert set(targets) == layers("q_proj") | {"lm_head"}
    head = targets["lm_head"]
    assert (head.in_features, head.out_features, head.r, head.is_head) == (32, 97, 3, True)
    assert not any(target.is_head for name, target in targets.items() if name != "lm_head")
    assert set(resolved(target_modules=["q_proj", entry], exclude_modules=["lm_head"])) == layers("q_proj")


def test_a_head_whose_logits_are_changed_afterwards_is_refused_with_the_reason() -> None:
    structure = replace(STRUCTURE, plain_head=False)
    with pytest.raises(SpecError, match="changes after the product"):
        resolve(LoraSpec(target_modules=("q_proj", "lm_head")), structure)


def test_a_rank_for_the_head_says_that_all_linear_leaves_it_out() -> None:
    assert "all-linear leaves out" in error_of(rank_pattern={"lm_head": 4}).message


@pytest.mark.parametrize("entry", ["lm_head", "embed_tokens", "input_layernorm", "norm"])
def test_excluding_what_no_job_trains_anyway_is_harmless(entry: str) -> None:
    assert set(resolved(exclude_modules=[entry])) == set(SHAPES)


def test_excluding_a_container_is_answered_with_the_glob_of_what_is_in_it() -> None:
    error = error_of(exclude_modules=["mlp"])
    assert error.field == "lora.exclude_modules[0]"
    assert "write mlp.*" in error.message
    assert set(resolved(exclude_modules=["mlp.*"])) == set().union(*(layers(short) for short in ATTENTION))


def test_a_module_that_is_no_linear_is_refused_as_such() -> None:
    assert "not a linear layer" in str(error_of(target_modules=["input_layernorm"]))


@pytest.mark.parametrize(
    "lora, field",
    [
        ({"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]}, "lora.exclude_modules"),
        ({"exclude_modules": ["q_porj"]}, "lora.exclude_modules[0]"),
        ({"target_modules": ["q_proj"], "rank_pattern": {"v_proj": 4}}, "lora.rank_pattern.v_proj"),
        ({"target_modules": ["q_proj"], "alpha_pattern": {"k_proj": 4}}, "lora.alpha_pattern.k_proj"),
    ],
)
def test_what_could_have_no_effect_is_an_error_at_its_own_field(lora: dict[str, Any], field: str) -> None:
    assert error_of(**lora).field == field


def test_all_entries_that_fit_nothing_are_told_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        resolved(target_modules=["q_prj", "v_proj", "embed_tokens"], exclude_modules=["nothing"])
    fields = [problem.field for problem in caught.value.problems]
    assert fields == ["lora.target_modules[0]", "lora.target_modules[2]", "lora.exclude_modules[0]"]
