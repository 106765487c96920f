"""Adapters in folders of this machine: how one is published, and what happens to one that is at its place already.

Publishing is a rename, and the journal's row comes after it. A process that dies in between leaves an adapter that is
whole and not in the journal; whoever publishes the same job next verifies it and keeps it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.artifacts import verify
from workers.publishing import discard, fsync, move_aside

QUARANTINE = ".quarantine"
"""Folder beside published adapters for what stood at the place of one and is not it."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Whose adapter is expected in a folder."""

    job_id: str
    spec_sha256: Collection[str]
    """Hex; of its spec, as any version of Loraloom that may have trained it writes it."""

    def problem(self, manifest: Mapping[str, Any]) -> str | None:
        """Why an adapter is not this job's; `None` where it is."""
        job = manifest.get("job")
        job_id = job.get("id") if isinstance(job, Mapping) else None
        if job_id != self.job_id:
            return f"it is an adapter of job {job_id}, not of {self.job_id}"
        if manifest.get("spec_sha256") not in self.spec_sha256:
            return "it is an adapter of another spec"
        return None


def publish_folder(staged: Path, target: Path, owner: Owner, *, note: Callable[[str], None]) -> dict[str, Any]:
    """Verify a staged adapter and rename it to its place, or keep the one of this job that is there already.

    What stands at the place and is damaged, or is another adapter, is moved to `.quarantine` beside it. Twice is once.

    Args:
        staged: Where a worker has written it; gone afterwards.
        target: Its place.
        owner: Whose adapter it is.
        note: Takes what the owner of the job should know.

    Returns:
        The manifest of what stands at `target`.

    Raises:
        ValueError: There is no whole adapter at either place.
        OSError: The disk refuses.
    """
    if os.path.lexists(target):
        try:
            manifest = verify(target)
            problem = owner.problem(manifest)
        except ValueError as error:
            manifest, problem = {}, str(error)
        if problem is None:
            # The process that has renamed it may have died before it made that durable.
            fsync(target.parent)
            with suppress(OSError):
                discard(staged)
            return manifest
        note(f"what stood in {target} was moved to {move_aside(target, QUARANTINE)}: {problem}")
    manifest = verify(staged)
    os.rename(staged, target)
    fsync(target.parent)
    return manifest
