"""Which fields there are, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from jobs.field_paths import FieldPath


@cache
def blocks(root: type[BaseModel]) -> Mapping[str, tuple[str, ...]]:
    """The keys of every block of a document, by the block's path; lists are written `datasets[]`."""
    return dict(_blocks("", root))


def _blocks(path: str, block: type[BaseModel]) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield path, tuple(block.model_fields)
    for name, info in block.model_fields.items():
        inner = block_in(info.annotation)
        if inner is not None:
            suffix = "[]" if is_list_of_blocks(info.annotation) else ".*" if is_mapping(info.annotation) else ""
            yield from _blocks(f"{path}.{name}{suffix}".lstrip("."), inner)


def block_in(annotation: Any) -> type[BaseModel] | None:
    """The block that a field holds, alone or in a list or mapping; None where it holds none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        arguments = arguments[:1]
    return next((found for found in map(block_in, arguments) if found is not None), None)


def is_list_of_blocks(annotation: Any) -> bool:
    """True for fields such as `datasets`."""
    return get_origin(annotation) is tuple and block_in(annotation) is not None


def is_mapping(annotation: Any) -> bool:
    """True for fields with free keys, such as `labels`."""
    return isinstance(get_origin(annotation), type) and issubclass(get_origin(annotation) or object, Mapping)


def block_pattern(path: FieldPath) -> str:
    """The key of a block in `blocks`: `datasets[]` for every item of datasets."""
    if path[:2] == ("sweep", "parameters") and len(path) > 2:
        return "sweep.parameters.*"
    return ".".join("[]" if isinstance(step, int) else step for step in path).replace(".[]", "[]")
