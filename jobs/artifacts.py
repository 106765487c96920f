"""A published adapter as anybody can check it: a folder of files, and a manifest with the sha256 of each."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


def verify(folder: Path) -> dict[str, Any]:
    """Re-hash every file against the manifest and return the manifest.

    Raises:
        ValueError: A file is missing, or differs from what was written; the message names it.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / MANIFEST} cannot be read: {error}") from error
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{path} is missing")
        if file_sha256(path) != expected:
            raise ValueError(f"{path} is not what was written: its sha256 differs from the manifest's")
    return manifest


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
