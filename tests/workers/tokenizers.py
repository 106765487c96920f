"""A tokenizer small enough to reason about: words are numbered in the order below, spaces belong to nothing."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = ("<end>", "<unk>", *(f"w{number}" for number in range(90)), "a", "b", "c", "yes", "no")


def word_tokenizer(chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """One token per word, `<end>` (id 0) as end token, everything unknown `<unk>` (id 1)."""
    model = models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>")
    inner = Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<end>", unk_token="<unk>", chat_template=chat_template
    )
