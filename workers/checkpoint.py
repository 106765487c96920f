"""A job's checkpoint on disk: written whole, believed only after every byte has been checked.

adapter_model.safetensors, adapter_config.json    the adapter, as PEFT opens it
optimizer.safetensors                             what the optimizer keeps
gradients.safetensors                             of a half-done accumulation, where there is one
state.json                                        where the job stands
manifest.json                                     whose it is, and size and sha256 of each of the above

The manifest's own sha256 stands in the journal, so that nobody but the journal can vouch for a checkpoint.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from jobs.artifacts import MANIFEST
from jobs.checkpoints import (
    CheckpointError,
    CheckpointIdentity,
    CheckpointMismatchError,
    DataFingerprints,
    Surroundings,
    folder_name,
)
from jobs.records import BaseKey, CheckpointRecord
from jobs.spec import JobSpec
from workers import artifact
from workers.publishing import FileEntry, published, write_file
from workers.snapshot import JobSnapshot, Modules, Pair, from_json, to_json
from workers.structure import LinearShape
from workers.targets import Target
from workers.tensor_file import decode, encode

FORMAT = 1
OPTIMIZER = "optimizer.safetensors"
GRADIENTS = "gradients.safetensors"
STATE = "state.json"

_REQUIRED = frozenset({artifact.WEIGHTS, artifact.CONFIG, OPTIMIZER, STATE})
_PREFIX = "base_model.model."
_LARGEST_MANIFEST_BYTES = 2**20

_EVIDENCE = frozenset({errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EIO})
"""What says that a checkpoint is bad. Others, such as too many open files, say something about this process."""


def peft_config(
    spec: JobSpec,
    base: BaseKey,
    targets: Mapping[str, Target],
    shapes: Mapping[str, LinearShape],
    *,
    beside_text: Iterable[str] = (),
) -> dict[str, Any]:
    """The `LoraConfig` of a checkpoint, under which PEFT computes what the worker does.

    An artifact folds unlike scales into B; a checkpoint keeps B to the bit and states the scales instead.
    """
    lora = spec.lora
    return artifact.peft_config(spec, base, targets, shapes, beside_text=beside_text) | {
        "alpha_pattern": {
            re.escape(name): target.alpha for name, target in sorted(targets.items()) if target.alpha != lora.lora_alpha
        }
    }


def save(snapshot: JobSnapshot, folder: Path) -> CheckpointRecord:
    """Publish a snapshot below the job's folder of checkpoints. Safe off the training thread.

    Returns:
        The record to be entered into the journal. Until that is done there is no such checkpoint.

    Raises:
        DiskFullError: No room; what was there before is untouched.
        FileExistsError: This attempt has published this very step before.
        OSError: The disk refuses otherwise; nothing is left here either.
    """
    identity, standing = snapshot.identity, snapshot.standing
    name = folder_name(step=standing.step, micro_batch=standing.micro_batch, attempt=identity.attempt)
    # JSON files are a few KB; the tensors are what needs room.
    with published(folder / name, needed_bytes=snapshot.tensor_bytes + 2**16) as temporary:
        files = {file: write_file(temporary / file, chunks) for file, chunks in _files(snapshot)}
        manifest = _json(
            {
                "format": FORMAT,
                "identity": asdict(identity),
                "step": standing.step,
                "micro_batch": standing.micro_batch,
                "surroundings": asdict(snapshot.surroundings),
                "files": {file: asdict(entry) for file, entry in files.items()},
            }
        )
        entry = write_file(temporary / MANIFEST, [manifest])
    return CheckpointRecord(
        job_id=identity.job_id,
        attempt=identity.attempt,
        step=standing.step,
        micro_batch=standing.micro_batch,
        folder=name,
        manifest_sha256=entry.sha256,
        size_bytes=entry.size_bytes + sum(file.size_bytes for file in files.values()),
    )


def load(folder: Path, record: CheckpointRecord, expected: CheckpointIdentity) -> JobSnapshot:
    """Check everything that `verify` checks and whose it is, then read the very bytes that were checked.

    Args:
        folder: The job's folder of checkpoints.
        record: From the journal.
        expected: Of the run that is to go on. Its attempt does not matter.

    Raises:
        CheckpointError: It is torn, corrupt or foreign.
        CheckpointMismatchError: It is whole, but of another spec, base, data or format.
        OSError: It cannot be read for a reason that says nothing of it.
    """
    manifest, contents = _verified(folder, record)
    path = folder / record.folder
    if differences := manifest.identity.differences(expected):
        raise CheckpointMismatchError(path, f"is of another run: {'; '.join(differences)}")
    try:
        factors = _pairs(decode(contents[artifact.WEIGHTS]), _PREFIX)
        state = json.loads(contents[STATE])
        slots = decode(contents[OPTIMIZER])
        snapshot = JobSnapshot(
            identity=manifest.identity,
            surroundings=manifest.surroundings,
            peft_config=json.loads(contents[artifact.CONFIG]),
            factors=factors,
            moments={slot: _pairs(slots, f"{slot}.") for slot in sorted({name.split(".", 1)[0] for name in slots})},
            gradients=_pairs(decode(contents[GRADIENTS]), "") if GRADIENTS in contents else None,
            standing=from_json(state),
        )
        snapshot.require_alike()
        return snapshot
    except (ValueError, TypeError, KeyError) as error:
        # Its bytes are those that were written, so it was written by other code.
        raise CheckpointMismatchError(path, f"was written by another version: {error}") from error


def verify(folder: Path, record: CheckpointRecord) -> None:
    """Check that a checkpoint is the one that was journaled, to the byte, without reading a tensor.

    Raises:
        CheckpointError: It is not; says which file is wrong and how.
        CheckpointMismatchError: Its format is not known here.
        OSError: It cannot be read for a reason that says nothing of it.
    """
    _verified(folder, record)


@dataclass(frozen=True, kw_only=True)
class _Manifest:
    identity: CheckpointIdentity
    surroundings: Surroundings
    step: int
    micro_batch: int
    files: Mapping[str, FileEntry]


def _verified(folder: Path, record: CheckpointRecord) -> tuple[_Manifest, dict[str, bytes]]:
    path = folder / record.folder
    with _opened(path) as descriptor:
        content = _read(path, descriptor, MANIFEST, most_bytes=_LARGEST_MANIFEST_BYTES)
        _compare(path, MANIFEST, "sha256", hashlib.sha256(content).hexdigest(), record.manifest_sha256)
        manifest = _parsed(path, content)
        _compare(path, MANIFEST, "job", manifest.identity.job_id, record.job_id)
        _compare(path, MANIFEST, "attempt", manifest.identity.attempt, record.attempt)
        _compare(path, MANIFEST, "step", manifest.step, record.step)
        _compare(path, MANIFEST, "micro-batch", manifest.micro_batch, record.micro_batch)
        found = set(os.listdir(descriptor)) - {MANIFEST}
        for name in sorted(manifest.files.keys() - found):
            raise CheckpointError(path, "is missing", file=name)
        for name in sorted(found - manifest.files.keys()):
            raise CheckpointError(path, "does not belong there: the manifest does not name it", file=name)
        contents = {}
        for name, entry in manifest.files.items():
            contents[name] = _read(path, descriptor, name, exact_bytes=entry.size_bytes)
            _compare(path, name, "sha256", hashlib.sha256(contents[name]).hexdigest(), entry.sha256)
    return manifest, contents


def _compare(path: Path, file: str, what: str, found: object, expected: object) -> None:
    if found != expected:
        raise CheckpointError(path, f"has {what} {found}, not {expected}", file=file)


def _parsed(path: Path, content: bytes) -> _Manifest:
    try:
        values = json.loads(content)
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']}, and {FORMAT} is the one known here")
        identity = values["identity"]
        manifest = _Manifest(
            identity=CheckpointIdentity(
                **{**identity, "base": BaseKey(**identity["base"]), "data": DataFingerprints(**identity["data"])}
            ),
            surroundings=Surroundings(**values["surroundings"]),
            step=values["step"],
            micro_batch=values["micro_batch"],
            files={name: FileEntry(**entry) for name, entry in values["files"].items()},
        )
        if not _REQUIRED <= manifest.files.keys() <= _REQUIRED | {GRADIENTS}:
            raise ValueError(f"files {', '.join(manifest.files)}")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointMismatchError(path, f"is of another version: {error}", file=MANIFEST) from error
    return manifest


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor of the folder: whatever happens to names above it meanwhile, what is read lies in it."""
    with _evidence(path, None):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read(
    path: Path, folder_descriptor: int, name: str, *, exact_bytes: int | None = None, most_bytes: int | None = None
) -> bytes:
    """A regular file of the folder, whole. Sizes are looked at before anything is read into memory."""
    with _evidence(path, name):
        # Not to wait for the other end of a pipe that somebody put there.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=folder_descriptor)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise CheckpointError(path, "is not a regular file", file=name)
            if exact_bytes is not None and found.st_size != exact_bytes:
                raise CheckpointError(path, f"has {found.st_size} bytes, not {exact_bytes}", file=name)
            if most_bytes is not None and found.st_size > most_bytes:
                raise CheckpointError(path, f"has {found.st_size} bytes, more than {most_bytes}", file=name)
            with open(descriptor, "rb", closefd=False) as stream:
                return stream.read(found.st_size)
        finally:
            os.close(descriptor)


