"""Text as token ids, with the tokens that are learned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
"""Half-open range of characters."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """Text of a row with the characters that carry labels."""

    text: str
    spans: tuple[Span, ...]
    """What is learned, in order: every token that has a character of it."""
    masked: tuple[Span, ...]
    """What is not: no token that has a character of it, even if it has one of `spans` as well."""
    is_closed: bool
    """The text is as it was written, not rendered: the end token closes it and is learned with its last span."""


class Tokenising:
    """A tokenizer, and where it puts its special tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._opening = _opening(tokenizer)

    def encode(self, texts: Sequence[Text]) -> Iterator[tuple[list[int], list[bool]]]:
        """Ids and labels of each text, at full length."""
        results: dict[int, tuple[list[int], list[bool]]] = {}
        for add_special in (False, True):
            chosen = [number for number, text in enumerate(texts) if self._needs_special(text) == add_special]
            if not chosen:
                continue
            encoded = self._tokenizer(
                [texts[number].text for number in chosen],
                return_offsets_mapping=True,
                add_special_tokens=add_special,
            )
            for number, ids, offsets in zip(chosen, encoded["input_ids"], encoded["offset_mapping"], strict=True):
                results[number] = self._closed(texts[number], list(ids), _labels(texts[number], offsets))
        for number in range(len(texts)):
            yield results[number]

    def _needs_special(self, text: Text) -> bool:
        """Whether the tokenizer is to add its own: a rendered text has them, and text that begins with them as well."""
        return text.is_closed and not (self._opening and text.text.startswith(self._opening))

    def _closed(self, text: Text, ids: list[int], labelled: list[bool]) -> tuple[list[int], list[bool]]:
        end = self._tokenizer.eos_token_id
        if text.is_closed and isinstance(end, int) and (not ids or ids[-1] != end):
            ids.append(end)
            labelled.append(True)
        elif text.is_closed and ids:
            labelled[-1] = True
        return ids, labelled


def _labels(text: Text, offsets: Sequence[Span]) -> list[bool]:
    """For each token, whether it is learned; both tokens and spans are in order."""
    learned = _overlaps(text.spans, offsets)
    if not text.masked:
        return learned
    return [one and not other for one, other in zip(learned, _overlaps(text.masked, offsets), strict=True)]


def _overlaps(spans: Sequence[Span], offsets: Sequence[Span]) -> list[bool]:
    found = []
    position = 0
    for begin, stop in offsets:
        while position < len(spans) and spans[position][1] <= begin:
            position += 1
        found.append(position < len(spans) and stop > spans[position][0] and stop > begin)
    return found


def _opening(tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of the tokens that the tokenizer puts before every text; empty where there are none."""
    bare, full = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    count = next((n for n in range(len(full)) if full[n : n + len(bare)] == bare), 0)
    return "".join(str(token) for token in tokenizer.convert_ids_to_tokens(full[:count]))
