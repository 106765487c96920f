"""A chat template where it is kept: in a file of its own, or with a tokenizer, in a folder or on the hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from transformers.utils.hub import cached_file

from jobs.local_files import is_hub_name
from workers import confinement

_MOST_TEMPLATE_BYTES = 2**20
_MOST_CONFIG_BYTES = 2**25
"""A tokenizer_config.json lists added tokens too, thousands of them."""
_JINJA = "chat_template.jinja"
_KEPT_IN = (_JINJA, "chat_template.json", "tokenizer_config.json")
"""Where tokenizers keep their template, the newest way first."""

Template = str | dict[str, str]
"""The template, or several by name: `default`, `tool_use`."""


def read_template(source: str) -> Template:
    """The chat template of a file, of a folder with a tokenizer, or of a hub model.

    Raises:
        OSError: It cannot be read.
        ValueError: There is none, or what there is is none.
    """
    path = Path(source)
    if path.is_dir():
        return _kept_with(lambda name: path / name if (path / name).is_file() else None, source)
    if not path.exists() and is_hub_name(source):
        return _kept_with(lambda name: _fetched(source, name), source, opened=_open_cached)
    if path.suffix == ".json":
        found = _from_json(_text(path, _MOST_CONFIG_BYTES))
        if found is None:
            raise ValueError(f"{path} holds no `chat_template`")
        return found
    return _text(path, _MOST_TEMPLATE_BYTES)


def _kept_with(
    find: Callable[[str], Path | None], source: str, *, opened: Callable[[Path], BinaryIO] = confinement.open_file
) -> Template:
    for name in _KEPT_IN:
        path = find(name)
        if path is None:
            continue
        if name == _JINJA:
            return _text(path, _MOST_TEMPLATE_BYTES, opened)
        found = _from_json(_text(path, _MOST_CONFIG_BYTES, opened))
        if found is not None:
            return found
    raise ValueError(f"{source} has none: no {_JINJA}, and no `chat_template` in {_KEPT_IN[1]} or {_KEPT_IN[2]}")


def _from_json(text: str) -> Template | None:
    try:
        config: Any = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    found = config.get("chat_template") if isinstance(config, dict) else None
    if isinstance(found, list):
        named = {
            one["name"]: one["template"] for one in found if isinstance(one, dict) and {"name", "template"} <= {*one}
        }
        found = named or None
    if isinstance(found, dict) and not all(isinstance(one, str) for one in found.values()):
        raise ValueError("its `chat_template` is neither text nor a list of {name, template}")
    return found if isinstance(found, str | dict) else None


def _fetched(repository: str, name: str) -> Path | None:
    try:
        file = cached_file(
            repository,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=True,
        )
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise OSError(
            f"{repository} is neither a file nor a folder here, and cannot be fetched from the hub: {reason}; put the "
            "template into a file and name that"
        ) from error
    return Path(file) if file is not None else None


def _open_cached(path: Path) -> BinaryIO:
    """What the hub gave lies in its cache, which is no folder that a spec names."""
    return path.open("rb")


def _text(path: Path, most_bytes: int, opened: Callable[[Path], BinaryIO] = confinement.open_file) -> str:
    # A device may have no end.
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a file")
    with opened(path) as stream:
        content = stream.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"{path} is larger than {most_bytes // 1024} KiB")
    return content.decode("utf-8")
