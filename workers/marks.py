"""Where the words of each turn come to stand in a rendered conversation.

Each turn's own words are put between two characters that stand nowhere else, the conversation is rendered once more
with them, and they are taken out again: if that gives the text as it is rendered without, the places are exact.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from workers.turns import REASONING, Turn

Message = Mapping[str, Any]
Kind = Literal["content", "reasoning", "call"]

_OPEN, _CLOSE = 0xF0000, 0x100000
"""Two planes of characters for private use, of one size: a pair of marks has one offset in both."""
_SIZE = 0xFFFD
_PRIVATE = re.compile("[\U000f0000-\U000ffffd\U00100000-\U0010fffd]")
_TAG = re.compile(r"(<[^<>\s]{1,64}>)")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a stretch of a turn's own words stands."""

    turn: int
    kind: Kind
    part: int
    """Which part of the content; 0 where it has none."""
    start: int
    """Character in the text without marks."""
    end: int


@dataclass(frozen=True, kw_only=True)
class Places:
    """All places of a rendering, in the order of the text."""

    text: str
    """Without marks."""
    found: tuple[Place, ...]
    marked: frozenset[tuple[int, Kind, int]]
    """What was looked for: turn, kind and part."""

    def of(self, turn: int) -> list[Place]:
        """Of one turn."""
        return [place for place in self.found if place.turn == turn]

    @property
    def unprinted(self) -> list[tuple[int, Kind, int]]:
        """What has words and stands nowhere, in the order of turns."""
        return sorted(self.marked - {(place.turn, place.kind, place.part) for place in self.found})


@dataclass(frozen=True, kw_only=True)
class Marking:
    """Turns with marks around their words, and what each pair of marks stands for."""

    messages: tuple[Message, ...]
    probe: str
    """A word that stands nowhere, to be put in the place of an answer."""
    owners: Mapping[int, tuple[tuple[int, ...], Kind, int]] = field(default_factory=dict)
    """Offset of a pair → the turns that are alike in it, the kind, and which part."""

    def read(self, rendered: str) -> Places:
        """Take the marks out of a rendering and note where they stood."""
        clean: list[str] = []
        position = 0
        opened: dict[int, int] = {}
        spans: list[tuple[int, int, int]] = []
        last = 0
        for match in _PRIVATE.finditer(rendered):
            code = ord(match.group())
            offset = code - _OPEN if code < _CLOSE else code - _CLOSE
            if offset not in self.owners:
                continue
            clean.append(rendered[last : match.start()])
            position += len(clean[-1])
            last = match.end()
            if code < _CLOSE:
                opened[offset] = position
            elif offset in opened:
                spans.append((opened.pop(offset), position, offset))
        clean.append(rendered[last:])
        return Places(text="".join(clean), found=self._placed(spans), marked=self._marked())

    def _marked(self) -> frozenset[tuple[int, Kind, int]]:
        return frozenset((turn, kind, part) for turns, kind, part in self.owners.values() for turn in turns)

    def _placed(self, spans: Sequence[tuple[int, int, int]]) -> tuple[Place, ...]:
        places = []
        by_offset: dict[int, list[tuple[int, int]]] = {}
        for start, end, offset in sorted(spans):
            by_offset.setdefault(offset, []).append((start, end))
        for offset, found in by_offset.items():
            turns, kind, part = self.owners[offset]
            # Turns that are alike share their marks, so that they stay alike for the template; they come in order.
            each = max(1, len(found) // len(turns))
            for number, (start, end) in enumerate(found):
                turn = turns[min(number // each, len(turns) - 1)]
                places.append(Place(turn=turn, kind=kind, part=part, start=start, end=end))
        return tuple(sorted(places, key=lambda place: (place.start, place.end)))


def mark(turns: Sequence[Turn], template: str, *, only: Collection[int] | None = None, split_tags: bool) -> Marking:
    """Put marks around the words of turns.

    Args:
        turns: The conversation.
        template: Its chat template, whose own characters cannot be marks.
        only: Turns to mark; `None`: all.
        split_tags: Mark the words between tags such as `<think>` apart: a template may cut the content there.
    """
    words = json.dumps([turn.message for turn in turns], ensure_ascii=False, default=str)
    taken = {ord(char) for char in _PRIVATE.findall(template + words)}
    free = (n for n in range(_SIZE) if _OPEN + n not in taken and _CLOSE + n not in taken)
    alike: dict[str, list[int]] = {}
    for index, turn in enumerate(turns):
        alike.setdefault(json.dumps(turn.message, sort_keys=True, default=str), []).append(index)
    messages: list[Message] = [turn.message for turn in turns]
    owners: dict[int, tuple[tuple[int, ...], Kind, int]] = {}
    for group in alike.values():
        if only is not None and group[0] not in only:
            continue
        wrap = _Wrap(tuple(group), free, owners, split_tags)
        message = wrap.turn(turns[group[0]])
        for index in group:
            messages[index] = message
    return Marking(messages=tuple(messages), owners=owners, probe=chr(_OPEN + next(free)))


class _Wrap:
    """Marks the words of one turn, or of several that are alike."""

    def __init__(
        self,
        group: tuple[int, ...],
        free: Iterator[int],
        owners: dict[int, tuple[tuple[int, ...], Kind, int]],
        split_tags: bool,
    ) -> None:
        self._group, self._free, self._owners, self._split_tags = group, free, owners, split_tags

    def turn(self, turn: Turn) -> Message:
        message = dict(turn.message)
        parts = [part.text for part in turn.parts] or [message["content"]]
        message["content"] = "".join(self._text(text, "content", number) for number, text in enumerate(parts))
        for key in REASONING:
            if isinstance(message.get(key), str):
                message[key] = self._text(message[key], "reasoning", 0)
        if "tool_calls" in message:
            message["tool_calls"] = [self._call(call, number) for number, call in enumerate(message["tool_calls"])]
        return message

    def _call(self, call: Mapping[str, Any], number: int) -> dict[str, Any]:
        name = self._text(call["function"]["name"], "call", number)
        return {**call, "function": {**call["function"], "name": name}}

    def _text(self, text: str, kind: Kind, part: int) -> str:
        pieces = _TAG.split(text) if self._split_tags else [text]
        return "".join(piece if _TAG.fullmatch(piece) else self._piece(piece, kind, part) for piece in pieces)

    def _piece(self, text: str, kind: Kind, part: int) -> str:
        words = text.strip()
        if not words:
            return text
        offset = next(self._free)
        self._owners[offset] = (self._group, kind, part)
        lead = text[: len(text) - len(text.lstrip())]
        trail = text[len(lead) + len(words) :]
        return f"{lead}{chr(_OPEN + offset)}{words}{chr(_CLOSE + offset)}{trail}"


def find_places(
    turns: Sequence[Turn], template: str, render: Callable[[Sequence[Message]], str], text: str
) -> tuple[Marking, Places] | None:
    """The marks with which a rendering without them is the same, and where they stand in it.

    Args:
        turns: The conversation.
        template: Its chat template.
        render: Renders messages as `text` was rendered.
        text: The conversation as it is rendered whole.

    Returns:
        `None` where the template gives another text as soon as the words of assistant's turns have marks.
    """
    answers = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
    for only, split_tags in itertools.product((None, answers), (False, True)):
        marking = mark(turns, template, only=only, split_tags=split_tags)
        try:
            places = marking.read(render(marking.messages))
        except Exception:  # a template is a program of somebody else's, and the marks are nothing it knows
            continue
        if places.text == text:
            return marking, places
    return None
