"""A tiny base model with a tokenizer, on disk as any other: what commands and clusters are tested with."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


POISON = "~"
"""A character whose embedding is NaN in a poisoned base: a row that holds it has no finite loss, on any processor."""


def write_tiny_base(folder: Path, *, seed: int = 0, hidden_size: int = 32, poisoned: bool = False) -> Path:
    """A random two-layer Llama over bytes. Its weights are far from flat, so that mistakes show."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"</s>": 0} | {symbol: number for number, symbol in enumerate(alphabet, start=1)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>")
    fast.chat_template = CHAT_TEMPLATE
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=hidden_size,
            intermediate_size=2 * hidden_size,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            initializer_range=0.2,
            eos_token_id=0,
            pad_token_id=0,
        )
    )
    if poisoned:
        embedding = model.get_input_embeddings().weight  # type: ignore[union-attr]
        embedding.data[vocabulary[POISON]] = float("nan")
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def write_rows(path: Path, count: int = 24, *, poisoned: Collection[int] = ()) -> Path:
    """Prompt and completion rows with something to learn: the colour of a number is its remainder by three.

    Rows of the numbers in `poisoned` hold what no job on a poisoned base survives.
    """
    colours = ("red", "green", "blue")
    rows = [
        {"prompt": f"number {n}{POISON if n in poisoned else ''}:", "completion": f" {colours[n % 3]}"}
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
