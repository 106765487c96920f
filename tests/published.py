"""What a job has published, for comparing one life of a job with another."""

from __future__ import annotations

import json
from pathlib import Path

from jobs.artifacts import MANIFEST


def content(folder: Path) -> dict[str, bytes]:
    """Every file of an artifact by its name; of the manifest all but the ledger, which is told in seconds."""
    found = {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
    manifest = json.loads(found[MANIFEST])
    assert isinstance(manifest.pop("ledger"), dict)
    return found | {MANIFEST: json.dumps(manifest).encode()}