@contextmanager
def _evidence(path: Path, name: str | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _EVIDENCE:
            raise
        target = path if name is None else path / name
        if error.errno == errno.ENOENT:
            problem = "is missing"
        elif os.path.islink(target):
            problem = "is a symbolic link"
        else:
            problem = f"cannot be read: {error.strerror}"
        raise CheckpointError(path, problem, file=name) from error


def _files(snapshot: JobSnapshot) -> Iterator[tuple[str, Iterator[bytes | memoryview]]]:
    yield artifact.WEIGHTS, encode(_named(snapshot.factors, _PREFIX))
    yield artifact.CONFIG, iter([_json(snapshot.peft_config)])
    slots = [_named(modules, f"{slot}.") for slot, modules in snapshot.moments.items()]
    yield OPTIMIZER, encode({name: tensor for named in slots for name, tensor in named.items()})
    if snapshot.gradients is not None:
        yield GRADIENTS, encode(_named(snapshot.gradients, ""))
    yield STATE, iter([_json(to_json(snapshot.standing))])


def _named(modules: Modules, prefix: str) -> dict[str, Tensor]:
    """PEFT's names for a module's two tensors, used for what belongs to them too."""
    named = {}
    for name, pair in modules.items():
        named[f"{prefix}{name}.lora_A.weight"] = pair.a_RI
        named[f"{prefix}{name}.lora_B.weight"] = pair.b_OR
    return named


def _pairs(named: Mapping[str, Tensor], prefix: str) -> dict[str, Pair]:
    ending = ".lora_A.weight"
    names = [name for name in named if name.startswith(prefix) and name.endswith(ending)]
    return {
        name[len(prefix) : -len(ending)]: Pair(a_RI=named[name], b_OR=named[f"{name[: -len(ending)]}.lora_B.weight"])
        for name in names
    }


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
