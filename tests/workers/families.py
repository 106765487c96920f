"""Tiny configs of many families of models, for what a base can and cannot take."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

VOCABULARY = 97
POSITIONS = 32
_LLAMA: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
    "head_dim": 8,
    "initializer_range": 0.2,
}
_GPT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": POSITIONS,
    "initializer_range": 0.2,
}
_BERT: dict[str, Any] = {key: value for key, value in _LLAMA.items() if key not in {"head_dim", "num_key_value_heads"}}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", _LLAMA),
    "neox": ("GPTNeoX", _BERT),
    "gpt2": ("GPT2", _GPT),
    "gptj": ("GPTJ", _GPT | {"rotary_dim": 8}),
    "codegen": ("CodeGen", _GPT | {"rotary_dim": 8}),
    "opt": ("OPT", _BERT | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "biogpt": ("BioGpt", _BERT),
    "xglm": (
        "XGLM",
        {
            "vocab_size": VOCABULARY,
            "d_model": 32,
            "ffn_dim": 48,
            "num_layers": 2,
            "attention_heads": 4,
            "max_position_embeddings": POSITIONS,
        },
    ),
    "ctrl": ("CTRL", _GPT | {"dff": 48}),
    "mpt": ("Mpt", {"vocab_size": VOCABULARY, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": POSITIONS}),
    "bloom": ("Bloom", {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "bert": ("Bert", _BERT),
    "bert as decoder": ("Bert", _BERT | {"is_decoder": True}),
    "roberta as decoder": ("Roberta", _BERT | {"is_decoder": True, "max_position_embeddings": POSITIONS + 2}),
    "xlnet": ("XLNet", {"vocab_size": VOCABULARY, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}),
    "llama that sees both ways": ("Llama", _LLAMA | {"is_causal": False}),
    "mistral": ("Mistral", _LLAMA | {"sliding_window": 4}),
    "qwen2": ("Qwen2", _LLAMA | {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 1}),
    "gemma2": ("Gemma2", _LLAMA | {"sliding_window": 4}),
    "gemma3": ("Gemma3Text", _LLAMA | {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}),
    "llama4": (
        "Llama4Text",
        _LLAMA
        | {
            "attention_chunk_size": 8,
            "num_local_experts": 2,
            "intermediate_size_mlp": 48,
            "no_rope_layers": [1, 0],
            "attn_temperature_tuning": False,
        },
    ),
    "granite": ("Granite", _BERT | {"num_key_value_heads": 2, "logits_scaling": 4.0}),
    "qwen3moe": ("Qwen3Moe", _LLAMA | _EXPERTS),
    "mixtral": ("Mixtral", _LLAMA | {"num_local_experts": 4}),
    "gemma3 with a tower": (
        "Gemma3",
        {"text_config": _LLAMA, "vision_config": _VISION, "mm_tokens_per_image": 4},
    ),
}


def config_of(family: str, **changes: Any) -> PretrainedConfig:
    """The family's config with other values."""
    name, settings = FAMILIES[family]
    return getattr(transformers, f"{name}Config")(**settings | changes)


def outline(family: str, **changes: Any) -> PreTrainedModel:
    """Its modules, without weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config_of(family, **changes))


def random_model(family: str, **changes: Any) -> PreTrainedModel:
    """One with random weights, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config_of(family, **changes)).eval()
