"""One row of a dataset: which shape it has, and the text or the conversation that it is.

Shapes are recognised by their columns, as TRL does: https://huggingface.co/docs/trl/dataset_formats
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from jobs.errors import DataError
from jobs.spec import TrainingSpec
from workers.row_values import RowError, kind, parsed, scalar_text
from workers.tool_calls import tools_of
from workers.turns import Conversation, Turn, said, turns_of

Shape = Literal["text", "prompt_completion", "messages", "alpaca", "sharegpt"]

_COLUMNS: dict[Shape, tuple[str, ...]] = {
    "prompt_completion": ("prompt", "completion"),
    "messages": ("messages",),
    "alpaca": ("instruction", "output"),
    "sharegpt": ("conversations",),
    "text": ("text",),
}
_SYSTEM = ("system", "system_prompt")
_TOOLS = ("tools", "functions")
_KWARGS = "chat_template_kwargs"
_CHAT = (*_SYSTEM, *_TOOLS, _KWARGS)
"""Columns that go with a conversation."""


@dataclass(frozen=True, kw_only=True)
class PlainText:
    """A row that is text as it is; the end token closes it and is learned."""

    text: str
    start: int
    """Character from which on it is learned."""


def recognise(columns: Collection[str]) -> Shape:
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


def shape_of(row: Mapping[str, Any]) -> Shape:
    """The shape of one row: rows of other shapes may stand in the same file, their columns null in this one.

    Raises:
        RowError: No shape fits.
    """
    try:
        return recognise([name for name, value in row.items() if value is not None])
    except DataError:
        try:
            return recognise(row)
        except DataError as error:
            raise RowError(str(error)) from error


def read_row(row: Mapping[str, Any], training: TrainingSpec, *, has_template: bool) -> PlainText | Conversation:
    """What a row says.

    Raises:
        RowError: A value is missing or of the wrong type; the message names the column, the caller adds the row.
        DataError: A part of the row was asked for that rows of its shape do not have.
    """
    shape = shape_of(row)
    if shape == "text":
        _require_parts("are one `text`", training, assistant=True, completion=True)
        return PlainText(text=_string(row, "text"), start=0)
    if shape == "alpaca":
        return _alpaca(row, training, has_template=has_template)
    if shape == "prompt_completion":
        if isinstance(row["prompt"], list):
            return _with_columns(row, _prompted(turns_of(row["prompt"], "prompt"), _completion(row)))
        return _joined(_string(row, "prompt"), _string(row, "completion"), training)
    column = _COLUMNS[shape][0]
    return _with_columns(row, Conversation(turns=turns_of(row[column], column)))


def columns_used(row: Mapping[str, Any], read: PlainText | Conversation) -> set[str]:
    """Columns that had a say in what a row became."""
    shape = shape_of(row)
    used = set(_COLUMNS[shape])
    if shape == "alpaca":
        used |= {"input", "history", *_SYSTEM}
    if isinstance(read, Conversation):
        used |= set(_CHAT)
    return used


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


def _joined(prompt: str, completion: str, training: TrainingSpec) -> PlainText:
    _require_parts("are a prompt and a completion of plain text", training, assistant=True)
    return PlainText(text=prompt + completion, start=0 if training.completion_only_loss is False else len(prompt))


def _alpaca(row: Mapping[str, Any], training: TrainingSpec, *, has_template: bool) -> PlainText | Conversation:
    request, output = _string(row, "instruction"), _string(row, "output")
    if row.get("input"):
        request = f"{request}\n\n{_string(row, 'input')}"
    history = _history(row)
    if has_template:
        return _with_columns(row, _prompted((*history, said("user", request)), (said("assistant", output),)))
    before = [_system(row), *(turn.message["content"] for turn in history), request]
    return _joined("".join(f"{text}\n\n" for text in before if text), output, training)


def _history(row: Mapping[str, Any]) -> list[Turn]:
    """LLaMA-Factory's earlier turns: a list of pairs of request and answer."""
    turns = []
    pairs = parsed(row.get("history")) or []
    for number, pair in enumerate(pairs if isinstance(pairs, list) else [pairs], start=1):
        texts = [scalar_text(text) for text in pair] if isinstance(pair, list) else []
        if len(texts) != 2 or any(text is None for text in texts):
            raise RowError(f"column `history`: {number} should be a pair [request, answer], found {kind(pair)}")
        turns += [said("user", texts[0] or ""), said("assistant", texts[1] or "")]
    return turns


def _prompted(prompt: Iterable[Turn], completion: Iterable[Turn]) -> Conversation:
    before = tuple(prompt)
    return Conversation(turns=(*before, *completion), num_prompt=len(before))


def _completion(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    text = scalar_text(row["completion"])
    return turns_of(row["completion"], "completion") if text is None else (said("assistant", text),)


def _system(row: Mapping[str, Any]) -> str:
    for column in _SYSTEM:
        if row.get(column) not in (None, ""):
            return _string(row, column)
    return ""


def _with_columns(row: Mapping[str, Any], conversation: Conversation) -> Conversation:
    """The conversation with the system prompt, the tools and the template's variables of the row's other columns."""
    system = _system(row)
    if system:
        conversation = conversation.led_by(system)
    tools = next((row[column] for column in _TOOLS if row.get(column) not in (None, "", [])), None)
    if tools is not None:
        conversation = replace(conversation, tools=tools_of(tools) or None)
    if row.get(_KWARGS):
        kwargs = parsed(row[_KWARGS])
        if not isinstance(kwargs, Mapping):
            raise RowError(f"column `{_KWARGS}` should be an object, found {kind(kwargs)}")
        conversation = replace(conversation, template_kwargs=kwargs)
    return conversation


def _string(row: Mapping[str, Any], column: str) -> str:
    text = scalar_text(row.get(column))
    if text is None:
        raise RowError(f"column `{column}` should be text, found {kind(row.get(column))}")
    return text
