"""Text to documents, safely: plain data and the line of every field, built from parser events without recursion.

Scalars follow the core schema of YAML 1.2: `1e-4` is a number, `no` and `on` are text, dates are text. What lets a
small text stand for large or foreign data (aliases, tags, deep nesting) is refused as soon as it is met.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from jobs.errors import Problem
from jobs.field_paths import extended, shown_key

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20
"""Most blocks and lists inside one another."""

_LINES_DEPTH = 8
"""Lines are kept this deep, below which nothing valid lies; deeper places are given the line of what encloses them."""
_LONGEST_WHOLE_NUMBER = 64
_TOO_DEEP = "maximum nesting depth"
"""Newer versions of libyaml have a limit of their own, far above ours, and meet it while they read ahead."""

# libyaml where PyYAML was built with it: the same events, many times faster.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_UNPRINTABLE = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_WHOLE = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_DECIMAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = (
    dict.fromkeys(("", "~", "null", "Null", "NULL"), None)
    | dict.fromkeys(("true", "True", "TRUE"), True)
    | dict.fromkeys(("false", "False", "FALSE"), False)
    | dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan"))
    | {f"{sign}{word}": float(f"{sign}inf") for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")}
)


@dataclass(frozen=True, kw_only=True)
class Document:
    """One YAML document."""

    value: Any
    """Dictionaries with text keys, lists, and scalars."""
    line: int
    """1-based line of its first value."""
    lines: dict[str, int]
    """Field to the line of its key, or of the item for lists."""


def read_documents(text: str, *, file: str) -> tuple[list[Document], list[Problem]]:
    """Every document of a text that could be read, and all that was wrong with the text.

    Documents without content are passed over. Reading ends at the first error of syntax or of size.

    Args:
        text: YAML or, in a file ending in `.json`, JSON.
        file: its name, for messages.
    """
    unprintable = _UNPRINTABLE.search(text)
    if unprintable:
        line = text.count("\n", 0, unprintable.start()) + 1
        return [], [Problem(message=f"holds the unprintable {_code_point(unprintable[0])}", file=file, line=line)]
    if file.lower().endswith(".json"):
        # A tab in JSON is always space between values; YAML knows no tabs there.
        text = text.replace("\t", " ")
    builder = _Builder(file=file)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except _RefusedError as refused:
        builder.problems.append(refused.problem)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        builder.problems.append(
            Problem(message=_syntax_message(error), file=file, line=mark.line + 1 if mark else None)
        )
    # Without libyaml, an escape beyond the last code point is a ValueError or OverflowError of Python's.
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        builder.problems.append(Problem(message=f"cannot be read as YAML: {shown_key(str(error))}", file=file))
    return builder.documents, builder.problems


def plain_value(text: str) -> Any:
    """What an unquoted scalar means in the core schema of YAML 1.2."""
    if text in _WORDS:
        return _WORDS[text]
    # Python refuses to read very long whole numbers, and no field takes one: they stay text.
    if len(text) <= _LONGEST_WHOLE_NUMBER:
        if _WHOLE.fullmatch(text):
            return int(text)
        if _BASED.fullmatch(text):
            return int(text, 0)
    if _DECIMAL.fullmatch(text) and not _WHOLE.fullmatch(text):
        return float(text)
    return text


class _RefusedError(Exception):
    """Reading cannot go on past this."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem


@dataclass
class _Open:
    """A block or list whose end has not been met."""

    container: dict[str, Any] | list[Any]
    place: str
    key: str | None = None
    """In a block: the key whose value comes next."""
    repeated: bool = False
    """That key was given before, so its value goes nowhere."""
    key_lines: dict[str, int] = field(default_factory=dict[str, int])


