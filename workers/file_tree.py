"""Looks at every file of a folder, before a library that opens them by itself is given its path."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, cast

from jobs.file_rules import FileRules

_MOST_ENTRIES = 200_000
"""Of a folder, or of all roots while the other names of a file are looked for."""
_MOST_INDEX_BYTES = 64 * 2**20
_INDICES = ("tokenizer_config.json", "state.json", "dataset_dict.json")
"""Files that name other files which are read then; `*.index.json` of weights too."""
_ADAPTER = "adapter_config.json"


class TreeError(ValueError):
    """Something in the folder may not be read."""


_File = tuple[int, int]
"""Device and inode."""


def check_tree(path: str, rules: FileRules) -> None:
    """See whether a file, or all of a folder, may be read.

    Args:
        path: Absolute, links followed, itself allowed by the rules.
        rules: Which files may be read.

    Raises:
        TreeError: Something leads out, is no file, or names a file that leads out.
    """
    shared: dict[_File, int] = {}
    """Files of several names → how many."""
    for name, status in _files(path, rules):
        if not stat.S_ISREG(status.st_mode):
            raise TreeError(f"{name} is neither a file nor a folder")
        if status.st_nlink > 1:
            shared[status.st_dev, status.st_ino] = status.st_nlink
        base = os.path.basename(name)
        if base == _ADAPTER:
            raise TreeError(f"{name} makes the folder an adapter, whose base would be read instead; name the base")
        if base in _INDICES or base.endswith(".index.json"):
            for named in _named_in(name):
                if os.path.isabs(named) or ".." in PurePosixPath(named).parts:
                    raise TreeError(f"{name} names {named!r}, which is not below its folder")
    _require_names_within(shared, rules)


def _files(path: str, rules: FileRules) -> Iterator[tuple[str, os.stat_result]]:
    """Every file, each folder that a link leads to once."""
    if not os.path.isdir(path):
        if os.path.exists(path):
            yield path, os.stat(path)
        return
    waiting, seen, number = [path], {path}, 0
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                number += 1
                if number > _MOST_ENTRIES:
                    raise TreeError(f"holds more than {_MOST_ENTRIES:,} files; name a smaller folder")
                real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
                refused = rules.refusal(real)
                if refused is not None:
                    raise TreeError(f"{entry.path} is a link that {_of_a_link(refused)}")
                if os.path.isdir(real):
                    if real not in seen:
                        seen.add(real)
                        waiting.append(real)
                elif os.path.exists(real):
                    yield entry.path, os.stat(real)


def _of_a_link(refused: str) -> str:
    return refused.replace("lies", "leads to what lies", 1)


def _named_in(path: str) -> Iterator[str]:
    """Names of files that a file tells a library to read."""
    try:
        with open(path, "rb") as stream:
            content: object = json.loads(stream.read(_MOST_INDEX_BYTES))
    except (ValueError, RecursionError):
        # The library says what is wrong with it.
        return
    if not isinstance(content, dict):
        return
    document = cast("dict[str, Any]", content)
    weights = document.get("weight_map")
    yield from _texts(weights.values() if isinstance(weights, dict) else ())
    yield from _texts(document.get("fast_tokenizer_files"))
    yield from _texts(document.get("splits"))
    files = document.get("_data_files")
    yield from _texts([file.get("filename") for file in files if isinstance(file, dict)] if files else ())


def _texts(values: Any) -> Iterator[str]:
    yield from (value for value in values or () if isinstance(value, str))


def require_all_names(status: os.stat_result, rules: FileRules) -> None:
    """See whether all names (hard links) of a file are below the roots: else it may be one from elsewhere.

    Raises:
        TreeError: They are not.
    """
    if status.st_nlink > 1:
        _require_names_within({(status.st_dev, status.st_ino): status.st_nlink}, rules)


def _require_names_within(shared: dict[_File, int], rules: FileRules) -> None:
    # Without roots everything may be read that this user can, but for a folder in which nobody else can link.
    if rules.roots is None or not shared:
        return
    left = dict(shared)
    for number, entry in enumerate(_entries(rules.roots)):
        if number == _MOST_ENTRIES:
            break
        if entry.is_file(follow_symlinks=False):
            status = entry.stat(follow_symlinks=False)
            key = (status.st_dev, status.st_ino)
            if key in left:
                left[key] -= 1
                if left[key] == 0:
                    del left[key]
                    if not left:
                        return
    raise TreeError("holds a file that has another name (a hard link) outside of the folders that are read; copy it")


def _entries(roots: tuple[str, ...]) -> Iterator[os.DirEntry[str]]:
    """All that is below the roots, once, however often a folder is mounted there."""
    waiting, seen = list(roots), set[_File]()
    while waiting:
        folder = waiting.pop()
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                for entry in entries:
                    yield entry
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except OSError:
            # What cannot be looked into holds no name that was counted.
            continue
