"""Command lines of `loraloom` as documents, messages and unit files have them, held against the command itself."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from typer.main import get_command

from orchestrator.cli import app

_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_IN_FENCE = re.compile(r"(?:^|[;&|]\s+|\$ |/bin/)loraloom ([^\n;&|#]+)", re.MULTILINE)
_IN_TEXT = re.compile(r"`loraloom ([^`]+)`")
_COMMAND: Any = get_command(app)


def in_markdown(text: str) -> Iterator[str]:
    """What stands after `loraloom` in code blocks and code spans."""
    for fence in _FENCE.findall(text):
        yield from _IN_FENCE.findall(fence.replace("\\\n", " "))
    yield from _IN_TEXT.findall(" ".join(_FENCE.sub("", text).split()))


def in_source(text: str) -> Iterator[str]:
    """The same in messages and docstrings."""
    # Strings that are broken over lines.
    yield from _IN_TEXT.findall(re.sub(r'"\s*\n\s*f?"', "", text))


def unknown(line: str) -> list[str]:
    """Verbs and options of a line that the command does not know; its values may be examples."""
    words = shlex.split(line.replace("…", ""), comments=True)
    command, found = _COMMAND, []
    while words and (verbs := getattr(command, "commands", None)) is not None:
        verb = words.pop(0)
        # `a|b` in a table is each of them.
        alike = [verbs[one] for one in verb.split("|") if one in verbs]
        if len(alike) < len(verb.split("|")):
            return [verb]
        command = alike[0]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    found += [word for word in words if word.startswith("-") and word.split("=")[0] not in known]
    return found


def parse(words: Sequence[str]) -> dict[str, Any]:
    """A whole line's values, as the command takes them.

    Raises:
        Exception: It does not.
    """
    verb, *rest = words
    return _COMMAND.commands[verb].make_context(verb, list(rest)).params
