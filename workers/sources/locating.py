"""Which files a block of `datasets:` means: its own, those of a folder, of a saved dataset, or of the hub."""

from __future__ import annotations

import difflib
import glob
import json
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from jobs.data_formats import BUILDERS, COMPRESSIONS, FORMAT_BY_ENDING, builder_of
from jobs.errors import DataError
from jobs.spec import DatasetSpec
from workers.sources import hub
from workers.sources.folders import split_files
from workers.sources.opening import DataFile, open_local

_CARD = "README.md"
_SAVED, _SAVED_SPLITS = "state.json", "dataset_dict.json"


@dataclass(frozen=True, kw_only=True)
class Located:
    """The files of a block."""

    splits: Mapping[str, tuple[DataFile, ...]]
    """By split."""
    one_split: bool
    """The files are one split, whatever the block calls it."""


def _one_split(files: Sequence[DataFile]) -> Located:
    return Located(splits={"train": tuple(files)}, one_split=True)


def locate(block: DatasetSpec, *, field: str) -> Located:
    """Find the files of a block.

    Raises:
        DataError: There are none, or the block has a field that does nothing for what it names.
    """
    named = [block.data_files] if isinstance(block.data_files, str) else list(block.data_files or ())
    if block.path in BUILDERS and not os.path.isfile(block.path):
        _require_local_fields(block, field)
        if not named:
            raise DataError(f"the builder `{block.path}` needs data_files", field=field)
        return _files([path for pattern in named for path in _expand(pattern, field)], field, builder=block.path)
    if os.path.isdir(block.path):
        return _folder(block, named, field)
    repository = hub.repository_of(block.path)
    if not os.path.isfile(block.path) and builder_of(block.path) is None and repository is not None:
        return _hub(block, repository, named, field)
    _require_local_fields(block, field)
    if named:
        raise DataError("path is a file already, so data_files does nothing: keep one of the two", field=field)
    return _files(_expand(block.path, field), field, builder=None)


def _require_local_fields(block: DatasetSpec, field: str) -> None:
    for key, meaning in (("name", "a configuration"), ("revision", "a commit")):
        if getattr(block, key) is not None:
            raise DataError(
                f"`{key}` chooses {meaning} of a hub dataset and does nothing for files: leave it out",
                field=f"{field}.{key}",
            )


def _expand(pattern: str, field: str) -> list[str]:
    """The file of this name, else the files that the pattern matches."""
    if "://" in pattern:
        raise DataError(f"{pattern} is an address: download the file and name its path", field=field)
    if not os.path.lexists(pattern) and glob.has_magic(pattern):
        found = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
        if not found:
            raise DataError(f"{pattern} matches no file (looked in {Path.cwd()})", field=field)
        return found
    return [pattern]


def _files(paths: Sequence[str], field: str, *, builder: str | None) -> Located:
    files = []
    for path in paths:
        _require_file(Path(path), field)
        format = builder or builder_of(path)
        if format is None:
            raise DataError(
                f"{path}: the ending {Path(path).suffix or '(none)'} says nothing about its format; known are "
                f"{', '.join(FORMAT_BY_ENDING)}, each also with {', '.join(COMPRESSIONS)}; or write path: csv and "
                f"data_files: {path}",
                field=field,
            )
        files.append(DataFile(name=path, builder=format))
    return _one_split(files)


def _require_file(path: Path, field: str) -> None:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path} does not exist (looked in {Path.cwd()}){_near(path)}", field=field) from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}", field=field) from error
    if stat.S_ISDIR(status.st_mode):
        raise DataError(f"{path} is a folder, not a file", field=field)
    if not stat.S_ISREG(status.st_mode):
        raise DataError(
            f"{path} can be read only once, as it is a pipe or device: write its rows to a file", field=field
        )
    if status.st_size == 0:
        raise DataError(f"{path} is empty", field=field)


def _near(path: Path) -> str:
    try:
        siblings = os.listdir(path.parent)
    except OSError:
        siblings = []
    near = difflib.get_close_matches(path.name, siblings, n=2)
    return f"; did you mean {' or '.join(str(path.parent / name) for name in near)}?" if near else ""


