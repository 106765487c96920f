"""What a base cannot take, and what is worth knowing before a job trains on it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from jobs.errors import Problem
from jobs.spec import JobSpec
from workers.dataset import JobData, TokenisedRows
from workers.structure import Structure

_BASE = "model.model_name_or_path"
_QUANTIZED_NAME = re.compile(r"(?i)[-_.](unsloth-)?(bnb|gptq|awq|fp8|nf4|int4|int8|w4a16|w8a8|mxfp4|[48]bit)\b.*$")


def storage_problem(config: PretrainedConfig, name: str) -> Problem | None:
    """Whether the weights are stored quantized, which only the library that wrote them can read."""
    stored: Any = getattr(config, "quantization_config", None) or getattr(config, "compression_config", None)
    if not stored:
        return None
    stored = stored if isinstance(stored, dict) else stored.to_dict()
    method = stored.get("quant_method")
    if stored.get("load_in_4bit") or stored.get("load_in_8bit"):
        method = method or "bitsandbytes"
    bits = stored.get("bits") or (4 if stored.get("load_in_4bit") else 8 if stored.get("load_in_8bit") else None)
    width = f" in {bits} bits" if bits else " quantized"
    plain = _QUANTIZED_NAME.sub("", name)
    example = f", probably {plain}" if plain != name and not name.startswith(("/", ".", "~")) else ""
    return Problem(
        message=f"this base is stored{width} ({method or 'unknown method'}), which is not supported: adapters are "
        f"trained on float32, bfloat16 or float16 weights; name the unquantized model{example}",
        field=_BASE,
        value=name,
    )


def base_problems(structure: Structure, config: PretrainedConfig, name: str) -> Iterator[Problem]:
    """What makes a base unfit whatever the job's rows are."""
    if structure.sees_later_tokens:
        decoder = getattr(config, "is_decoder", None) is False
        yield Problem(
            message=f"in this base ({config.model_type}) every token sees those that come after it, so it would read "
            "off the tokens that it is to predict; "
            + (
                "set `is_decoder: true` in its config.json if it was trained to predict the next token, or name a "
                if decoder
                else "name a "
            )
            + "base that was made for that",
            field=_BASE,
            value=name,
        )


def row_problems(
    structure: Structure, data: JobData, spec: JobSpec, tokenizer: PreTrainedTokenizerBase | None = None
) -> Iterator[Problem]:
    """What makes a base unfit for these rows: more tokens than it has positions, ids that it does not know."""
    parts = [data.train] if data.evaluation is None else [data.train, data.evaluation]
    longest = max(int(rows.lengths.max()) for rows in parts)
    most = structure.most_positions
    if most is not None and longest > most:
        yield Problem(
            message=f"rows of {longest:,} tokens; this base has {most:,} positions; set training.max_length: {most}",
            field="training.max_length",
            value=str(spec.training.max_length),
        )
    largest = max(rows.largest_id for rows in parts)
    if largest >= structure.num_ids:
        yield _unknown_id(structure, largest, parts, spec, tokenizer)


def _unknown_id(
    structure: Structure,
    largest: int,
    parts: list[TokenisedRows],
    spec: JobSpec,
    tokenizer: PreTrainedTokenizerBase | None,
) -> Problem:
    count = sum(rows.count_ids_from(structure.num_ids) for rows in parts)
    token = f" ({tokenizer.convert_ids_to_tokens(largest)})" if tokenizer is not None else ""
    return Problem(
        message=f"{count:,} tokens of the rows have ids that the base has no embedding for, up to {largest:,}{token}: "
        f"it has {structure.num_ids:,}, its tokenizer more; save the base once after "
        "`model.resize_token_embeddings(len(tokenizer))`, or use a tokenizer and template without the added tokens",
        field=_BASE,
        value=spec.model.model_name_or_path,
    )


def base_notes(structure: Structure, data: JobData) -> Iterator[str]:
    """What is no error and would surprise later, a sentence each."""
    parts = [data.train] if data.evaluation is None else [data.train, data.evaluation]
    longest = max(int(rows.lengths.max()) for rows in parts)
    if structure.usual_positions is not None and longest > structure.usual_positions:
        yield (
            f"rows of {longest:,} tokens; this base was made for {structure.usual_positions:,} and computes the "
            f"positions beyond, where it was not trained; training.max_length: {structure.usual_positions} avoids it"
        )
    if structure.experts is not None:
        held, whole = structure.experts.num_parameters, structure.experts.layer_parameters
        yield (
            f"{_figure(held)} of {_figure(whole)} parameters per layer lie in experts that get no adapter: they are no "
            "linear layers"
        )
    if structure.beside_text:
        yield (
            f"{len(structure.beside_text)} linear layers get no adapter, because text does not pass them: "
            f"{', '.join(sorted({_trunk(name) for name in structure.beside_text})[:4])}"
        )


def _trunk(name: str) -> str:
    """A name up to its first number."""
    return re.split(r"\.\d+\.", name)[0]


def _figure(count: int) -> str:
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return str(count)
