"""Tool calls of a turn and the tools of a conversation, in the form that chat templates take.

https://huggingface.co/docs/transformers/main/en/chat_extras
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from workers.row_values import RowError, kind, parsed, without_nulls

ArgumentsForm = Literal["object", "text"]


def call_of(value: object) -> dict[str, Any]:
    """One call, `{name, arguments}` alone or within `function`, as `{type, id, function: {name, arguments}}`.

    Raises:
        RowError: It is no call.
    """
    value = parsed(value)
    if not isinstance(value, Mapping):
        raise RowError(f"has a tool call that is not {{name, arguments}}: {kind(value)}")
    inner = parsed(value.get("function", value))
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise RowError(f"has a tool call without a `name`: {kind(value)}")
    function = without_nulls(inner)
    outer: dict[str, Any] = {}
    if "function" in value:
        outer = {key: item for key, item in without_nulls(value).items() if key != "function"}
    elif "id" in function:
        outer["id"] = function.pop("id")
    kind_of_call = outer.pop("type", None) or function.pop("type", None) or "function"
    function.setdefault("arguments", function.pop("parameters", {}))
    return {"type": kind_of_call, **outer, "function": function}


def calls_of(value: object) -> list[dict[str, Any]]:
    """All calls of a turn: a list, one call alone, or JSON text of either.

    Raises:
        RowError: One of them is no call.
    """
    value = parsed(value)
    return [call_of(one) for one in (value if isinstance(value, list) else [value])]


def tools_of(value: object) -> list[dict[str, Any]]:
    """The tools that a column names: a list of schemas or JSON text of one, each alone or within `function`.

    Raises:
        RowError: It is no list of tools.
    """
    value = parsed(value)
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        raise RowError(f"column `tools` should be a list of tools, found {kind(value)}")
    tools = []
    for number, one in enumerate(value, start=1):
        one = parsed(one)
        if not isinstance(one, Mapping):
            raise RowError(f"column `tools`: tool {number} should be an object, found {kind(one)}")
        if isinstance(one.get("function"), Mapping):
            tools.append({"type": "function", **without_nulls(one)})
        elif isinstance(one.get("name"), str):
            tools.append({"type": "function", "function": {key: item for key, item in one.items() if key != "type"}})
        else:
            raise RowError(f"column `tools`: tool {number} has no `name`, found {kind(one)}")
    return tools


def with_arguments(turn: Mapping[str, Any], form: ArgumentsForm) -> dict[str, Any]:
    """The turn with the arguments of its calls as objects, or as JSON text; text that is no object stays text."""
    if "tool_calls" not in turn:
        return dict(turn)
    calls = []
    for call in turn["tool_calls"]:
        arguments = call["function"]["arguments"]
        if form == "object":
            arguments = parsed(arguments)
        elif not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        calls.append({**call, "function": {**call["function"], "arguments": arguments}})
    return {**turn, "tool_calls": calls}


def arguments_form(turns: tuple[Mapping[str, Any], ...]) -> ArgumentsForm:
    """How the row itself writes the arguments of its calls."""
    for turn in turns:
        for call in turn.get("tool_calls", ()):
            return "text" if isinstance(call["function"]["arguments"], str) else "object"
    return "object"
