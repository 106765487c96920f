"""When a worker's jobs are saved, and what they go on from.

Snapshots are taken on the thread that trains, which holds the jobs still for as long as copying takes; files are
written, and uploaded where there is a store, on one thread beside it. A job has one save under way at most, and all
jobs together have few: what falls due meanwhile is done at the next boundary after it, so that a slow disk or network
never stops the neighbours, and copies that wait for it never take the memory that they train in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from jobs.checkpoints import CheckpointError, CheckpointIdentity, DataFingerprints, DiskFullError, Surroundings
from jobs.errors import StoreError
from jobs.records import Assignment, BadCheckpoint, BaseKey, CheckpointRecord, ResumeReport
from workers import checkpoint
from workers.base_model import BaseModel
from workers.capture import capture, restore
from workers.caught_error import CaughtError, catch
from workers.job_run import JobRun
from workers.publishing import free_bytes
from workers.restoring import load_newest
from workers.resumption import resume_report
from workers.snapshot import JobSnapshot
from workers.storage import Storage
from workers.uploads import Uploaded, Uploads

RETRY_SECONDS = 5.0
"""Between two tries of a job that waits for room on the disk, or for the store."""

_MOST_BYTES = 512 * 2**20
"""Of copies that wait to be written or are being written; a larger one by itself."""

Position = tuple[int, int]
"""Step, and micro-batch of the next one."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What came of a save."""

    job_id: str
    record: CheckpointRecord | None = None
    seconds: float = 0.0
    """Copying and writing it."""
    error: CaughtError | None = None
    """Set where there is no record."""


@dataclass
class _Enrolled:
    """A job that is to be saved."""

    identity: CheckpointIdentity
    peft_config: Mapping[str, Any]
    saved_at: Position = (0, 0)
    """Where its newest checkpoint stands; a fresh job can be had again for nothing."""
    under_way: Future[Saved] | None = None
    """Never raises: an exception would hold the copy that could not be written."""
    position: Position = (0, 0)
    """Of what is under way."""
    held_for: DiskFullError | StoreError | None = None
    """Set while the job is held for want of room, or of a store."""
    retry_at: float = 0.0


