"""Files for jobs, read under the rules that were in force when the job was handed over.

The service has looked at every name when the job was submitted. A file can have become a link since, so whoever reads
looks again, immediately before. What opens files by itself, as the libraries do, is given a path of which every file
was looked at; what takes a stream gets one that no link leads to.
"""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO

from jobs.data_formats import BUILDERS
from jobs.errors import BaseModelError, DataError
from jobs.file_rules import FileRules
from jobs.local_files import data_places, is_hub_name, is_of_hub, is_remote
from jobs.spec import DatasetSpec
from workers.beneath import open_beneath
from workers.file_tree import TreeError, check_tree, require_all_names

_rules: ContextVar[FileRules] = ContextVar("file_rules", default=FileRules())  # noqa: B039  # frozen
_MOST_MATCHES = 100_000


class RefusedFileError(PermissionError):
    """The rules do not let a file be read."""


@contextmanager
def within(rules: FileRules) -> Iterator[None]:
    """Read under these rules, in this thread."""
    token = _rules.set(rules)
    try:
        yield
    finally:
        _rules.reset(token)


def work_in_empty_folder(folder: Path) -> None:
    """Make an empty folder this process's working directory: no name that is not absolute is a file then.

    Args:
        folder: Made where it is missing. Nobody else may write there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o500)
    os.chdir(folder)


def open_file(path: str | Path) -> BinaryIO:
    """Open a local file for reading.

    Args:
        path: Relative ones as the rules say.

    Raises:
        RefusedFileError: The rules do not let it be read.
        OSError: There is no such file, or the machine does not let it be read.
    """
    rules, located = _rules.get(), _located(str(path))
    if not rules.is_confined:
        return open(located, "rb")
    real = _require(located)
    root = rules.root_of(real)
    try:
        stream = os.fdopen(open_beneath(root, os.path.relpath(real, root)), "rb")
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EXDEV):
            raise RefusedFileError(f"{path} has become a link while it was looked at") from error
        raise
    try:
        require_all_names(os.fstat(stream.fileno()), rules)
    except TreeError as error:
        stream.close()
        raise RefusedFileError(f"{path}: {error}") from error
    return stream


def require_readable(path: str | Path) -> None:
    """Look at a file, or at a folder and every file in it, before something opens it by its path.

    Raises:
        RefusedFileError: The rules do not let it be read.
    """
    rules = _rules.get()
    if not rules.is_confined:
        return
    real = _require(_located(str(path)))
    try:
        check_tree(real, rules)
    except TreeError as error:
        raise RefusedFileError(f"{path}: {error}") from error
    except OSError as error:
        raise RefusedFileError(f"{path} cannot be read: {error.strerror}") from error


def model_source(name: str) -> str:
    """What to give to `from_pretrained`: a folder that was looked at just now, or a name that can only be on the hub.

    Raises:
        BaseModelError: The rules do not let it be read.
    """
    try:
        return _source(name)
    except RefusedFileError as error:
        raise BaseModelError(str(error), value=name) from error


def settled_source(name: str) -> str:
    """The same for the name in a `BaseKey`, of which it was decided before whether it is a folder.

    Raises:
        BaseModelError: The rules do not let it be read.
    """
    return model_source(name) if _rules.get().is_confined else name


def template_source(name: str) -> str:
    """The same for the place of a chat template.

    Raises:
        BaseModelError: The rules do not let it be read.
    """
    try:
        return _source(name)
    except RefusedFileError as error:
        raise BaseModelError(str(error), field="model.chat_template_path", value=name) from error


def data_block(block: DatasetSpec, *, field: str) -> DatasetSpec:
    """A data set whose local names are absolute where they have to be, every file of it looked at just now.

    Args:
        block: As it stands in the spec.
        field: Its path in the spec, for messages.

    Raises:
        DataError: The rules do not let a file be read.
    """
    document: dict[str, Any] = block.model_dump(mode="json")
    changed = False
    for place in data_places(document, field):
        try:
            found = _file_of_set(place.text, block) if place.kind == "files" else _data_source(place.text)
        except RefusedFileError as error:
            raise DataError(str(error), field=place.field) from error
        changed |= found != place.text
        place.block[place.key] = found
    return DatasetSpec.model_validate(document) if changed else block


def _data_source(name: str) -> str:
    return name if name in BUILDERS or is_remote(name) else _source(name)


def _source(name: str) -> str:
    if not _rules.get().is_confined:
        return _located(name)
    if os.path.isabs(name):
        for path in _matches(name):
            require_readable(path)
        return name
    if not is_hub_name(name):
        raise RefusedFileError(f"{name} is neither an absolute path nor a name on the hub; submit the job again")
    if os.path.lexists(name):
        raise RefusedFileError(
            f"{name} was taken for a name on the hub when the job was submitted, and would be read from the working "
            "directory here; start the service in an empty folder, or write the folder's absolute path"
        )
    return name


def _file_of_set(name: str, block: DatasetSpec) -> str:
    if is_remote(name):
        return name
    if _rules.get().is_confined and is_of_hub(block):
        if os.path.isabs(name) or ".." in name.split("/") or "::" in name:
            raise RefusedFileError(f"{name} is no file of the data set {block.path}")
        return name
    if block.path not in BUILDERS:
        # Relative to its folder.
        return name
    located = _located(name)
    if _rules.get().is_confined:
        if not os.path.isabs(located):
            raise RefusedFileError(f"{name} is not an absolute path; submit the job again")
        for path in _matches(located):
            require_readable(path)
    return located


def _located(name: str) -> str:
    """A relative name below the folder that the rules name, where this process stands elsewhere."""
    directory = _rules.get().directory
    if directory is None or os.path.isabs(name) or directory == os.getcwd():
        return name
    path = os.path.join(directory, name)
    return path if not is_hub_name(name) or os.path.exists(path) else name


def _require(path: str) -> str:
    """The path with its links followed, where the rules let it be read."""
    refused = _rules.get().refusal(path)
    if refused is not None:
        raise RefusedFileError(f"{path} {refused}")
    return os.path.realpath(path)


def _matches(pattern: str) -> Iterator[str]:
    """The files that a pattern stands for; itself where it is none."""
    if os.path.lexists(pattern) or not glob.has_magic(pattern):
        yield pattern
        return
    # What a pattern's folders hold is for those alone to know who may read them.
    before = pattern[: next(at for at, character in enumerate(pattern) if character in "*?[")]
    _require(os.path.dirname(before))
    for number, path in enumerate(glob.iglob(pattern, recursive=True)):
        if number == _MOST_MATCHES:
            raise RefusedFileError(f"{pattern} stands for more than {_MOST_MATCHES:,} files")
        yield path
