"""What a published adapter consists of, wherever it is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from jobs.artifacts import MANIFEST
from workers.publishing import FileEntry


@dataclass(frozen=True, kw_only=True)
class ArtifactFiles:
    """What a published adapter consists of."""

    manifest_sha256: str
    """Hex; of the file, so that it vouches for all the others."""
    files: Mapping[str, FileEntry]
    """By name, the manifest too."""

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(entry.size_bytes for entry in self.files.values())

    @classmethod
    def of(cls, where: str, manifest: bytes, sizes: Mapping[str, int]) -> Self:
        """As a manifest lists them.

        Args:
            where: Folder or URI, for messages.
            manifest: Content of the file.
            sizes: Bytes of each file that is there, by name.

        Raises:
            ValueError: A file is missing, or the manifest is none.
        """
        own = hashlib.sha256(manifest).hexdigest()
        try:
            hashes = {**dict(json.loads(manifest)["files"]), MANIFEST: own}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{where}/{MANIFEST} cannot be read: {error}") from error
        missing = sorted(hashes.keys() - sizes.keys())
        if missing:
            raise ValueError(f"{where}/{missing[0]} is missing")
        entries = {name: FileEntry(sha256=sha256, size_bytes=sizes[name]) for name, sha256 in hashes.items()}
        return cls(manifest_sha256=own, files=entries)
