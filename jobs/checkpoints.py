"""Checkpoints as the journal, the scheduler and a worker speak of them. What is inside one is the worker's business."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jobs.errors import JobError
from jobs.records import BaseKey


def folder_name(*, step: int, micro_batch: int, attempt: int) -> str:
    """Name of a checkpoint's folder; no two attempts can come to the same one."""
    return f"step-{step:06d}.{micro_batch:02d}-a{attempt}"


@dataclass(frozen=True, kw_only=True)
class DataFingerprints:
    """sha256 over the tokenised rows."""

    train: str
    evaluation: str | None
    """`None` for a job without evaluation rows."""


@dataclass(frozen=True, kw_only=True)
class CheckpointIdentity:
    """Whose checkpoint it is and what it goes on from: numbers of one spec, base and data mean nothing for others."""

    job_id: str
    attempt: int
    spec_sha256: str
    base: BaseKey
    base_fingerprint: str
    data: DataFingerprints

    def differences(self, other: CheckpointIdentity) -> tuple[str, ...]:
        """What keeps one from going on from the other, attempts aside: every attempt goes on from earlier ones."""
        pairs: tuple[tuple[str, object, object], ...] = (
            ("job", self.job_id, other.job_id),
            ("sha256 of the spec", self.spec_sha256, other.spec_sha256),
            ("base", self.base, other.base),
            ("sha256 of the base's weights", self.base_fingerprint, other.base_fingerprint),
            ("sha256 of the training rows", self.data.train, other.data.train),
            ("sha256 of the evaluation rows", self.data.evaluation, other.data.evaluation),
        )
        return tuple(f"{name}: {mine} there, {theirs} here" for name, mine, theirs in pairs if mine != theirs)


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the bits of a result depend on beside the job itself; going on elsewhere is allowed, but bits may differ."""

    versions: dict[str, str]
    """Library name → version."""
    device_type: str
    """As torch names it: cpu, cuda."""
    num_threads: int
    """Intra-op threads."""

    def differences(self, other: Surroundings) -> tuple[str, ...]:
        """What differs, for telling the user; empty where bits are the same."""
        pairs: list[tuple[str, object, object]] = [
            ("device type", self.device_type, other.device_type),
            ("threads", self.num_threads, other.num_threads),
        ]
        for name in sorted(self.versions.keys() | other.versions.keys()):
            pairs.append((name, self.versions.get(name, "absent"), other.versions.get(name, "absent")))
        return tuple(f"{name}: {mine} then, {theirs} now" for name, mine, theirs in pairs if mine != theirs)


class CheckpointError(JobError):
    """A checkpoint is torn, corrupt or foreign: it belongs into quarantine, and the one before is to be used."""

    def __init__(self, folder: Path | str, problem: str, *, file: str | None = None) -> None:
        super().__init__("checkpoint", f"checkpoint {folder}: {f'{file} ' if file else ''}{problem}")
        self.folder = str(folder)
        self.problem = problem
        self.file = file
        """Name of the file that is wrong; `None` where it is the folder as a whole."""

    def __reduce__(self) -> tuple[partial[CheckpointError], tuple[str, str]]:  # type: ignore[override]
        return partial(type(self), file=self.file), (self.folder, self.problem)


class CheckpointMismatchError(CheckpointError):
    """A checkpoint is whole, but of another spec, base, data or format. It stays where it is: it may be wanted yet."""


class DiskFullError(JobError):
    """There was no room to write. What stood there before stands there still; to be tried again once there is room."""

    def __init__(self, path: Path | str, *, needed_bytes: int | None, free_bytes: int | None) -> None:
        needed = "more room than there is" if needed_bytes is None else f"{needed_bytes:,} bytes"
        free = "" if free_bytes is None else f", {free_bytes:,} bytes are free"
        super().__init__(
            "disk_full", f"no room to write {path}: it needs {needed}{free}; free some space or raise the quota"
        )
        self.path = str(path)
        self.needed_bytes = needed_bytes
        """`None` where it is not known, as for a journal."""
        self.free_bytes = free_bytes
        """Free to this user as the file system counts, which knows nothing of quotas; `None` where it cannot tell."""

    def __reduce__(self) -> tuple[partial[DiskFullError], tuple[str]]:  # type: ignore[override]
        return partial(type(self), needed_bytes=self.needed_bytes, free_bytes=self.free_bytes), (self.path,)
