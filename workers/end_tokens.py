"""Which tokens end an answer: what generation stops at."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from workers import confinement


def end_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids of the tokenizer's end token and of those that the base's generation_config.json names beside it."""
    named = [tokenizer.eos_token_id, *_of_generation(tokenizer)]
    return frozenset(one for one in named if isinstance(one, int))


def _of_generation(tokenizer: PreTrainedTokenizerBase) -> list[object]:
    name = tokenizer.name_or_path
    if not name:
        return []
    try:
        # Which commit the tokenizer is of is not kept by it; the end tokens of a model hardly change.
        source = confinement.settled_source(name)
        file = cached_file(source, "generation_config.json", _raise_exceptions_for_missing_entries=False)
        config = json.loads(Path(file).read_text(encoding="utf-8")) if file is not None else {}
    except (OSError, ValueError):
        return []
    found = config.get("eos_token_id") if isinstance(config, dict) else None
    return found if isinstance(found, list) else [found]