@dataclass
class _Builder:
    """Takes parser events in order; what is open lies on a stack of its own, so depth costs no recursion."""

    file: str
    documents: list[Document] = field(default_factory=list[Document])
    problems: list[Problem] = field(default_factory=list[Problem])
    stack: list[_Open] = field(default_factory=list[_Open])
    lines: dict[str, int] = field(default_factory=dict[str, int])
    root: Any = None
    root_line: int = 1

    def take(self, event: Any) -> None:
        """One event of the parser."""
        if isinstance(event, yaml.NodeEvent):
            mark: Any = event.start_mark
            self._take_node(event, line=mark.line + 1)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._place(self.stack.pop().container)
        elif isinstance(event, yaml.DocumentStartEvent):
            self.root, self.lines = None, {}
        elif isinstance(event, yaml.DocumentEndEvent) and self.root is not None:
            self.documents.append(Document(value=self.root, line=self.root_line, lines=self.lines))

    def _take_node(self, event: Any, *, line: int) -> None:
        place = self._field_of_next()
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            name = ("*" if isinstance(event, yaml.AliasEvent) else "&") + shown_key(str(event.anchor))
            message = f"`{name}`: anchors and aliases are not used in a spec: write the value out, or quote the text"
            raise self._refused(message, place, line)
        text_tag = isinstance(event, yaml.ScalarEvent) and event.tag == "tag:yaml.org,2002:str"
        if event.tag not in (None, "!") and not text_tag:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise self._refused(f"`{shown_key(tag)}`: tags are not used in a spec: write the value alone", place, line)
        top = self.stack[-1] if self.stack else None
        if top is None:
            self.root_line = line
        if top is not None and isinstance(top.container, dict) and top.key is None:
            self._take_key(top, event, line)
            return
        if top is not None and isinstance(top.container, list) and len(self.stack) < _LINES_DEPTH:
            self.lines.setdefault(place, line)
        if isinstance(event, yaml.ScalarEvent):
            plain = event.implicit[0] and not text_tag
            self._place(plain_value(event.value) if plain else event.value)
            return
        if len(self.stack) == MAX_DEPTH:
            raise self._refused(f"nested more than {MAX_DEPTH} deep", "", line)
        self.stack.append(_Open({} if isinstance(event, yaml.MappingStartEvent) else [], place))

    def _take_key(self, top: _Open, event: Any, line: int) -> None:
        if not isinstance(event, yaml.ScalarEvent):
            raise self._refused("a key should be a name; text that begins with { or [ needs quotes", top.place, line)
        key: str = event.value
        place = extended(top.place, key)
        top.key, top.repeated = key, key in top.key_lines
        if top.repeated:
            message = f"given twice: on line {top.key_lines[key]} already; keep one of the two"
            self.problems.append(Problem(field=place, message=message, file=self.file, line=line))
        top.key_lines.setdefault(key, line)
        if len(self.stack) < _LINES_DEPTH:
            self.lines.setdefault(place, line)

    def _field_of_next(self) -> str:
        if not self.stack:
            return ""
        top = self.stack[-1]
        if isinstance(top.container, list):
            return extended(top.place, len(top.container))
        return extended(top.place, top.key) if top.key is not None else top.place

    def _place(self, value: Any) -> None:
        """Puts a finished value where it belongs."""
        if not self.stack:
            self.root = value
            return
        top = self.stack[-1]
        if isinstance(top.container, list):
            top.container.append(value)
            return
        assert top.key is not None
        if not top.repeated:
            top.container[top.key] = value
        top.key = None

    def _refused(self, message: str, place: str, line: int) -> _RefusedError:
        return _RefusedError(Problem(field=place, message=message, file=self.file, line=line))


def _code_point(character: str) -> str:
    return "character NUL" if character == "\0" else f"character U+{ord(character):04X}"


_HINTS = (
    ("\\t", "indent with spaces, not with tabs"),
    ("cannot start any token", "indent with spaces, not with tabs, and put text that begins with @, % or ` in quotes"),
    ("mapping values are not allowed", "text that holds `: ` needs quotes; else look at the indentation"),
    ("could not find expected ':'", "a key needs a `:` and a space after it"),
    ("did not find expected key", "look at the indentation, and for a bracket or quote that is not closed"),
    ("did not find expected ',' or", "a bracket or brace is not closed"),
    ("unexpected end of stream", "a quote is not closed"),
)


def _syntax_message(error: yaml.MarkedYAMLError) -> str:
    if _TOO_DEEP in (error.problem or ""):
        return f"nested more than {MAX_DEPTH} deep"
    problem = shown_key(error.problem or error.context or "error of syntax")
    hint = next((hint for text, hint in _HINTS if text in problem), None)
    return f"cannot be read as YAML: {problem}" + (f" ({hint})" if hint else "")
