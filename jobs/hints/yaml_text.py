"""A value as it is written in YAML, on one line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import cast

from jobs.yaml_source import plain_value

_PLAIN = re.compile(r"[\w./][\w./ -]*[\w./]|[\w./]")


def yaml_text(value: object) -> str:
    """A scalar, list or block in flow style, such as `{prompt: question}`; reads back as the value."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and plain_value(value) == value else json.dumps(value)
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value).items()
        return "{" + ", ".join(f"{yaml_text(str(key))}: {yaml_text(item)}" for key, item in pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(yaml_text, cast("list[object]", value))) + "]"
    return json.dumps(value)
