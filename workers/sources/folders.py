"""Which files of a folder or a hub dataset are which split: the rules of `datasets`, on a list of names.

https://huggingface.co/docs/datasets/repository_structure
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from fsspec.utils import glob_translate

from jobs.data_formats import builder_of
from jobs.errors import DataError

_CARD_KEYS = frozenset(
    {"config_name", "data_files", "data_dir", "default", "description", "version", "features", "drop_labels"}
)
_DELIMITER_KEYS = ("sep", "delimiter")


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The files of each split, in the order in which they are read."""

    names: Mapping[str, tuple[str, ...]]
    delimiter: str | None = None
    """Of csv files, where the card names it."""


def split_files(
    names: Sequence[str],
    card: Mapping[str, Any],
    *,
    name: str | None,
    data_files: Sequence[str],
    field: str,
    shown: str,
) -> Splits:
    """Find the splits of a folder.

    Args:
        names: Its files, relative, with `/`.
        card: What stands at the head of its README.md.
        name: The configuration that is asked for.
        data_files: Files or patterns that are asked for instead of what the card or the names say.
        field: The block's path in the spec, for messages.
        shown: The folder's name in messages.

    Raises:
        DataError: Nothing fits what is asked for.
    """
    configurations = {str(one.get("config_name")): one for one in card.get("configs") or ()}
    if name is not None and (data_files or name not in configurations):
        known = f"it has {', '.join(configurations)}" if configurations else "it has no configurations"
        raise DataError(
            f"{shown}: `name` chooses a configuration, and data_files are given: keep one of the two"
            if data_files
            else f"{shown} has no configuration `{name}`: {known}",
            field=f"{field}.name",
        )
    if data_files:
        return Splits(names={"train": _matches(names, data_files, field=f"{field}.data_files", shown=shown)})
    if not configurations:
        return Splits(names=_by_name(names, "", field, shown))
    chosen = configurations[name] if name is not None else _default(configurations, field, shown)
    unknown = [key for key in chosen if key not in _CARD_KEYS and key not in _DELIMITER_KEYS]
    if unknown:
        raise DataError(
            f"{shown}: its README.md asks for {', '.join(unknown)}, which is not supported: name the files in "
            "data_files to read them as they are",
            field=field,
        )
    delimiter = next((str(chosen[key]) for key in _DELIMITER_KEYS if key in chosen), None)
    return Splits(names=_configured(names, chosen, field, shown), delimiter=delimiter)


def _default(configurations: Mapping[str, Mapping[str, Any]], field: str, shown: str) -> Mapping[str, Any]:
    for name, one in configurations.items():
        if len(configurations) == 1 or name == "default" or one.get("default"):
            return one
    raise DataError(
        f"{shown} has several configurations: set `name` to one of {', '.join(configurations)}", field=field
    )


def _configured(
    names: Sequence[str], configuration: Mapping[str, Any], field: str, shown: str
) -> dict[str, tuple[str, ...]]:
    from datasets.data_files import sanitize_patterns

    folder = str(configuration.get("data_dir") or "").strip("/")
    if configuration.get("data_files") is None:
        return _by_name(names, folder, field, shown)
    below = f"{folder}/" if folder else ""
    return {
        split: _matches(names, [below + pattern for pattern in patterns], field=field, shown=shown)
        for split, patterns in sanitize_patterns(configuration["data_files"]).items()
    }


def _by_name(names: Sequence[str], folder: str, field: str, shown: str) -> dict[str, tuple[str, ...]]:
    """Splits as the names of files and folders tell them: `train.csv`, `data/test-00000-of-00002.parquet`."""
    from datasets.data_files import FILES_TO_IGNORE, _get_data_files_patterns

    below = f"{folder}/" if folder else ""
    known = {
        name.removeprefix(below): name
        for name in names
        if name.startswith(below) and builder_of(name) and PurePosixPath(name).name not in FILES_TO_IGNORE
    }

    def resolve(pattern: str) -> list[str]:
        return _glob(list(known), pattern)

    try:
        patterns = _get_data_files_patterns(resolve)
    except FileNotFoundError as error:
        raise DataError(f"{shown} is a folder without data files that can be read", field=field) from error
    found = {
        str(split): tuple(dict.fromkeys(known[name] for pattern in some for name in resolve(pattern)))
        for split, some in patterns.items()
    }
    for split, files in found.items():
        kinds = sorted({builder_of(name) or "" for name in files})
        if len(kinds) > 1:
            raise DataError(
                f"{shown}: split {split} has files of several formats ({', '.join(kinds)}): name those to read in "
                "data_files",
                field=field,
            )
    return found


def _matches(names: Sequence[str], patterns: Sequence[str], *, field: str, shown: str) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for pattern in patterns:
        pattern = pattern.removeprefix("./")
        some = [pattern] if pattern in names else _glob(names, pattern)
        if not some:
            raise DataError(f"{shown} has no file {pattern}", field=field)
        found.update(dict.fromkeys(some))
    return tuple(found)


def _glob(names: Sequence[str], pattern: str) -> list[str]:
    expression = re.compile(glob_translate(pattern))
    return [name for name in names if expression.match(name) and _num_hidden(name) == _num_hidden(pattern)]


def _num_hidden(name: str) -> int:
    """Parts of a path that nobody means who does not name them: `.git`, `__pycache__`."""
    return sum(part.startswith((".", "__")) for part in PurePosixPath(name).parts)
