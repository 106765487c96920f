"""The names of fields as people give them on the command line and in sweeps."""

from __future__ import annotations

import re

from pydantic import BaseModel

from jobs.catalogue import block_in, is_list_of_blocks, is_mapping
from jobs.field_paths import FieldPath, shown_key, shown_path
from jobs.unknown_keys import unknown_key

_STEP = re.compile(r"[^.\[\]]+")


class UnknownFieldError(ValueError):
    """There is no such field; the message offers the nearest."""


def resolve(text: str, root: type[BaseModel]) -> FieldPath:
    """The path that a dotted field names, such as `lora.r` or `datasets[0].path`.

    What follows a mapping of free keys is one key, dots and all: `lora.rank_pattern.model.layers.0.q_proj`.

    Raises:
        UnknownFieldError: there is no such field.
    """
    path: FieldPath = ()
    block: type[BaseModel] | None = root
    rest = text
    while rest:
        match = _STEP.match(rest)
        if match is None or block is None:
            raise UnknownFieldError(f"{shown_key(text)!r} is not the name of a field")
        key = match[0]
        if key not in block.model_fields:
            raise UnknownFieldError(unknown_key(path, key, root=root))
        path, rest = (*path, key), rest[match.end() :]
        annotation = block.model_fields[key].annotation
        if rest.startswith(".") and len(rest) > 1 and is_mapping(annotation):
            return (*path, rest[1:])
        block = block_in(annotation)
        if rest and is_list_of_blocks(annotation):
            match = re.match(r"\[(\d{1,4})\]", rest)
            if match is None:
                raise UnknownFieldError(f"{shown_path(path)} is a list: write {shown_path(path)}[0] for its first item")
            path, rest = (*path, int(match[1])), rest[match.end() :]
        if rest:
            if not re.match(r"\.[^.\[\]]", rest):
                raise UnknownFieldError(f"{shown_key(text)!r} is not the name of a field")
            rest = rest[1:]
    if not path:
        raise UnknownFieldError("the name of a field is missing")
    return path
