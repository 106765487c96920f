"""The file by which Prometheus finds a service: several may share a folder, each with a file of its own."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from workers.publishing import fsync, write_file


def announce(folder: Path, service_id: str, address: str) -> Path:
    """Write a target file for Prometheus' file-based discovery, whole or not at all.

    It stays when the service ends, so that somebody is told that it is down; who takes a service away for good deletes
    its file.

    Args:
        folder: That Prometheus watches; made if missing.
        service_id: Which service; names the file.
        address: Host and port that it is scraped at.

    Raises:
        OSError: It cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"loraloom-{service_id}.json"
    content = json.dumps([{"targets": [address], "labels": {"service": service_id}}], indent=2)
    # Prometheus reads what ends in .json; this does not.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        temporary.unlink()
    write_file(temporary, [f"{content}\n".encode()])
    os.replace(temporary, path)
    fsync(folder)
    return path
