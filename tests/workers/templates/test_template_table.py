"""The chat templates of TRL and Axolotl: each gives what the assistant says, or a refusal whose reason is right.

Every content is a word of its own, and every byte a token, so that a label too many or too few shows. What is right is
written in `expected`, or said by transformers' own mask where a template has marks.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from jobs.errors import DataError
from tests.field_cases import field_job, write_rows
from tests.real_inputs import require, template_dir
from tests.workers.templates.expected import CALL_ENDS, ENDS, FRAMES, LAST_ENDS, LAST_FRAMES
from workers.dataset import load_job_data

pytestmark = pytest.mark.real


def _user(number: int) -> dict[str, Any]:
    return {"role": "user", "content": f"USER{number}"}


def _answer(number: int) -> dict[str, Any]:
    return {"role": "assistant", "content": f"ANSWER{number}"}


_CALL = {"type": "function", "id": "call00001", "function": {"name": "CALLADD", "arguments": {"ARGA": 2}}}
_SCHEMA = {"type": "object", "properties": {"ARGA": {"type": "integer", "description": "x"}}, "required": ["ARGA"]}
_TOOLS = [{"type": "function", "function": {"name": "CALLADD", "description": "adds", "parameters": _SCHEMA}}]
SHAPES: dict[str, dict[str, Any]] = {
    "two turns": {"messages": [_user(1), _answer(1), _user(2), _answer(2)]},
    "prompt": {"prompt": [_user(1), _answer(1), _user(2)], "completion": [_answer(2)]},
    "system": {"messages": [{"role": "system", "content": "SYSTEM"}, _user(1), _answer(1), _user(2), _answer(2)]},
    "first": {"messages": [_answer(1), _user(1), _answer(2)]},
    "tools": {
        "messages": [
            _user(1),
            {"role": "assistant", "content": "", "tool_calls": [_CALL]},
            {"role": "tool", "content": "TOOLFIVE", "tool_call_id": "call00001", "name": "CALLADD"},
            _answer(2),
        ],
        "tools": _TOOLS,
    },
}
_FOREIGN = re.compile(r"USER|TOOLFIVE|SYSTEM\b|<BOS>")
_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")


def _tokenizer(template: str) -> PreTrainedTokenizerFast:
    vocabulary = {char: number for number, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<EOS>", bos_token="<BOS>", chat_template=template)


def _templates() -> dict[str, str]:
    require()
    folder = template_dir()
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path.read_text("utf-8")
        for path in sorted(folder.rglob("*.jinja"))
    }


def _learned(tokenizer: PreTrainedTokenizerFast, row: Mapping[str, Any], folder: Path) -> list[str]:
    """The learned stretches of a row, as training would have them."""
    training = {"assistant_only_loss": "messages" in row, "max_length": 100_000}
    job = field_job(write_rows(folder / "rows.jsonl", [row]), training=training)
    (example,) = load_job_data(job, tokenizer).train
    return _stretches(tokenizer, example.ids.tolist(), example.labelled.tolist())


def _stretches(tokenizer: PreTrainedTokenizerFast, ids: list[int], labelled: list[bool]) -> list[str]:
    runs = itertools.groupby(zip(ids, labelled, strict=True), key=lambda pair: pair[1])
    return [str(tokenizer.decode([one for one, _ in run])) for is_learned, run in runs if is_learned]


def _turns(tokenizer: PreTrainedTokenizerFast, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The row's turns in the form that the template takes: of some the contents are lists of parts alone."""
    turns = row.get("messages") or [*row["prompt"], *row["completion"]]
    try:
        if "USER1" in str(tokenizer.apply_chat_template([_user(1), _answer(1)], tokenize=False)):
            return turns
    except Exception:  # a template may raise anything
        pass
    return [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]


