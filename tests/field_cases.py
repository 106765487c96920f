"""The tokenizer, templates and tiny models that the cases from people's files are tried with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from jobs.spec import JobSpec

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|bos|>", "<think>", "</think>")

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% if m.tool_calls %}<call>{{ m.tool_calls[0]['function']['name'] }}</call>{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A default system prompt; prints the name of the first call of a turn."""

THINK = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' and loop.index0 > ns.last %}"
    "<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Keeps reasoning only in turns after the last user turn, as the Qwen3 family does."""


def field_tokenizer(
    template: str | None = CHATML, *, bos: bool = False, eos: str = "<|im_end|>"
) -> PreTrainedTokenizerFast:
    """Byte-level BPE of at most 400 tokens; `bos` puts `<|bos|>` (id 3) before every text that asks for it."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(["the quick brown fox user assistant system hello"], trainer)
    inner.post_processor = (
        processors.TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", 3)])
        if bos
        else processors.ByteLevel(trim_offsets=False)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=eos, bos_token="<|bos|>" if bos else None, chat_template=template
    )


def field_llama(vocabulary: int, **more: Any) -> LlamaForCausalLM:
    """Two layers, untied, 64 positions."""
    settings: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
    }
    return LlamaForCausalLM(LlamaConfig(**settings | more))


def save_base(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A base as it lies in a folder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Rows as a jsonl file."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def field_spec(
    rows: Path | str, *, base: Path | str = "tiny", training: Mapping[str, Any] | None = None, **fields: Any
) -> dict[str, Any]:
    """The spec around every row example, as a document; `fields` replace whole blocks."""
    return {
        "name": "case",
        "model": {"model_name_or_path": str(base)},
        "lora": {"r": 4, "lora_alpha": 8},
        "datasets": [{"path": str(rows)}],
        "training": {"max_steps": 4, "per_device_train_batch_size": 4, **(training or {})},
        **fields,
    }


def field_job(rows: Path | str, **fields: Any) -> JobSpec:
    """`field_spec` as a job."""
    return JobSpec.model_validate(field_spec(rows, **fields))
