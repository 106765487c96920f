"""A row's turns in the form that chat templates take: whole turns, whatever the keys of the file are called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from workers.row_values import RowError, kind, parsed, scalar_text, without_nulls
from workers.tool_calls import call_of, calls_of

_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
"""Names that sharegpt, LLaMA-Factory and older APIs have for the roles that chat templates know."""
_KNOWN = ("system", "developer", "user", "assistant", "tool")
SWITCHES = ("train", "training", "weight", "loss", "loss_weight")
"""Keys that say whether a turn, or a part of one, is learned."""
_UNSUPPORTED = ("train_detail", "training_detail", "reasoning_training_detail")
REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names of a turn's reasoning; transformers gives the template whichever it asks for."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A stretch of a turn's content that is learned or not by a switch of its own."""

    text: str
    learned: bool | None
    """`None`: as the turn."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One turn."""

    message: dict[str, Any]
    """What the template gets: `role`, `content` as text, and every other key that is not null."""
    learned: bool | None = None
    """The turn's own switch; `None` where it has none."""
    parts: tuple[Part, ...] = ()
    """The content in its parts, where one of them has a switch; they join to the content."""

    @property
    def role(self) -> str:
        """Who speaks."""
        return self.message["role"]

    @property
    def has_switch(self) -> bool:
        """Whether it, or a part of it, says that it is or is not learned."""
        return self.learned is not None or bool(self.parts)


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A row that a chat template renders."""

    turns: tuple[Turn, ...]
    num_prompt: int | None = None
    """How many turns are the prompt; `None` where the row does not divide into prompt and completion."""
    tools: list[dict[str, Any]] | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Variables that the row itself hands to the template."""

    @property
    def messages(self) -> tuple[dict[str, Any], ...]:
        """The turns as the template gets them."""
        return tuple(turn.message for turn in self.turns)

    def led_by(self, system: str) -> Conversation:
        """The conversation with a system turn before it.

        Raises:
            RowError: It has another one.
        """
        if self.turns and self.turns[0].role in ("system", "developer"):
            if self.turns[0].message["content"] == system:
                return self
            raise RowError("the row has a system prompt in a column of its own and another one as first turn")
        lead = Turn(message={"role": "system", "content": system})
        prompt = None if self.num_prompt is None else self.num_prompt + 1
        return replace(self, turns=(lead, *self.turns), num_prompt=prompt)


def said(role: str, text: str) -> Turn:
    """A turn of plain text."""
    return Turn(message={"role": role, "content": text})


def turns_of(value: object, column: str) -> tuple[Turn, ...]:
    """The turns of a column: a list of `{role, content}` or `{from, value}`, or JSON text of one.

    Raises:
        RowError: It is no such list, or one of the turns is none.
    """
    value = parsed(value)
    if isinstance(value, Mapping) and isinstance(value.get("messages"), list):
        value = value["messages"]
    if not isinstance(value, list) or not value:
        raise RowError(f"column `{column}` should be a list of turns, found {kind(value)}")
    turns = []
    for number, one in enumerate(value, start=1):
        try:
            turns.append(_turn(parsed(one)))
        except RowError as error:
            raise RowError(f"column `{column}`: turn {number} {error}") from error
    return tuple(turns)


def _turn(value: object) -> Turn:
    if not isinstance(value, Mapping):
        raise RowError(f"should be {{role, content}} or {{from, value}}, found {kind(value)}")
    given = without_nulls(value)
    for key in _UNSUPPORTED:
        if key in given:
            raise RowError(f"has `{key}`, which is not supported: give `content` as parts, each with `train`")
    learned = _switch(given)
    named = given.pop("role", given.pop("from", None))
    if not isinstance(named, str):
        raise RowError(f"should be {{role, content}} or {{from, value}}, found {kind(value)}")
    if "content" not in given and "value" in given:
        given["content"] = given.pop("value")
    role = _ROLES.get(named.lower(), named)
    if "from" in value and role.lower() in _KNOWN:
        role = role.lower()
    elif "from" in value:
        raise RowError(f"should be {{from: {'|'.join((*_KNOWN, *_ROLES))}, value: text}}, found from `{named}`")
    content, parts = _content(given.pop("content", None), role)
    if named.lower() == "function_call":
        given["tool_calls"], content = calls_of(content or ""), ""
    if "function_call" in given:
        given["tool_calls"] = [call_of(given.pop("function_call"))]
    if given.get("tool_calls"):
        given["tool_calls"] = calls_of(given["tool_calls"])
    else:
        given.pop("tool_calls", None)
    if content is None:
        if "tool_calls" not in given and not any(given.get(key) for key in REASONING):
            raise RowError("has no text in `content` and no `tool_calls`")
        content = ""
    return Turn(message={"role": role, "content": content, **given}, learned=learned, parts=parts)


def _switch(given: dict[str, Any]) -> bool | None:
    """Take the switches out of a turn or a part."""
    found = {key: given.pop(key) for key in SWITCHES if key in given}
    for key, value in found.items():
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise RowError(f"has `{key}`: {value!r}; a turn is learned (true, 1) or not (false, 0), nothing between")
    values = {bool(value) for value in found.values()}
    if len(values) > 1:
        raise RowError(f"is to be learned by one of {', '.join(f'`{key}`' for key in found)} and not by another")
    return values.pop() if values else None


def _content(value: object, role: str) -> tuple[str | None, tuple[Part, ...]]:
    if value is None:
        return None, ()
    text = scalar_text(value)
    if text is not None:
        return text, ()
    if role == "tool" and not _is_parts(value):
        # What a tool answers is often an object; templates print text.
        return json.dumps(value, ensure_ascii=False), ()
    if not isinstance(value, list):
        raise RowError(f"should have text, or a list of parts, in `content`, found {kind(value)}")
    parts = [_part(one) for one in value]
    has_switch = any(part.learned is not None for part in parts)
    return "".join(part.text for part in parts), tuple(parts) if has_switch else ()


def _is_parts(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, str) or (isinstance(one, Mapping) and "type" in one) for one in value)
    )


def _part(value: object) -> Part:
    if isinstance(value, str):
        return Part(text=value, learned=None)
    if not isinstance(value, Mapping):
        raise RowError(f"has a part that is no text in `content`: {kind(value)}")
    given = dict(value)
    learned = _switch(given)
    named = given.get("type") or "text"
    text = next((given[key] for key in ("text", "value", "content") if given.get(key) is not None), None)
    if "text" not in str(named) or not isinstance(text, str):
        raise RowError(f"has a part of type `{named}` in `content`; only parts of text can be trained on")
    return Part(text=text, learned=learned)