def _folder(block: DatasetSpec, named: Sequence[str], field: str) -> Located:
    folder = Path(block.path)
    saved = (folder / _SAVED).is_file() or (folder / _SAVED_SPLITS).is_file()
    if block.revision is not None or (saved and block.name is not None):
        _require_local_fields(block, field)
    if saved and named:
        raise DataError(
            f"{folder} is a dataset saved by save_to_disk, so data_files does nothing: leave it out", field=field
        )
    if (folder / _SAVED_SPLITS).is_file():
        splits = _read_json(folder / _SAVED_SPLITS, field).get("splits") or ()
        return Located(splits={str(split): _saved(folder / str(split), field)[1] for split in splits}, one_split=False)
    if saved:
        split, files = _saved(folder, field)
        if split is None or "split" not in block.model_fields_set:
            return _one_split(files)
        return Located(splits={split: files}, one_split=False)
    names = _names_below(folder, field)
    card = _card(partial(open_local, str(folder / _CARD)), block.path, field) if _CARD in names else {}
    splits = split_files(names, card, name=block.name, data_files=named, field=field, shown=block.path)
    found = {
        split: tuple(
            DataFile(name=str(folder / name), builder=_builder(name, block.path, field), delimiter=splits.delimiter)
            for name in some
        )
        for split, some in splits.names.items()
    }
    return Located(splits=found, one_split=bool(named))


def _names_below(folder: Path, field: str) -> list[str]:
    """All files of a folder, also behind links to folders; each folder once."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}", field=field) from error

    names: list[str] = []
    seen = {os.path.realpath(folder)}
    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        names += ((Path(parent) / file).relative_to(folder).as_posix() for file in files)
        real = {name: os.path.realpath(os.path.join(parent, name)) for name in sorted(folders)}
        folders[:] = [name for name, path in real.items() if path not in seen]
        seen |= set(real.values())
    return sorted(names)


def _saved(folder: Path, field: str) -> tuple[str | None, tuple[DataFile, ...]]:
    """The split that a folder of `Dataset.save_to_disk` holds, and its files."""
    state = _read_json(folder / _SAVED, field)
    if state.get("_indices_data_files"):
        raise DataError(
            f"{folder} keeps its rows' order apart from them: save it anew with datasets 2 or later", field=field
        )
    names = [str(one["filename"]) for one in state.get("_data_files") or ()]
    return state.get("_split"), tuple(DataFile(name=str(folder / name), builder="arrow") for name in names)


def _hub(block: DatasetSpec, repository: str, named: Sequence[str], field: str) -> Located:
    found = hub.find(repository, block.revision, field)
    card = _card(found.file(_CARD).open, repository, field) if _CARD in found.names else {}
    splits = split_files(found.names, card, name=block.name, data_files=named, field=field, shown=repository)
    by_split = {
        split: tuple(
            DataFile(
                name=name,
                builder=_builder(name, repository, field),
                hub=found.file(name),
                delimiter=splits.delimiter,
            )
            for name in some
        )
        for split, some in splits.names.items()
    }
    return Located(splits=by_split, one_split=bool(named))


def _builder(name: str, shown: str, field: str) -> str:
    builder = builder_of(name)
    if builder is None:
        raise DataError(f"{shown}: the ending of {name} says nothing about its format", field=field)
    return builder


def _read_json(path: Path, field: str) -> dict[str, Any]:
    try:
        with open_local(str(path)) as file:
            read = json.load(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}", field=field) from error
    if not isinstance(read, dict):
        raise DataError(f"{path} should hold an object", field=field)
    return read


def _card(opened: Callable[[], BinaryIO], shown: str, field: str) -> Mapping[str, Any]:
    """What stands between the lines of dashes at the head of a dataset's README.md."""
    from huggingface_hub import DatasetCard

    try:
        with opened() as file:
            text = file.read().decode("utf-8")
        return DatasetCard(text, ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError) as error:
        raise DataError(f"{shown}: its README.md cannot be read: {error}", field=field) from error
