"""What is answered to a key that is no field: what to write instead, or that nothing has to be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from jobs.catalogue import block_pattern, blocks
from jobs.errors import Problem
from jobs.field_paths import FieldPath, replaced, shown_key
from jobs.hints.answers import Answer, Rule
from jobs.hints.data_keys import DATA_KEYS, DATASET_KEYS
from jobs.hints.model_keys import MODEL_KEYS
from jobs.hints.run_keys import RUN_KEYS
from jobs.hints.spelling import nearest
from jobs.hints.training_keys import TRAINING_KEYS
from jobs.hints.yaml_text import yaml_text
from jobs.spec import JobSpec
from jobs.support import unsupported

KEYS: Mapping[str, Rule] = RUN_KEYS | DATA_KEYS | TRAINING_KEYS | MODEL_KEYS
"""Rules for keys anywhere but in an item of `datasets`, whose rules are `DATASET_KEYS`."""

NO_VALUE: Any = object()
"""Stands for the value where a field is only named, as in a sweep."""

_LONGEST_SHOWN = 240
_SMALLEST: dict[str, Any] = {
    "name": "stand-in",
    "model": {"model_name_or_path": "stand-in"},
    "datasets": [{"path": "stand-in"}],
    "eval_datasets": [{"path": "stand-in"}],
}


def rule_of(parent: FieldPath, key: str) -> Rule | None:
    """The rule for a key of another tool in this block."""
    pattern, plain = block_pattern(parent), key.lower().replace("-", "_")
    if pattern.startswith(("sweep", "labels")):
        return None
    return (DATASET_KEYS if pattern in ("datasets[]", "eval_datasets[]") else KEYS).get(plain)


def is_needless(parent: FieldPath, key: str, value: object, beside: Mapping[str, object]) -> bool:
    """Whether a line of another tool's can be deleted and nothing else has to be done."""
    rule = rule_of(parent, key)
    return rule is not None and (value is None or rule(value, beside).needless)


def unknown_key(
    parent: FieldPath,
    key: str,
    *,
    root: type[BaseModel],
    value: object = NO_VALUE,
    beside: Mapping[str, object] | None = None,
) -> str:
    """The sentence that answers a key which its block does not have.

    Args:
        parent: the block.
        key: the key.
        root: the document's model.
        value: what was written; not given where the field is only named.
        beside: the keys and values of the block.
    """
    if key == "<<":
        return "merge keys are not used in a spec: write the keys out"
    rule = rule_of(parent, key)
    if rule is not None:
        return _of_rule(rule, parent, value, beside or {})
    known = blocks(root)
    here = known.get(block_pattern(parent), ())
    elsewhere = [f"{block}.{name}" if block else name for block, names in known.items() for name in names]
    # The same name in another block is more telling than a similar one in this block.
    exact = [field for field in elsewhere if field == key or field.endswith(f".{key}")]
    if exact:
        return _elsewhere(exact, parent, value)
    name = nearest(key, here) or nearest(key, {field.rpartition(".")[2] for field in elsewhere})
    if name is not None:
        return _mistyped(name, [field for field in elsewhere if field.rpartition(".")[2] == name], parent, value)
    if not here:
        return f"there is no field `{shown_key(key)}`"
    return f"there is no such field; here are {', '.join(here)}"


def _mistyped(name: str, fields: list[str], parent: FieldPath, value: object) -> str:
    """The field that was meant by a slip of the fingers: the one in this block, unless only another takes the value."""
    own = f"{block_pattern(parent)}.{name}".lstrip(".")
    fields.sort(key=lambda field: (value is not NO_VALUE and not accepts(field, value), field != own))
    refused = _not_supported(fields[0], value)
    shown = name if fields[0] == own else fields[0]
    return f"there is no such field; did you mean `{shown}`?" + (f" It is {refused}" if refused else "")


def _of_rule(rule: Rule, parent: FieldPath, value: object, beside: Mapping[str, object]) -> str:
    answer = rule(None if value is NO_VALUE else value, beside)
    if value is None and not answer.fields:
        return "there is no such field, and it is empty: delete the line"
    if value is None:
        return f"there is no such field, and it is empty: delete the line; {_named(answer)} is the field for it"
    note = f"; {answer.note}" if answer.note else ""
    if answer.fields:
        return f"there is no such field; did you mean {_named(answer)}?{_advice(answer, parent, value)}{note}"
    why = "and nothing has to be written" if answer.needless else "and nothing does this"
    return f"there is no such field, {why}: {answer.note}; delete the line"


