"""A conversation as text, and which of its characters are learned: the one place where that is decided."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jobs.errors import DataError
from jobs.spec import TrainingSpec
from workers.answers import Answers, Span
from workers.chat_template import ChatTemplate, Renderer
from workers.marks import Marking, Places, find_places
from workers.row_values import RowError
from workers.text_units import Units
from workers.turns import REASONING, Conversation, Part, Turn

_ALWAYS_USED = ("role", "content", "tool_calls", *REASONING)


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Text of a conversation, what of it is learned, and what of the row did not come into it."""

    text: str
    spans: tuple[Span, ...]
    """Characters that are learned, in order."""
    masked: tuple[Span, ...]
    """Characters that are not, even where a token reaches from them into a span."""
    unused: tuple[str, ...]
    """Keys of the row that the template does not print, such as `messages[].name`."""


class Labeller:
    """Renders conversations and says what of them is learned."""

    def __init__(self, template: ChatTemplate, special_tokens: Iterable[str], training: TrainingSpec) -> None:
        """`special_tokens` are those of the tokenizer, as they stand in text."""
        self._template = template
        self._units = Units(special_tokens)
        self._training = training
        self._cache: dict[object, dict[tuple[object, ...], str | None]] = {}
        self._prints_tools: dict[str, bool] = {}

    @property
    def has_template(self) -> bool:
        """Whether there is a chat template to render with."""
        return self._template.exists

    def label(self, conversation: Conversation) -> Labelled:
        """Render a conversation.

        Raises:
            RowError: The template refuses it, leaves something out, or does not show what the assistant says.
            DataError: No conversation can be rendered, or what was asked for is in none.
        """
        training = self._training
        if conversation.num_prompt is None and training.completion_only_loss and not training.assistant_only_loss:
            raise DataError(
                "training.completion_only_loss is on, and rows that are whole conversations have no completion: leave "
                "it out, or give `prompt` and `completion`"
            )
        render = self._template.renderer(conversation)
        text = render(conversation.messages)
        found = find_places(conversation.turns, render.source, render, text)
        if found is not None:
            _require_printed(conversation.turns, found[1])
        spans, masked = self._spans(conversation, render, text, found)
        unused = self._unused(conversation, render, text, found[1] if found is not None else None)
        return Labelled(text=text, spans=tuple(spans), masked=tuple(masked), unused=unused)

    def _spans(
        self, conversation: Conversation, render: Renderer, text: str, found: tuple[Marking, Places] | None
    ) -> tuple[list[Span], list[Span]]:
        turns, num_prompt = conversation.turns, conversation.num_prompt
        in_completion = num_prompt is not None and self._training.completion_only_loss is not False
        first = num_prompt if in_completion and num_prompt is not None else 0
        is_whole = not in_completion and not self._training.assistant_only_loss
        generated = None if is_whole else render.generated(conversation.messages)
        has_switches = any(turn.has_switch for turn in turns)
        if not has_switches:
            if is_whole:
                return [(0, len(text))], []
            if generated is not None and first == 0:
                return list(generated), []
        if found is None:
            raise RowError(self._unmarkable(turns, render))
        marking, places = found
        cache = self._cache.setdefault((render.source, repr(render.variables), bool(render.tools)), {})
        answers = Answers(turns, marking, places, render, self._units, cache)
        spans: list[Span] = [(0, len(text))] if is_whole else []
        masked: list[Span] = []
        for index, turn in enumerate(turns):
            parts = _parts(index, turn, places)
            is_learned = is_whole or (turn.role == "assistant" and index >= first)
            if turn.learned is False:
                masked += [answers.span(index)] if is_whole else []
            elif is_learned or turn.learned:
                spans += [] if is_whole else _stretches(answers.span(index), turn, generated)
                masked += [span for part, span in parts if part.learned is False]
            else:
                spans += [span for part, span in parts if part.learned]
        return sorted(spans), sorted(masked)

    def _unused(
        self, conversation: Conversation, render: Renderer, text: str, places: Places | None
    ) -> tuple[str, ...]:
        """Keys that change nothing with this template."""
        unused = []
        keys = {key: None for message in conversation.messages for key in message if key not in _ALWAYS_USED}
        unused += [f"messages[].{key}" for key in keys if not re.search(rf"\b{re.escape(key)}\b", render.source)]
        reasoning = [index for index, kind, _ in places.marked if kind == "reasoning"] if places is not None else []
        if places is not None and reasoning and not any(place.kind == "reasoning" for place in places.found):
            key = next(key for key in REASONING if key in conversation.messages[reasoning[0]])
            unused.append(f"messages[].{key}")
        if conversation.tools:
            if render.source not in self._prints_tools:
                without = Renderer(**{**vars(render), "tools": None})
                try:
                    self._prints_tools[render.source] = without(conversation.messages) != text
                except RowError:
                    self._prints_tools[render.source] = True
            if not self._prints_tools[render.source]:
                unused.append("tools")
        return tuple(unused)

    def _unmarkable(self, turns: Sequence[Turn], render: Renderer) -> str:
        """Name the turn whose words the template does not print as they are."""
        changed = len(turns) - 1
        for index, turn in enumerate(turns):
            begun = turns[: index + 1]
            try:
                text = render([one.message for one in begun])
            except RowError:
                continue
            if turn.role == "assistant" and find_places(begun, render.source, render, text) is None:
                changed = index
                break
        return (
            f"the chat template prints turn {changed + 1} otherwise than it is written, so that it cannot be told what "
            "of it the assistant says; take a model.chat_template_path that prints the content as it is, or one that "
            "has {% generation %} marks"
        )


def _require_printed(turns: Sequence[Turn], places: Places) -> None:
    for index, kind, _ in places.unprinted:
        role = turns[index].role
        if kind == "content":
            raise RowError(
                f"the chat template leaves out turn {index + 1} ({role}): take a model.chat_template_path that prints "
                "it, or remove it from the row"
            )
        if kind == "call":
            raise RowError(
                f"the chat template does not print the tool calls of turn {index + 1}: take a model.chat_template_path "
                "that does"
            )


def _stretches(span: Span, turn: Turn, generated: tuple[Span, ...] | None) -> list[Span]:
    """What of a turn's stretch is learned: where the template has marks of its own, what is between them."""
    if generated is None or turn.role != "assistant":
        return [span]
    return [(start, end) for start, end in generated if start < span[1] and end > span[0]]


def _parts(index: int, turn: Turn, places: Places) -> list[tuple[Part, Span]]:
    """The parts of a turn's content that have a switch, and where they stand, blanks at their ends included."""
    found = []
    for number, part in enumerate(turn.parts):
        for place in places.of(index):
            if part.learned is not None and (place.kind, place.part) == ("content", number):
                words = part.text.strip()
                lead, trail = part.text.split(words, 1)
                start, end = place.start, place.end
                if lead and places.text.endswith(lead, 0, start):
                    start -= len(lead)
                if trail and places.text.startswith(trail, end):
                    end += len(trail)
                found.append((part, (start, end)))
    return found
