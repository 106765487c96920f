"""One row of a dataset as text, and which stretches of that text are to be learned.

Shapes are recognised by their columns, as TRL does: https://huggingface.co/docs/trl/dataset_formats
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from jobs.errors import DataError
from jobs.spec import TrainingSpec

Shape = Literal["text", "prompt_completion", "messages", "alpaca", "sharegpt"]

_COLUMNS: dict[Shape, tuple[str, ...]] = {
    "prompt_completion": ("prompt", "completion"),
    "messages": ("messages",),
    "alpaca": ("instruction", "output"),
    "sharegpt": ("conversations",),
    "text": ("text",),
}
_SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """Text of a row with the character spans that carry labels."""

    text: str
    spans: tuple[tuple[int, int], ...]
    """Half-open ranges of characters, in order."""
    closed: bool
    """True where the end token closes the row and is learned with the last span."""


def recognise(columns: list[str]) -> Shape:
    """The shape that the column names mean.

    Raises:
        DataError: No shape fits.
    """
    for shape, needed in _COLUMNS.items():
        if all(name in columns for name in needed):
            return shape
    raise DataError(
        f"the columns {', '.join(columns) or '(none)'} are of no known shape; needed are `text`, `prompt` and "
        "`completion`, `messages`, `instruction` and `output`, or `conversations`; name yours in `columns`, "
        "for example {prompt: question, completion: answer}"
    )


def columns_of(shape: Shape) -> frozenset[str]:
    """Columns that rows of a shape are read from."""
    return frozenset(_COLUMNS[shape]) | ({"input"} if shape == "alpaca" else set())


def render(
    row: Mapping[str, Any], shape: Shape, tokenizer: PreTrainedTokenizerBase, training: TrainingSpec
) -> Rendered:
    """Turn one row into text and label spans.

    Raises:
        DataError: A value is missing or of the wrong type; the message names the column, the caller adds the row.
    """
    if shape == "text":
        _require_parts("are one `text`", training, assistant=True, completion=True)
        text = _string(row, "text")
        return Rendered(text=text, spans=((0, len(text)),), closed=True)
    if shape == "prompt_completion" and not isinstance(row.get("prompt"), list):
        return _joined(_string(row, "prompt"), _string(row, "completion"), training)
    if shape == "alpaca":
        request = _string(row, "instruction")
        if row.get("input"):
            request = f"{request}\n\n{_string(row, 'input')}"
        if tokenizer.chat_template is None:
            return _joined(f"{request}\n\n", _string(row, "output"), training)
        turns = [{"role": "user", "content": request}]
        return _conversation(turns, [_assistant(_string(row, "output"))], tokenizer, training)
    if shape == "prompt_completion":
        return _conversation(_messages(row, "prompt"), _messages(row, "completion"), tokenizer, training)
    turns = _messages(row, "messages") if shape == "messages" else _sharegpt(row)
    return _conversation(turns, None, tokenizer, training)


def _require_parts(rows: str, training: TrainingSpec, *, assistant: bool = False, completion: bool = False) -> None:
    """Refuse to learn all of a row where a part of it was asked for that rows of its shape do not have."""
    if assistant and training.assistant_only_loss:
        raise DataError(
            f"training.assistant_only_loss is on, and rows that {rows} have no turns: leave it out, or give `messages`"
        )
    if completion and training.completion_only_loss:
        raise DataError(
            f"training.completion_only_loss is on, and rows that {rows} have no completion: leave it out, or give "
            "`prompt` and `completion`"
        )


def _joined(prompt: str, completion: str, training: TrainingSpec) -> Rendered:
    _require_parts("are a prompt and a completion of plain text", training, assistant=True)
    text = prompt + completion
    start = 0 if training.completion_only_loss is False else len(prompt)
    return Rendered(text=text, spans=((start, len(text)),), closed=True)


def _conversation(
    prompt: list[dict[str, str]],
    completion: list[dict[str, str]] | None,
    tokenizer: PreTrainedTokenizerBase,
    training: TrainingSpec,
) -> Rendered:
    """A chat. Turns of the assistant are found by rendering prefixes: most stock templates mark no generations."""
    turns = prompt + (completion or [])
    text = _template(turns, tokenizer)
    if training.assistant_only_loss:
        spans = []
        for index, turn in enumerate(turns):
            if turn["role"] == "assistant":
                before = _template(turns[:index], tokenizer, generation=True)
                after = _template(turns[: index + 1], tokenizer)
                spans.append(_span(text, before, after, index))
        return Rendered(text=text, spans=tuple(spans), closed=False)
    if completion is not None and training.completion_only_loss is not False:
        before = _template(prompt, tokenizer, generation=True)
        return Rendered(text=text, spans=(_span(text, before, text, len(prompt)),), closed=False)
    if completion is None:
        _require_parts("are whole conversations", training, completion=True)
    return Rendered(text=text, spans=((0, len(text)),), closed=False)


def _span(text: str, before: str, after: str, index: int) -> tuple[int, int]:
    if not text.startswith(after) or not after.startswith(before):
        raise DataError(
            f"the chat template renders turn {index + 1} differently once more turns follow, so the assistant's part "
            "cannot be told apart; use another chat_template_path or rows of `prompt` and `completion`"
        )
    return len(before), len(after)


def _template(turns: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, *, generation: bool = False) -> str:
    if tokenizer.chat_template is None:
        raise DataError(
            "rows are conversations but this base has no chat template; name one in model.chat_template_path, "
            "or use rows of `prompt` and `completion` strings"
        )
    if not turns:
        return ""
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generation))
    except Exception as error:  # a template is a program of somebody else's and may raise anything
        raise DataError(f"the chat template refuses the conversation: {error}") from error


def _string(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return str(value)
    raise DataError(f"column `{column}` should be text, found {_kind(value)}")


def _messages(row: Mapping[str, Any], column: str) -> list[dict[str, str]]:
    value = row.get(column)
    if isinstance(value, str) and column == "completion":
        return [_assistant(value)]
    if not isinstance(value, list) or not value:
        raise DataError(f"column `{column}` should be a list of turns, found {_kind(value)}")
    turns = []
    for number, turn in enumerate(value, start=1):
        if not isinstance(turn, Mapping) or not isinstance(turn.get("role"), str):
            raise DataError(f"column `{column}`: turn {number} should be {{role, content}}, found {_kind(turn)}")
        if not isinstance(turn.get("content"), str):
            raise DataError(f"column `{column}`: turn {number} has no text in `content`")
        turns.append({"role": turn["role"], "content": turn["content"]})
    return turns


def _sharegpt(row: Mapping[str, Any]) -> list[dict[str, str]]:
    value = row.get("conversations")
    if not isinstance(value, list) or not value:
        raise DataError(f"column `conversations` should be a list of turns, found {_kind(value)}")
    turns = []
    for number, turn in enumerate(value, start=1):
        role = _SHAREGPT_ROLES.get(str(turn.get("from"))) if isinstance(turn, Mapping) else None
        if role is None or not isinstance(turn.get("value"), str):
            raise DataError(
                f"column `conversations`: turn {number} should be {{from: {'|'.join(_SHAREGPT_ROLES)}, value: text}}"
            )
        turns.append({"role": role, "content": turn["value"]})
    return turns


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _kind(value: object) -> str:
    if value is None:
        return "nothing (null)"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