def _advice(answer: Answer, parent: FieldPath, value: object) -> str:
    """`Write ...` with the values, where the fields take them."""
    fields = [(_in_this_block(field, parent), item) for field, item in answer.fields]
    lines = [f"{field.rpartition('.')[2]}: {yaml_text(item)}" for field, item in fields]
    carried = value is not NO_VALUE and all(accepts(field, item) for field, item in fields)
    if not carried or len(", ".join(lines)) > _LONGEST_SHOWN:
        return ""
    places = {_place(field, parent) for field, _ in fields}
    if len(places) == 1:
        return " Write " + " and ".join(f"`{line}`" for line in lines) + places.pop()
    return " Write " + " and ".join(
        f"`{line}`{_place(field, parent)}" for (field, _), line in zip(fields, lines, strict=True)
    )


def _in_this_block(field: str, parent: FieldPath) -> str:
    if block_pattern(parent) == "eval_datasets[]" and field.startswith("datasets[]"):
        return f"eval_{field}"
    return field


def _place(field: str, parent: FieldPath) -> str:
    block = field.rpartition(".")[0]
    if block == block_pattern(parent):
        return ""
    if not block:
        return " at the top level"
    return f" in each item of {block[:-2]}" if block.endswith("[]") else f" under {block}"


def _named(answer: Answer) -> str:
    return " and ".join(f"`{field.replace('[]', '[0]')}`" for field, _ in answer.fields)


def _elsewhere(fields: list[str], parent: FieldPath, value: object) -> str:
    if value not in (NO_VALUE, None):
        taken = [field for field in fields if accepts(field, value)]
        text = yaml_text(value)
        if len(taken) == 1 and len(text) <= _LONGEST_SHOWN:
            name = taken[0].rpartition(".")[2]
            write = f"Write `{name}: {text}`{_place(taken[0], parent)}"
            return f"there is no such field here; did you mean `{taken[0]}`? {write}"
        refused = None if taken else next(filter(None, (_not_supported(field, value) for field in fields)), None)
        if refused:
            return f"there is no such field here, and what it asks for is {refused}"
        fields = taken or fields
    return f"there is no such field here; did you mean {_either(fields[:3])}?"


def accepts(field: str, value: object) -> bool:
    """Whether a field, `datasets[].x` for one of a data set, takes a value and acts on it."""
    try:
        errors = _errors_at(field, value)
    except ValueError:
        return False
    return not errors and _not_supported(field, value) is None


def _errors_at(field: str, value: object) -> bool:
    try:
        JobSpec.model_validate(_document(field, value))
    except ValidationError as error:
        # Fields that clash are right in themselves.
        return any(found["type"] != "clash" for found in error.errors(include_url=False))
    return False


def _not_supported(field: str, value: object) -> str | None:
    """The message of `jobs.support` for a value that it refuses."""
    if value is NO_VALUE or field.startswith("sweep"):
        return None
    found: list[Problem] = unsupported(_document(field, value))
    return found[0].message if found else None


def _document(field: str, value: object) -> dict[str, Any]:
    steps: list[str | int] = []
    for step in field.split("."):
        steps += [step[:-2], 0] if step.endswith("[]") else [step]
    return cast("dict[str, Any]", replaced(_SMALLEST, tuple(steps), value))


def _either(fields: list[str]) -> str:
    quoted = [f"`{field}`" for field in fields]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def without_lead(message: str) -> str:
    """The answer to a key without "there is no such field", for a list of nothing but such answers."""
    return re.sub(
        r"^there is no such field(?:( here)?; did you mean [^?]*\? W| here, and w|, and n)",
        lambda match: "w" if match[0].endswith(("W", "w")) else "n",
        message,
    )


def taken_by_namesake(field: str, value: object) -> str | None:
    """A field of the same name in another block that takes a value which `field` refuses."""
    name = field.rpartition(".")[2]
    known = (f"{block}.{name}" for block, names in blocks(JobSpec).items() if name in names and block)
    return next((other for other in known if other != field and accepts(other, value)), None)