class JobSaver:
    """Saves the jobs of one worker. One thread at a time may call it."""

    def __init__(
        self,
        root: Path | None,
        key: BaseKey,
        base: BaseModel,
        surroundings: Surroundings,
        *,
        now: Callable[[], float] = time.monotonic,
        save: Callable[..., CheckpointRecord] = checkpoint.save,
        storage: Storage | None = None,
    ) -> None:
        """Save below `root`, a folder a job; nowhere and never where it is `None`.

        With a `storage`, a save is done when it is there.
        """
        self._root = root
        self._key = key
        self._base = base
        self._surroundings = surroundings
        self._now = now
        self._save = save
        self._storage = storage
        self._is_store_found = False
        self._jobs: dict[str, _Enrolled] = {}
        self._held_bytes: dict[Future[Any], int] = {}
        """Of copies that may still be in memory."""
        self._writer = ThreadPoolExecutor(1, "saving")
        self._uploads = Uploads(storage, self._writer) if storage is not None else None

    def prepare(self, assignment: Assignment) -> None:
        """Bring what a job will go on from to this machine, before it takes anybody's time but its own.

        Raises:
            StoreError: The store is not there; better now than when the first save falls due.
            DiskFullError: No room here.
        """
        if self._storage is None:
            return
        if not self._is_store_found:
            self._storage.require()
            self._is_store_found = True
        if self._root is not None and assignment.attempt > 1 and assignment.checkpoints:
            # What is wrong with it, `enrol` finds out and tells.
            with suppress(CheckpointError):
                self._storage.fetch(assignment.checkpoints[0], self._root / assignment.job_id)

    def enrol(self, run: JobRun, assignment: Assignment) -> ResumeReport | None:
        """Take a fresh run in, and let it stand where the newest good one of its checkpoints does.

        Returns:
            What it goes on from; `None` for a job's first attempt.

        Raises:
            CheckpointMismatchError: Its checkpoints are of another spec, base or data.
            OSError: The disk cannot be read.
            StoreError: Nor can the store.
        """
        if self._root is None:
            # Nothing was ever saved, so a later attempt starts over, and has to say so.
            return None if assignment.attempt == 1 else resume_report(run, record=None)
        job = _Enrolled(
            identity=self._identity(run, assignment.attempt),
            peft_config=checkpoint.peft_config(
                run.spec,
                self._key,
                run.adapter.targets,
                self._base.structure.adaptable,
                beside_text=self._base.structure.beside_text,
            ),
        )
        self._jobs[run.job_id] = job
        if assignment.attempt == 1:
            return None
        found = load_newest(self._root / run.job_id, assignment.checkpoints, job.identity, self._storage)
        differences: tuple[str, ...] = ()
        if found.snapshot is not None:
            restore(run, found.snapshot)
            differences = found.snapshot.surroundings.differences(self._surroundings)
            job.saved_at = (run.step, found.snapshot.standing.micro_batch)
        return resume_report(
            run,
            record=found.record,
            quarantined=tuple(BadCheckpoint(record=bad.record, problem=str(bad.error)) for bad in found.quarantined),
            differences=differences,
        )

    def _identity(self, run: JobRun, attempt: int) -> CheckpointIdentity:
        data = run.data
        return CheckpointIdentity(
            job_id=run.job_id,
            attempt=attempt,
            spec_sha256=run.spec.spec_sha256(),
            base=self._key,
            base_fingerprint=self._base.fingerprint,
            data=DataFingerprints(
                train=data.train.fingerprint,
                evaluation=data.evaluation.fingerprint if data.evaluation is not None else None,
            ),
        )

    def save_due(self, runs: Iterable[JobRun], *, leaving: Collection[str] = ()) -> None:
        """Begin to save those that stand between two steps and have passed a multiple of their `save_steps`.

        Those that have waited longest come first; whom there is no room for waits for the next boundary.

        Args:
            runs: All that are here.
            leaving: Ids of jobs that are saved wherever they stand, half-done accumulations too.
        """
        due = []
        for run in runs:
            job = self._jobs.get(run.job_id)
            if job is None or job.under_way is not None:
                continue
            every = run.save_interval
            is_due = every is not None and run.is_between_steps and run.step // every > job.saved_at[0] // every
            if run.job_id in leaving:
                is_due = _position(run) != job.saved_at
            if job.held_for is not None:
                is_due = self._has_room_again(job)
                if is_due and _position(run) == job.saved_at:
                    job.held_for, is_due = None, False
            if is_due:
                due.append((run, job))
        for run, job in sorted(due, key=lambda one: one[1].saved_at[0] - one[0].step):
            if self._is_room_for(run):
                self._begin(run, job)

    def save_all(self, runs: Iterable[JobRun]) -> list[Saved]:
        """Save every job where it stands, half-done accumulations too, and wait for the disk.

        What is under way is waited for first: where it is of that very place, nothing is left to do.
        """
        known = [(run, self._jobs[run.job_id]) for run in runs if run.job_id in self._jobs]
        results = self.collect(wait=True)
        for run, job in known:
            if _position(run) != job.saved_at:
                while not self._is_room_for(run):
                    wait(self._held_bytes, return_when=FIRST_COMPLETED)
                self._begin(run, job)
        return results + self.collect(wait=True)

    def collect(self, job_id: str | None = None, *, wait: bool = False) -> list[Saved]:
        """What has come of saves since the last call: of all jobs, or of one.

        Args:
            job_id: Only of this one.
            wait: For all that is under way; without it nothing is waited for.
        """
        results = []
        for one, job in self._jobs.items():
            future = job.under_way
            if future is None or (job_id is not None and one != job_id) or not (wait or future.done()):
                continue
            job.under_way = None
            results.append(future.result())
            if results[-1].record is not None:
                job.saved_at, job.held_for = job.position, None
        return results

    @property
    def has_store(self) -> bool:
        """Whether saves and adapters are done when they are in a store."""
        return self._storage is not None

    def upload(self, job_id: str, folder: Path, attempt: int) -> None:
        """Begin to bring a finished adapter into the store, after what is under way. There must be a store."""
        assert self._uploads is not None
        self._uploads.begin(job_id, folder, attempt)

    def is_uploading(self, job_id: str) -> bool:
        """Whether the job's adapter is on its way, or has just come to its end."""
        return self._uploads is not None and job_id in self._uploads

    def uploaded(self) -> list[Uploaded]:
        """What has come of uploads since the last call; nothing is waited for."""
        return self._uploads.collect() if self._uploads is not None else []

    def hold(self, job_id: str, error: DiskFullError | StoreError) -> bool:
        """Keep a job still until there is room and a save of it has gone well; false for one that is never saved."""
        job = self._jobs.get(job_id)
        if job is None:
            return False
        job.held_for, job.retry_at = error, self._now() + RETRY_SECONDS
        return True

    def is_saved(self, run: JobRun) -> bool:
        """Whether nothing of a job would be lost if it left now; true for one that is never saved."""
        job = self._jobs.get(run.job_id)
        return job is None or (job.under_way is None and job.held_for is None and job.saved_at == _position(run))

    def is_under_way(self, job_id: str) -> bool:
        """Whether a save of the job has been begun and not been collected."""
        job = self._jobs.get(job_id)
        return job is not None and job.under_way is not None

    def go_on(self, job_id: str) -> None:
        """Hold a job no longer."""
        if job_id in self._jobs:
            self._jobs[job_id].held_for = None

    def is_held(self, job_id: str) -> bool:
        """Whether the job waits for room on the disk, or for the store."""
        job = self._jobs.get(job_id)
        return job is not None and job.held_for is not None

    def forget(self, job_id: str) -> Saved | None:
        """The job leaves. What is under way ends by itself, and counts for nothing.

        Returns:
            What came of its last save, where that has ended and was not collected.
        """
        job = self._jobs.pop(job_id, None)
        ended = (
            job.under_way.result() if job is not None and job.under_way is not None and job.under_way.done() else None
        )
        if self._uploads is not None:
            self._uploads.forget(job_id)
        if self._storage is not None and self._root is not None:
            self._writer.submit(self._storage.clear, self._root / job_id)
        return ended

    def _has_room_again(self, job: _Enrolled) -> bool:
        if self._now() < job.retry_at or self._root is None or job.held_for is None:
            return False
        if isinstance(job.held_for, StoreError):
            return True
        free, needed = free_bytes(self._root), job.held_for.needed_bytes
        return free is None or needed is None or free >= needed

    def _is_room_for(self, run: JobRun) -> bool:
        self._held_bytes = {future: held for future, held in self._held_bytes.items() if not future.done()}
        return not self._held_bytes or sum(self._held_bytes.values()) + _snapshot_bytes(run) <= _MOST_BYTES

    def _begin(self, run: JobRun, job: _Enrolled) -> None:
        assert self._root is not None
        began = time.monotonic()
        job.position = _position(run)
        try:
            snapshot = capture(run, identity=job.identity, surroundings=self._surroundings, peft_config=job.peft_config)
        except Exception as error:
            # No room for the copy, say. It is this job's trouble, and the others are saved all the same.
            job.under_way = Future()
            job.under_way.set_result(Saved(job_id=run.job_id, error=catch(error)))
            return
        copied_seconds = time.monotonic() - began
        job.under_way = self._writer.submit(self._write, snapshot, self._root / run.job_id, copied_seconds)
        self._held_bytes[job.under_way] = _snapshot_bytes(run)

    def _write(self, snapshot: JobSnapshot, folder: Path, copied_seconds: float) -> Saved:
        began, job_id = time.monotonic(), snapshot.identity.job_id
        try:
            record = self._save(snapshot, folder)
            if self._storage is not None:
                self._storage.keep(record, folder)
        except Exception as error:
            return Saved(job_id=job_id, error=catch(error))
        return Saved(job_id=job_id, record=record, seconds=copied_seconds + time.monotonic() - began)


def surroundings(device: torch.device, num_threads: int) -> Surroundings:
    """What the bits of a result depend on here."""
    return Surroundings(
        versions={name: version(name) for name in ("loraloom", "torch", "transformers")},
        device_type=device.type,
        num_threads=num_threads,
    )


def _snapshot_bytes(run: JobRun) -> int:
    """What a copy of the job takes where it stands."""
    parts = 1 + len(run.optimizer.state.moments) + (not run.is_between_steps)
    return parts * run.adapter.values.nbytes


def _position(run: JobRun) -> Position:
    return run.step, run.standing.micro_batch
