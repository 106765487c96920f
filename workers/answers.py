"""Which stretch of a rendered conversation a turn makes up: its words, and what the template writes into the answer.

The words are found by marks (`workers.marks`). To the left of them the answer begins where the template's invitation to
answer ends; to the right it ends before the template's invitation of the next turn. Both are read off the template by
rendering beginnings of the conversation, and looked up in the conversation as rendered whole: a template may
render a turn otherwise once more turns follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from workers.marks import Marking, Message, Place, Places
from workers.row_values import RowError
from workers.text_units import Units
from workers.turns import Turn

Span = tuple[int, int]
"""Half-open range of characters."""


class Render(Protocol):
    """Renders messages with one chat template."""

    def __call__(self, messages: Sequence[Message], *, generation: bool = False) -> str:
        """The messages as text, with the invitation to answer at its end where `generation` asks for it."""
        ...


class Answers:
    """Finds the stretches of single turns in one rendered conversation."""

    def __init__(
        self,
        turns: Sequence[Turn],
        marking: Marking,
        places: Places,
        render: Render,
        units: Units,
        cache: dict[tuple[object, ...], str | None],
    ) -> None:
        """`cache` holds what was read off this template before, by the shape of a conversation's beginning."""
        self._turns, self._marking, self._places = turns, marking, places
        self._render, self._units, self._cache = render, units, cache
        self._text = places.text

    def span(self, turn: int) -> Span:
        """The stretch of one turn.

        Raises:
            RowError: It cannot be told apart.
        """
        own = words_of(self._places, turn)
        start, end = (own[0].start, max(place.end for place in own)) if own else self._nothing(turn)
        others = [place for place in self._places.found if place.turn != turn]
        if any(place.start < end and place.end > start for place in others):
            raise RowError(
                f"the chat template mixes turn {turn + 1} with other turns, so that it cannot be told what the "
                "assistant says; take another model.chat_template_path"
            )
        left = max((place.end for place in others if place.end <= start), default=0)
        right = min((place.start for place in others if place.start >= end), default=len(self._text))
        is_answer = self._turns[turn].role == "assistant"
        begin = self._begin(turn, own, left, start) if is_answer and own else start
        tail = self._tail(turn, self._text[end:right], is_last=right == len(self._text))
        opener = self._opener() if is_answer else None
        if opener is not None and opener in tail:
            # Some templates invite to the next answer whether they are asked to or not.
            tail = tail[: tail.rfind(opener)]
        return begin, end + len(tail)

    def _nothing(self, turn: int) -> Span:
        """Where a turn without words stands: behind its header."""
        before = [place.end for place in self._places.found if place.turn < turn]
        after = [place.start for place in self._places.found if place.turn > turn]
        left, right = max(before, default=0), min(after, default=len(self._text))
        gap = self._text[left:right]
        found = self._units.find(self._invitation(turn), gap)
        if found is None and (before := self._after(turn, generation=False)) is not None:
            found = len(self._header(turn, before, gap))
        if found is None:
            raise RowError(f"turn {turn + 1} is empty, and the chat template does not show where it stands")
        return left + found, left + found

    def _begin(self, turn: int, own: list[Place], left: int, start: int) -> int:
        """Where the header ends and the answer begins."""
        gap = self._text[left:start]
        found = self._units.find(self._invitation(turn), gap)
        if found is not None:
            return left + found
        if own[0].kind == "content":
            return start
        # Nothing invites to answer: the header is what comes before an answer of plain text as well.
        return left + len(self._header(turn, self._after(turn, generation=False) or "", gap))

    def _header(self, turn: int, before: str, gap: str) -> str:
        """What of a gap stands before any answer: the end of the turn before it, and the template's header."""
        ended = self._units.common(before, gap)
        rest = gap[len(ended) :]
        plain = self._plain_header(turn)
        return ended + (rest if plain is None else self._units.common(plain, rest))

    def _tail(self, turn: int, region: str, *, is_last: bool) -> str:
        """What of the text behind a turn's words belongs to it: its end token, the rest of a call."""
        closing = self._closing(turn)
        if closing is not None and region.startswith(closing) and (closing or not is_last):
            return region if is_last and not self._units.has_words(region[len(closing) :]) else closing
        if is_last:
            return region
        ended = self._after(turn + 1, generation=False)
        if ended is not None:
            return self._units.common(ended, region)
        # The template refuses conversations that end here; what closes turns is a marker, often at the end of a line.
        units = self._units.split(region)
        if not units or not self._units.is_marker(units[0]):
            return ""
        return "".join(units[:2]) if units[1:2] == ["\n"] else units[0]

    def _invitation(self, turn: int) -> str:
        """What the template writes to have the assistant speak at this turn; empty where it writes nothing."""
        return self._cached(("invitation", *self._shape(turn)), lambda: self._read_invitation(turn)) or ""

    def _read_invitation(self, turn: int) -> str:
        somebody: list[Message] = [{"role": "user", "content": "x"}]
        for messages in ([one.message for one in self._turns[:turn]], somebody):
            if messages:
                try:
                    ended, invited = self._render(messages), self._render(messages, generation=True)
                except RowError:
                    continue
                return invited[len(self._units.common(ended, invited)) :]
        return ""

    def _closing(self, turn: int) -> str | None:
        """What stands between a turn's words and the next invitation; `None` where that cannot be read off."""
        if "tool_calls" in self._turns[turn].message:
            # The rest of a call stands there too, which is another in every row.
            return self._read_closing(turn)
        return self._cached(("closing", *self._shape(turn + 1)), lambda: self._read_closing(turn))

    def _read_closing(self, turn: int) -> str | None:
        invitation, after = self._invitation(turn), self._after(turn + 1, generation=True)
        return after[: -len(invitation)] if invitation and after is not None and after.endswith(invitation) else None

    def _after(self, count: int, *, generation: bool) -> str | None:
        """What follows the words of the last of the first `count` turns, where the conversation ends with them."""
        if count == 0:
            return None
        try:
            places = self._marking.read(self._render(self._marking.messages[:count], generation=generation))
        except RowError:
            return None
        own = words_of(places, count - 1)
        if own:
            return places.text[max(place.end for place in own) :]
        begin = places.text.rfind(invitation) if (invitation := self._invitation(count - 1)) else -1
        return places.text[begin + len(invitation) :] if begin >= 0 else None

    def _plain_header(self, turn: int) -> str | None:
        """What the template writes between the turn before and an answer of plain text in this one's place."""
        messages = [*self._marking.messages[:turn], {"role": "assistant", "content": self._marking.probe}]
        try:
            places = self._marking.read(self._render(messages))
        except RowError:
            return None
        before = max((place.end for place in places.found if place.turn < turn), default=0)
        at = places.text.find(self._marking.probe)
        ended = self._after(turn, generation=False) or ""
        return places.text[before + len(self._units.common(ended, places.text[before:at])) : at] if at >= 0 else None

    def _opener(self) -> str | None:
        """The marker that opens the header of an answer, as `<|im_start|>` does; `None` where none does."""
        return self._cached(("opener",), self._read_opener)

    def _read_opener(self) -> str | None:
        probe = self._marking.probe
        try:
            text = self._render([{"role": "user", "content": probe}, {"role": "assistant", "content": probe}])
        except RowError:
            return None
        between = text.split(probe)[1] if text.count(probe) == 2 else ""
        markers = [unit for unit in self._units.split(between) if self._units.is_marker(unit)]
        # What opens a turn stands in the text before what closes one.
        return next((one for one in markers[1:] if text.find(one) < text.find(markers[0])), None)

    def _shape(self, count: int) -> tuple[object, ...]:
        """What of a conversation's beginning a template branches on."""
        return tuple(_shape_of(turn.message) for turn in self._turns[:count])

    def _cached(self, key: tuple[object, ...], read: Callable[[], str | None]) -> str | None:
        if key not in self._cache:
            self._cache[key] = read()
        return self._cache[key]


def words_of(places: Places, turn: int) -> list[Place]:
    """Where a turn's own words stand. The name of a call may stand again in the header of the tool's answer."""
    calls: set[int] = set()
    found = []
    for place in places.of(turn):
        if place.kind == "call":
            if place.part in calls:
                continue
            calls.add(place.part)
        found.append(place)
    return found


def _shape_of(message: Mapping[str, Any]) -> tuple[object, ...]:
    content = message["content"]
    return (message["role"], bool(content), "</think>" in content, *sorted(key for key in message if message[key]))