def _said_by_transformers(tokenizer: PreTrainedTokenizerFast, row: Mapping[str, Any]) -> list[str]:
    """What transformers' mask says is generated, of the last turn alone where the others are the prompt."""
    turns = _turns(tokenizer, row)
    encoded: Any = tokenizer.apply_chat_template(
        turns, tools=row.get("tools"), return_assistant_tokens_mask=True, return_dict=True
    )
    # Nothing comes before the first token, so that it can't be predicted.
    mask = [False, *(bool(one) for one in encoded["assistant_masks"][1:])]
    found = _stretches(tokenizer, encoded["input_ids"], mask)
    if "messages" in row:
        return found
    return found[next(number for number, text in enumerate(found) if "ANSWER2" in text) :]


def _expected(name: str, shape: str, learned: list[str]) -> list[str]:
    """What is right for a template without marks; of a call only its two ends are known, and what it must hold."""
    last = f"{LAST_FRAMES.get(name, '')}ANSWER2{LAST_ENDS[name]}"
    if shape == "prompt":
        return [last]
    if shape != "tools":
        return [f"{FRAMES.get(name, '')}ANSWER1{ENDS[name]}", last]
    call = learned[0]
    is_right = "CALLADD" in call and "ARGA" in call and "2" in call and call.endswith(CALL_ENDS[name])
    header = re.match(r"\s*(<\|?im_start|<\|?start_|<start_of_turn|<\|turn|<\|START_OF_TURN|assistant|model)", call)
    assert is_right, call
    assert header is None, call
    return [call, last]


def _refused_rightly(message: str, tokenizer: PreTrainedTokenizerFast, row: Mapping[str, Any]) -> bool:
    """Whether what a refusal says is so, asked of transformers alone."""
    turns = _turns(tokenizer, row)
    try:
        text = str(tokenizer.apply_chat_template(turns, tools=row.get("tools"), tokenize=False))
    except Exception as error:
        return "the chat template refuses the conversation" in message and str(error) in message
    if "does not print the tool calls" in message:
        return "CALLADD" not in str(tokenizer.apply_chat_template(turns, tokenize=False))
    return "leaves out turn 1 (system)" in message and "SYSTEM" not in text.replace("[SYSTEM_PROMPT]", "")


def _outcome(name: str, template: str, shape: str, folder: Path) -> str:
    """`exact`, `refused: why`, or `WRONG: what`."""
    tokenizer, row = _tokenizer(template), SHAPES[shape]
    try:
        learned = _learned(tokenizer, row, folder)
    except DataError as error:
        reason = str(error).split("row 1: ", 1)[-1].split("; correct or remove", 1)[0]
        return f"refused: {reason}" if _refused_rightly(str(error), tokenizer, row) else f"WRONG: {error}"
    try:
        is_marked = _MARKED.search(template) is not None
        right = _said_by_transformers(tokenizer, row) if is_marked else _expected(name, shape, learned)
    except AssertionError as error:
        return f"WRONG: {error}"
    if learned != right or _FOREIGN.search("".join(learned)):
        return f"WRONG: {learned!r}, not {right!r}"
    return "exact"


def test_every_template_gives_what_the_assistant_says_or_a_right_refusal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    templates = _templates()
    outcomes = {
        name: {shape: _outcome(name, template, shape, tmp_path) for shape in SHAPES}
        for name, template in templates.items()
    }
    with capsys.disabled():
        print(f"\n{'template':36}" + "".join(f"{shape:12}" for shape in SHAPES))
        for name, found in outcomes.items():
            print(f"{name:36}" + "".join(f"{one.split(':')[0]:12}" for one in found.values()))
        reasons = sorted({one for found in outcomes.values() for one in found.values() if one.startswith("refused")})
        print("\n".join(reasons))
    wrong = {(name, shape): one for name, found in outcomes.items() for shape, one in found.items() if one[0] == "W"}
    assert not wrong
    assert len(templates) > 100
    for shape in ("two turns", "prompt"):
        assert all(found[shape] == "exact" for found in outcomes.values())
