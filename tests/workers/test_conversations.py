"""Rows of turns from people's files: whole turns reach the template, and what the assistant says is learned."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from jobs.errors import DataError
from tests.field_cases import CHATML, THINK, field_job, field_tokenizer, write_rows
from workers.dataset import JobData, load_job_data

ASSISTANT = {"assistant_only_loss": True}
ADD = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 3}}}
CALLING = {
    "messages": [
        {"role": "user", "content": "2+3?"},
        {"role": "assistant", "content": "", "tool_calls": [ADD]},
        {"role": "tool", "content": "5"},
        {"role": "assistant", "content": "5"},
    ],
    "tools": [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}],
}
FOUR = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "one"},
    {"role": "user", "content": "b"},
    {"role": "assistant", "content": "two"},
]
TOOLS = CHATML.replace("You are a helpful assistant", "{{ tools | tojson if tools else '' }}")
"""Prints the tools in the place of the default system prompt."""
ARGUMENTS = CHATML.replace(
    "{{ m.tool_calls[0]['function']['name'] }}",
    "{{ m.tool_calls[0]['function']['name'] }} {{ m.tool_calls[0]['function']['arguments'] | tojson }}",
)


def data_of(
    tmp_path: Path, row: dict[str, Any], template: str | None = CHATML, tokenizer: Any = None, **training: Any
) -> tuple[JobData, PreTrainedTokenizerFast]:
    tokenizer = tokenizer or field_tokenizer(template)
    rows = write_rows(tmp_path / "rows.jsonl", [row])
    return load_job_data(field_job(rows, training=training), tokenizer), tokenizer


def learned(tmp_path: Path, row: dict[str, Any], template: str | None = CHATML, **training: Any) -> str:
    data, tokenizer = data_of(tmp_path, row, template, **training)
    (only,) = data.train
    return str(tokenizer.decode(only.ids[only.labelled]))


def text(tmp_path: Path, row: dict[str, Any], template: str | None = CHATML, **training: Any) -> str:
    data, tokenizer = data_of(tmp_path, row, template, **training)
    (only,) = data.train
    return str(tokenizer.decode(only.ids))


def changed(row: dict[str, Any], *path: Any, to: Any = None, drop: bool = False) -> dict[str, Any]:
    row = copy.deepcopy(row)
    inner: Any = row
    for step in path[:-1]:
        inner = inner[step]
    if drop:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return row


class TestToolCalls:
    def test_a_call_is_learned_with_its_end(self, tmp_path: Path) -> None:
        assert learned(tmp_path, CALLING, **ASSISTANT) == "<call>add</call><|im_end|>\n5<|im_end|>\n"

    @pytest.mark.parametrize("how", ["null", "missing"])
    def test_a_turn_with_calls_needs_no_content(self, tmp_path: Path, how: str) -> None:
        row = changed(CALLING, "messages", 1, "content", drop=how == "missing")
        assert learned(tmp_path, row, **ASSISTANT) == "<call>add</call><|im_end|>\n5<|im_end|>\n"

    def test_a_turn_with_neither_is_refused(self, tmp_path: Path) -> None:
        row = changed(CALLING, "messages", 1, "tool_calls", to=None)
        row = changed(row, "messages", 1, "content", to=None)
        with pytest.raises(DataError, match=r"row 1: column `messages`: turn 2 has no text in `content` and no `tool"):
            learned(tmp_path, row)

    def test_a_template_that_prints_no_calls_refuses_them(self, tmp_path: Path) -> None:
        silent = CHATML.replace("{% if m.tool_calls %}", "{% if false %}")
        with pytest.raises(DataError, match="row 1: the chat template does not print the tool calls of turn 2"):
            learned(tmp_path, CALLING, silent, **ASSISTANT)

    def test_a_template_that_prints_one_of_two_calls_refuses_them(self, tmp_path: Path) -> None:
        other = {"type": "function", "function": {"name": "sub", "arguments": {}}}
        row = changed(CALLING, "messages", 1, "tool_calls", to=[ADD, other])
        with pytest.raises(DataError, match="does not print the tool calls of turn 2"):
            learned(tmp_path, row, **ASSISTANT)

    @pytest.mark.parametrize("arguments", [{"a": 2, "b": None}, '{"a": 2, "b": null}'], ids=["object", "text"])
    def test_arguments_come_as_the_template_takes_them(self, tmp_path: Path, arguments: Any) -> None:
        row = changed(CALLING, "messages", 1, "tool_calls", 0, "function", "arguments", to=arguments)
        assert '<call>add {"a": 2, "b": null}</call>' in text(tmp_path, row, ARGUMENTS)

    @pytest.mark.parametrize(
        "call",
        [
            {"name": "add", "arguments": {"a": 2, "b": 3}},
            {"function": {"name": "add", "arguments": '{"a": 2, "b": 3}'}, "id": None},
            '{"name": "add", "arguments": {"a": 2, "b": 3}}',
        ],
        ids=["bare", "wrapped", "text"],
    )
    def test_every_form_of_a_call_is_the_same_call(self, tmp_path: Path, call: Any) -> None:
        row = changed(CALLING, "messages", 1, "tool_calls", to=[call])
        assert text(tmp_path, row, ARGUMENTS) == text(tmp_path, CALLING, ARGUMENTS)

    @pytest.mark.parametrize("form", ["list", "text", "bare", "texts"])
    def test_every_form_of_tools_reaches_the_template(self, tmp_path: Path, form: str) -> None:
        tools: Any = CALLING["tools"]
        given = {
            "list": tools,
            "text": json.dumps(tools),
            "bare": [tool["function"] for tool in tools],
            "texts": [json.dumps(tool) for tool in tools],
        }[form]
        data, tokenizer = data_of(tmp_path, changed(CALLING, "tools", to=given), TOOLS)
        assert json.dumps(tools) in tokenizer.decode(data.train[0].ids)
        assert data.train.counts.columns_unused == ()

    def test_tools_that_the_template_does_not_print_are_told(self, tmp_path: Path) -> None:
        data, _ = data_of(tmp_path, CALLING)
        assert data.train.counts.columns_unused == ("tools",)
        assert data.notes[0].endswith("; not used: tools")

    def test_sharegpt_calls_and_observations(self, tmp_path: Path) -> None:
        row = {
            "conversations": [
                {"from": "human", "value": "2+3?"},
                {"from": "function_call", "value": '{"name":"add","arguments":{"a":2,"b":3}}'},
                {"from": "observation", "value": "5"},
                {"from": "gpt", "value": "5"},
            ]
        }
        assert learned(tmp_path, row, **ASSISTANT) == "<call>add</call><|im_end|>\n5<|im_end|>\n"
        assert text(tmp_path, row) == text(tmp_path, {"messages": CALLING["messages"]})

    def test_what_a_tool_answers_may_be_an_object(self, tmp_path: Path) -> None:
        assert '<|im_start|>tool\n{"sum": 5}<|im_end|>' in text(
            tmp_path, changed(CALLING, "messages", 2, "content", to={"sum": 5})
        )


class TestTurns:
    def test_templates_that_rewrite_earlier_turns_train(self, tmp_path: Path) -> None:
        assert learned(tmp_path, {"messages": FOUR}, THINK, **ASSISTANT) == (
            "one<|im_end|>\n<think>\n\n</think>\n\ntwo<|im_end|>\n"
        )

    def test_marks_of_generations_say_what_is_learned(self, tmp_path: Path) -> None:
        template = (
            "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
            "<|im_end|>{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
            "{% if not add_generation_prompt %}<|endoftext|>{% endif %}"
        )
        assert learned(tmp_path, {"messages": FOUR}, template, **ASSISTANT) == "one<|im_end|>two<|im_end|>"
        prompted = {"prompt": FOUR[:3], "completion": FOUR[3:]}
        assert learned(tmp_path, prompted, template) == "two<|im_end|>"

    def test_reasoning_is_learned(self, tmp_path: Path) -> None:
        for key in ("reasoning_content", "thinking", "reasoning"):
            row = {"messages": [FOUR[0], {**FOUR[1], key: "hard"}]}
            assert learned(tmp_path, row, THINK, **ASSISTANT) == "<think>\nhard\n</think>\n\none<|im_end|>\n"

    def test_reasoning_that_no_template_prints_is_told(self, tmp_path: Path) -> None:
        data, _ = data_of(tmp_path, {"messages": [FOUR[0], {**FOUR[1], "reasoning_content": "hard", "speaker": "x"}]})
        assert data.train.counts.columns_unused == ("messages[].speaker", "messages[].reasoning_content")

    def test_an_answer_that_does_not_begin_as_it_is_invited(self, tmp_path: Path) -> None:
        template = (
            "{% for m in messages %}{% if m.role == 'user' %}U:{{ m.content }}{% else %}A:{{ m.content }}<|endoftext|>"
            "{% endif %}{% endfor %}{% if add_generation_prompt %}A:<think>\n{% endif %}"
        )
        assert learned(tmp_path, {"prompt": FOUR[:1], "completion": FOUR[1:2]}, template) == "one<|endoftext|>"

    def test_a_missing_end_token_is_told(self, tmp_path: Path) -> None:
        template = (
            "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}assistant: {% endif %}"
        )
        row = {
            "prompt": [{"role": "user", "content": "fox"}],
            "completion": [{"role": "assistant", "content": "hello"}],
        }
        data, tokenizer = data_of(tmp_path, row, template)
        assert tokenizer.decode(data.train[0].ids[data.train[0].labelled]) == " hello\n"
        assert data.notes[1].startswith("no row teaches the end token <|im_end|>")
        assert len(data_of(tmp_path, row)[0].notes) == 1

    def test_conversations_that_the_assistant_begins(self, tmp_path: Path) -> None:
        assert learned(tmp_path, {"messages": FOUR[1:]}, **ASSISTANT) == "one<|im_end|>\ntwo<|im_end|>\n"

    def test_parts_of_text_are_joined(self, tmp_path: Path) -> None:
        parts = [{"type": "text", "text": "o"}, {"type": "text", "value": "n"}, "e"]
        row = {"messages": [FOUR[0], {"role": "assistant", "content": parts}]}
        assert text(tmp_path, row) == text(tmp_path, {"messages": FOUR[:2]})

    def test_a_part_that_is_no_text_is_named(self, tmp_path: Path) -> None:
        row = {"messages": [{"role": "user", "content": [{"type": "image", "url": "x.png"}]}, FOUR[1]]}
        with pytest.raises(DataError, match="turn 1 has a part of type `image`"):
            text(tmp_path, row)

    def test_a_turn_that_the_template_leaves_out_is_named(self, tmp_path: Path) -> None:
        template = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'tool' %}")
        with pytest.raises(DataError, match=r"leaves out turn 3 \(tool\)"):
            text(tmp_path, CALLING, template)

    def test_the_templates_own_refusal_is_told(self, tmp_path: Path) -> None:
        template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
        with pytest.raises(DataError, match="row 1: the chat template refuses the conversation: no system"):
            text(tmp_path, {"messages": [{"role": "system", "content": "s"}, *FOUR]}, template)

    def test_words_of_private_characters_are_learned_as_they_are(self, tmp_path: Path) -> None:
        said = "\U000f0000a\U00100000"
        assert learned(tmp_path, {"messages": [FOUR[0], {**FOUR[1], "content": said}]}, **ASSISTANT).startswith(said)

    def test_turns_alike_are_told_apart(self, tmp_path: Path) -> None:
        assert learned(tmp_path, {"messages": [*FOUR[:2], *FOUR[:2]]}, THINK, **ASSISTANT) == (
            "one<|im_end|>\n<think>\n\n</think>\n\none<|im_end|>\n"
        )


class TestSwitches:
    @pytest.mark.parametrize("switch", [{"train": False}, {"weight": 0}, {"loss": False}, {"training": False}])
    def test_a_turn_that_is_not_to_be_learned(self, tmp_path: Path, switch: dict[str, Any]) -> None:
        row = {"messages": [FOUR[0], {**FOUR[1], **switch}, *FOUR[2:]]}
        assert learned(tmp_path, row, **ASSISTANT) == "two<|im_end|>\n"
        whole = learned(tmp_path, row)
        assert "one<|im_end|>" not in whole
        assert "a<|im_end|>" in whole
        assert "two<|im_end|>" in whole

    def test_a_turn_that_is_to_be_learned(self, tmp_path: Path) -> None:
        row = {"messages": [*FOUR[:2], {**FOUR[2], "train": True}, FOUR[3]]}
        assert learned(tmp_path, row, **ASSISTANT) == "one<|im_end|>\nb<|im_end|>\ntwo<|im_end|>\n"

    def test_a_part_that_is_not_to_be_learned(self, tmp_path: Path) -> None:
        parts = [{"type": "text", "text": "o"}, {"type": "text", "text": " not", "train": False}]
        row = {"messages": [FOUR[0], {"role": "assistant", "content": parts}]}
        assert text(tmp_path, row, **ASSISTANT).endswith("o not<|im_end|>\n")
        assert learned(tmp_path, row, **ASSISTANT) == "o<|im_end|>\n"

    def test_switches_choose_among_marked_generations(self, tmp_path: Path) -> None:
        marked = CHATML.replace("{{ m['content'] }}", "{% generation %}{{ m['content'] }}{% endgeneration %}")
        row = {"messages": [FOUR[0], {**FOUR[1], "train": False}, *FOUR[2:]]}
        assert learned(tmp_path, row, marked, **ASSISTANT) == "two"

    @pytest.mark.parametrize("switch", [{"weight": 0.5}, {"train": "no"}, {"train": True, "weight": 0}])
    def test_nothing_between(self, tmp_path: Path, switch: dict[str, Any]) -> None:
        row = {"messages": [FOUR[0], {**FOUR[1], **switch}]}
        with pytest.raises(DataError, match=r"turn 2 (has `|is to be learned by one of)"):
            learned(tmp_path, row)

    def test_offsets_are_refused_by_name(self, tmp_path: Path) -> None:
        row = {"messages": [FOUR[0], {**FOUR[1], "train_detail": []}]}
        with pytest.raises(DataError, match="turn 2 has `train_detail`, which is not supported"):
            learned(tmp_path, row)
