"""A published adapter as anybody can check it: a folder of files, and a manifest with the sha256 of each."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


def verify(folder: Path) -> dict[str, Any]:
    """Re-hash every file against the manifest and return the manifest.

    Raises:
        ValueError: A file is missing, or differs from what was written; the message names it.
    """
    try:
        content = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise ValueError(f"{folder / MANIFEST} cannot be read: {error}") from error

    def sha256_of(name: str) -> str:
        if not (folder / name).is_file():
            raise FileNotFoundError(name)
        return file_sha256(folder / name)

    return verify_files(str(folder), content, sha256_of)


def verify_files(where: str, manifest: bytes, sha256_of: Callable[[str], str]) -> dict[str, Any]:
    """Check files against a manifest, wherever they are kept.

    Args:
        where: Folder or URI, for messages.
        manifest: Its bytes.
        sha256_of: Hashes a file by name; raises FileNotFoundError where there is none.

    Returns:
        The manifest.

    Raises:
        ValueError: As `verify` says.
    """
    try:
        parsed = json.loads(manifest)
        files: Mapping[str, str] = dict(parsed["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{where}/{MANIFEST} cannot be read: {error}") from error
    for name, expected in files.items():
        if not _FILE_NAME.fullmatch(name):
            raise ValueError(f"{where}/{MANIFEST} names {name!r}, which is no file of an artifact")
        try:
            found = sha256_of(name)
        except FileNotFoundError as error:
            raise ValueError(f"{where}/{name} is missing") from error
        if found != expected:
            raise ValueError(f"{where}/{name} is not what was written: its sha256 differs from the manifest's")
    return parsed


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
