"""The chat template of a job: how it is called, on which date, and in which form it takes calls and contents."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from jobs.errors import DataError
from workers.answers import Span
from workers.marks import Message
from workers.row_values import RowError
from workers.tool_calls import ArgumentsForm, arguments_form, with_arguments
from workers.turns import Conversation

_GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_LAST_NEWLINE = re.compile(r"(\r\n|\r|\n)\Z")


@dataclass(frozen=True, kw_only=True)
class Renderer:
    """Renders messages with one template, with the tools and variables of one conversation."""

    source: str
    """The template."""
    now: datetime
    """What the template takes for the current time."""
    variables: Mapping[str, Any]
    tools: list[dict[str, Any]] | None
    arguments: ArgumentsForm
    as_parts: bool
    """The template takes contents as lists of parts alone."""

    def __call__(self, messages: Sequence[Message], *, generation: bool = False) -> str:
        """The messages as text.

        Raises:
            RowError: The template refuses them.
        """
        return self._render(messages, generation=generation, marked=False)[0]

    def generated(self, messages: Sequence[Message]) -> tuple[Span, ...] | None:
        """The stretches between `{% generation %}` marks; `None` where the template has none.

        Raises:
            RowError: The template refuses the messages.
        """
        if _GENERATION.search(self.source) is None:
            return None
        return self._render(messages, generation=False, marked=True)[1]

    def _render(self, messages: Sequence[Message], *, generation: bool, marked: bool) -> tuple[str, tuple[Span, ...]]:
        conversation = [with_arguments(message, self.arguments) for message in messages]
        if self.as_parts:
            conversation = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in conversation]
        try:
            source = _pinned(self.source, self.now)
            texts, spans = chat_template_utils.render_jinja_template(
                conversations=[conversation],
                tools=self.tools,  # pyright: ignore[reportArgumentType]
                chat_template=source,
                return_assistant_tokens_mask=marked,
                add_generation_prompt=generation,
                **self.variables,
            )
        except Exception as error:  # a template is a program of somebody else's and may raise anything
            raise RowError(f"the chat template refuses the conversation: {error}") from error
        return str(texts[0]), tuple((int(start), int(end)) for start, end in (spans[0] if spans else ()))


class ChatTemplate:
    """The template, or the named templates, of a tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, now: datetime) -> None:
        """`now` is what the templates take for the current time, as long as the job lives."""
        self._tokenizer = tokenizer
        self._now = now
        self._takes_parts: dict[str, bool] = {}
        self._arguments: dict[tuple[str, bool, ArgumentsForm], ArgumentsForm] = {}

    @property
    def exists(self) -> bool:
        """Whether the base, or the job, has one."""
        return self._tokenizer.chat_template is not None

    def renderer(self, conversation: Conversation) -> Renderer:
        """What renders a conversation.

        Raises:
            DataError: There is no template.
        """
        if not self.exists:
            raise DataError(
                "rows are conversations but this base has no chat template; name one in model.chat_template_path, "
                "or use rows of `prompt` and `completion` strings"
            )
        try:
            source = self._tokenizer.get_chat_template(None, conversation.tools)
        except ValueError as error:
            raise DataError(str(error), field="model.chat_template_path") from error
        plain = Renderer(
            source=source,
            now=self._now,
            variables={**self._tokenizer.special_tokens_map, **conversation.template_kwargs},
            tools=conversation.tools,
            arguments=arguments_form(conversation.messages),
            as_parts=False,
        )
        if source not in self._takes_parts:
            self._takes_parts[source] = _takes_parts_only(plain)
        found = _changed(plain, as_parts=self._takes_parts[source])
        if any("tool_calls" in message for message in conversation.messages):
            key = (source, conversation.tools is not None, plain.arguments)
            if key not in self._arguments:
                self._arguments[key] = _arguments_for(found)
            found = _changed(found, arguments=self._arguments[key])
        return found


def time_of(unix_seconds: float | None) -> datetime:
    """A time as templates take it, the same on every machine: in UTC. `None`: now."""
    return datetime.fromtimestamp(time.time() if unix_seconds is None else unix_seconds, tz=UTC)


def _changed(renderer: Renderer, **fields: Any) -> Renderer:
    return Renderer(**{**vars(renderer), **fields})


def _takes_parts_only(plain: Renderer) -> bool:
    """Whether the template prints contents that are lists of parts, and texts not."""
    messages = [{"role": "user", "content": "qzx"}, {"role": "assistant", "content": "xzq"}]

    def prints(renderer: Renderer) -> bool:
        try:
            text = renderer(messages)
        except RowError:
            return False
        return "qzx" in text and "xzq" in text

    return not prints(plain) and prints(_changed(plain, as_parts=True))


def _arguments_for(renderer: Renderer) -> ArgumentsForm:
    """The form of arguments that the template writes as JSON: the row's own where it can be."""
    other: ArgumentsForm = "text" if renderer.arguments == "object" else "object"
    ordered: list[ArgumentsForm] = [renderer.arguments, other]
    texts: dict[ArgumentsForm, str] = {form: _with_call(_changed(renderer, arguments=form)) for form in ordered}
    printed: list[ArgumentsForm] = [form for form in ordered if texts[form]]
    # Python's spelling of an object, and JSON that was written as a text within JSON, are what no template means.
    good: list[ArgumentsForm] = [
        form for form in printed if "{'qzx'" not in texts[form] and '\\"qzx' not in texts[form]
    ]
    return (good or printed or ordered)[0]


def _with_call(renderer: Renderer) -> str:
    call = {
        "type": "function",
        "id": "call00000",
        "function": {"name": "qzxname", "arguments": {"qzx": "xzq"}},
    }
    asked: list[Message] = [{"role": "user", "content": "x"}]
    called = [*asked, {"role": "assistant", "content": "", "tool_calls": [call]}]
    answered = [*called, {"role": "tool", "content": "x", "tool_call_id": "call00000", "name": "qzxname"}]
    for messages in (answered, called):
        try:
            return renderer(messages)
        except RowError:
            continue
    return ""


def _pinned(source: str, now: datetime) -> str:
    """The template's source under a name of its own, compiled so that its clock stands at `now`.

    transformers keeps one compiled template per source; a comment at the end makes it this job's own.
    """
    # Jinja drops the last line's end, which must not come to stand before the comment.
    pinned = f"{_LAST_NEWLINE.sub('', source)}{{#+ now {now.isoformat()} #}}"
    compiled = chat_template_utils._compile_jinja_template(pinned)
    compiled.globals["strftime_now"] = now.strftime
    # Jinja hands the context to this filter as well.
    compiled.environment.filters["random"] = lambda *given: random.Random(now.isoformat()).choice(list(given[-1]))
    return pinned
