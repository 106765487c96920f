"""The value types of spec fields: what each accepts, and the sentence that says so when it does not.

Every scalar is strict, so that `r: "16"` or `use_rslora: 1` is answered rather than guessed at. Fields that take
values of several types are told apart before pydantic tries its union, so that a wrong value gives one sentence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, JsonValue, Tag

from jobs.frozen_dict import FrozenDict
from jobs.plain_spellings import AS_FLAG, AS_NUMBER, as_number
from jobs.regex_globs import globs

MAX_COUNT = 2**31 - 1
MAX_TEXT_CHARACTERS = 4096
MAX_ITEMS = 1000
"""Longest list or mapping in a spec; bounds what a sweep multiplies."""

NAME_PATTERN = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
# pydantic leaves the defaults of factories out of the JSON Schema.
NONE_BY_DEFAULT: dict[str, JsonValue] = {"default": {}}
_LABEL_PART = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL_KEY = re.compile(rf"([a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_LABEL_PART}")
_LABEL_VALUE = re.compile(rf"({_LABEL_PART})?")


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("should not hold a NUL character")
    return text


def _name(text: str) -> str:
    if not re.fullmatch(NAME_PATTERN, text):
        raise ValueError(
            "should be 1 to 63 lowercase letters, digits and dashes, beginning and ending with a letter or digit"
        )
    return text


def _globs(pattern: str) -> str:
    """What to write for a regular expression; examples where it has no globs."""
    found = globs(pattern)
    return "`[" + ", ".join(found) + "]`" if found else "`q_proj`, `*.mlp.*_proj`"


def _module_glob(text: str) -> str:
    if text == "all-linear":
        raise ValueError("`all-linear` stands alone, not in a list: write `target_modules: all-linear`")
    # `layers.0.*` is a fine glob; what begins with `.*` was meant as a regular expression.
    if text.startswith(".*") or re.search(r"[\\^$()|+{}]", text):
        raise ValueError(f"looks like a regular expression; here are names and globs: {_globs(text)}")
    if not re.fullmatch(r"[\w.*?\[\]!-]+", text):
        raise ValueError("should be a module name or a glob, such as `q_proj` or `*.mlp.*_proj`")
    return text


def _labels(labels: Mapping[str, str]) -> FrozenDict[str]:
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            raise ValueError(
                f"{key[:80]!r}: {value[:80]!r} is no label: up to 63 letters, digits, `-`, `_` and `.`, beginning and "
                "ending with a letter or digit (a key may carry a `domain/` before it)"
            )
    return FrozenDict(labels)


Flag = Annotated[bool, Field(strict=True), *AS_FLAG]
Count = Annotated[int, Field(strict=True, ge=1, le=MAX_COUNT), *AS_NUMBER]
CountOrZero = Annotated[int, Field(strict=True, ge=0, le=MAX_COUNT), *AS_NUMBER]
Seed = Annotated[int, Field(strict=True, ge=0, le=2**32 - 1), *AS_NUMBER]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False), *AS_NUMBER]
PositiveOrZero = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False), *AS_NUMBER]
BelowOne = Annotated[float, Field(strict=True, ge=0, lt=1, allow_inf_nan=False), *AS_NUMBER]
Text = Annotated[str, Field(strict=True, min_length=1, max_length=MAX_TEXT_CHARACTERS), AfterValidator(_without_nul)]
Name = Annotated[
    str,
    Field(strict=True, json_schema_extra={"pattern": f"^{NAME_PATTERN}$", "maxLength": 63}),
    AfterValidator(_name),
]
Labels = Annotated[Mapping[str, str], Field(max_length=64, json_schema_extra=NONE_BY_DEFAULT), AfterValidator(_labels)]
ModuleGlob = Annotated[str, Field(strict=True, min_length=1, max_length=256), AfterValidator(_module_glob)]


def _whole_or_share(noun: str) -> Callable[[object], object]:
    def check(value: object) -> object:
        value = as_number(value)
        if isinstance(value, float):
            if not 0 <= value < 1:
                raise ValueError(f"a decimal is a share, at least 0 and less than 1; write a number of {noun} whole")
        elif isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
            raise ValueError(f"should be a whole number of {noun}, or a share of at least 0 and less than 1")
        return value or 0

    return check


_AT_LEAST_ZERO = Field(json_schema_extra={"minimum": 0})
RowsOrShare = Annotated[int | float, _AT_LEAST_ZERO, BeforeValidator(_whole_or_share("rows"))]
StepsOrShare = Annotated[int | float, _AT_LEAST_ZERO, BeforeValidator(_whole_or_share("steps"))]


def _every(value: object) -> object:
    value = as_number(value)
    if isinstance(value, float) and value.is_integer() and value >= 1:
        value = int(value)
    if isinstance(value, float):
        if not 0 < value < 1:
            raise ValueError("a decimal is a share of all steps, between 0 and 1; write a number of steps whole")
    elif isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_COUNT:
        raise ValueError("should be a whole number of steps, at least 1, or a share of all steps between 0 and 1")
    return value


Every = Annotated[int | float, Field(json_schema_extra={"exclusiveMinimum": 0}), BeforeValidator(_every)]
"""Steps between two events: a whole number, or, as in transformers, a decimal below 1 as a share of all steps."""


def _scale(value: object) -> object:
    value = as_number(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError("should be a finite number greater than 0")
    return int(value) if isinstance(value, float) and value.is_integer() else value


Scale = Annotated[int | float, Field(json_schema_extra={"exclusiveMinimum": 0}), BeforeValidator(_scale)]
"""A LoRA alpha. Whole numbers stay whole, as PEFT writes them."""


def _steps_or_all(value: int) -> int:
    if value == 0:
        raise ValueError("should be at least 1, or -1 to train for training.num_train_epochs")
    return value


StepsOrAll = Annotated[int, Field(strict=True, ge=-1, le=MAX_COUNT), AfterValidator(_steps_or_all), *AS_NUMBER]


def _all_linear(value: object) -> object:
    if value == "all-linear":
        return value
    if isinstance(value, str) and re.search(r"[\\^$()|+{}]|\.\*", value):
        raise ValueError(f"looks like a regular expression; here are names and globs: write {_globs(value)}")
    if isinstance(value, str) and re.fullmatch(r"[\w.*?-]+(\s*,\s*[\w.*?-]+)*", value):
        raise ValueError(f"should be `all-linear` or a list: write [{', '.join(re.split(chr(44) + ' *', value))}]")
    raise ValueError("should be `all-linear`, or a list of names or globs such as [q_proj, v_proj]")


def text_or_list(value: object) -> str:
    """The branch of a union of text and list; what is neither goes to "text", whose sentence names both."""
    return "list" if isinstance(value, list | tuple) else "text"


TargetModules = Annotated[
    Annotated[Literal["all-linear"], BeforeValidator(_all_linear), Tag("text")]
    | Annotated[tuple[ModuleGlob, ...], Field(min_length=1, max_length=MAX_ITEMS), Tag("list")],
    Discriminator(text_or_list),
]
ModuleGlobs = Annotated[tuple[ModuleGlob, ...], Field(min_length=1, max_length=MAX_ITEMS)]
Names = Annotated[tuple[Text, ...], Field(min_length=1, max_length=MAX_ITEMS)]
_PATTERN = Field(max_length=MAX_ITEMS, json_schema_extra=NONE_BY_DEFAULT)
RankPattern = Annotated[Mapping[ModuleGlob, Count], _PATTERN, AfterValidator(FrozenDict[int])]
AlphaPattern = Annotated[Mapping[ModuleGlob, Scale], _PATTERN, AfterValidator(FrozenDict[int | float])]
DataFiles = Annotated[Annotated[Text, Tag("text")] | Annotated[Names, Tag("list")], Discriminator(text_or_list)]


def _init_lora_weights(value: object) -> object:
    if isinstance(value, bool) or value in ("gaussian", "orthogonal"):
        return value
    accepted = "write true, false, gaussian or orthogonal"
    if isinstance(value, str) and re.fullmatch(r"pissa(_niter_\d+)?|olora|corda|lora_ga", value):
        raise ValueError(
            f"not supported yet: it overwrites the base weight, and a base that jobs share stays as it is; {accepted}"
        )
    if value == "loftq":
        raise ValueError(f"this overwrites the base weight, so it cannot share its base with other jobs; {accepted}")
    if value in ("eva", "mica"):
        raise ValueError(f"not supported yet: it needs a pass over the rows or weights before training; {accepted}")
    raise ValueError(f"should be {accepted.removeprefix('write ')}")


InitLoraWeights = Annotated[bool | Literal["gaussian", "orthogonal"], BeforeValidator(_init_lora_weights)]


COLUMNS = (
    "text",
    "text_pair",
    "label",
    "prompt",
    "completion",
    "messages",
    "instruction",
    "input",
    "output",
    "conversations",
)
"""The column names by which rows are recognised."""


def _columns(columns: Mapping[str, str]) -> FrozenDict[str]:
    for ours in columns:
        if ours not in COLUMNS:
            raise ValueError(f"{ours[:80]!r} is not a column that rows are recognised by: {', '.join(COLUMNS)}")
    return FrozenDict(columns)


Columns = Annotated[Mapping[str, Text], Field(json_schema_extra=NONE_BY_DEFAULT), AfterValidator(_columns)]
