"""Which names of a spec are files of a machine, and which are names on a hub.

Decided once, where a job is submitted, and kept in the form of the name: a local file or folder is an absolute path
from then on, and whatever is not absolute is on a hub, a URL or a builder. Nobody who reads later asks a file system
which it is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jobs.data_formats import BUILDERS, builder_of

if TYPE_CHECKING:
    from jobs.spec import DatasetSpec

Kind = Literal["model", "template", "data", "files", "output"]
"""What a field names: a base or an adapter, a chat template, a data set, files within one, a place to publish to."""

_FILE_ENDINGS = (".jinja", ".jinja2", ".gguf", ".safetensors", ".gz", ".zst", ".bz2", ".xz", ".zip", ".tar")
"""Of files beside those that rows are read from."""
_REMOTE_SCHEMES = frozenset({"hf", "http", "https", "s3", "gs", "gcs", "az", "abfs"})
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HUB_NAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}/)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}")
"""As the hub takes them: `name` or `organisation/name`."""


def scheme_of(name: str) -> str:
    """Of a URL, in lowercase; empty for everything else."""
    found = _SCHEME.match(name)
    return found[1].lower() if found else ""


def is_remote(name: str) -> bool:
    """Whether a name is a URL of another machine. None that chains file systems (`zip://…::…`) is."""
    return scheme_of(name) in _REMOTE_SCHEMES and "::" not in name


def is_hub_name(name: str) -> bool:
    """Whether a name could be one on the hub, and does not end as a file does."""
    return (
        _HUB_NAME.fullmatch(name) is not None
        and ".." not in name
        and "--" not in name
        and builder_of(name) is None
        and not name.lower().endswith(_FILE_ENDINGS)
    )


@dataclass(frozen=True, kw_only=True)
class Place:
    """A text of a document that may name a file."""

    field: str
    kind: Kind
    block: Any
    key: str | int
    source: Any = None
    """With `files`: the block of the data set that they belong to."""

    @property
    def text(self) -> str:
        """The text."""
        return self.block[self.key]


def places(document: dict[str, Any]) -> Iterator[Place]:
    """Every field of a spec, as JSON, that can name a file. A data set comes before its files."""
    model, lora, output = document["model"], document["lora"], document["output"]
    yield Place(field="model.model_name_or_path", kind="model", block=model, key="model_name_or_path")
    if model["chat_template_path"] is not None:
        yield Place(field="model.chat_template_path", kind="template", block=model, key="chat_template_path")
    for key in ("parent", "init_from"):
        if lora[key] is not None:
            yield Place(field=f"lora.{key}", kind="model", block=lora, key=key)
    if output["uri"] is not None:
        yield Place(field="output.uri", kind="output", block=output, key="uri")
    for name in ("datasets", "eval_datasets"):
        for index, block in enumerate(document[name]):
            yield from data_places(block, f"{name}[{index}]")


def data_places(block: dict[str, Any], field: str) -> Iterator[Place]:
    """The same of one data set, as JSON, whose path in the spec is `field`."""
    yield Place(field=f"{field}.path", kind="data", block=block, key="path")
    files: str | list[str] | None = block["data_files"]
    if isinstance(files, str):
        yield Place(field=f"{field}.data_files", kind="files", block=block, key="data_files", source=block)
    elif files is not None:
        for number in range(len(files)):
            yield Place(field=f"{field}.data_files[{number}]", kind="files", block=files, key=number, source=block)


def is_of_hub(block: DatasetSpec) -> bool:
    """Whether a settled data set is one of the hub: neither a local file or folder, a builder, nor a URL."""
    return not os.path.isabs(block.path) and block.path not in BUILDERS and not scheme_of(block.path)
