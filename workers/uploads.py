"""Finished adapters on their way into the store."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path

from workers.caught_error import CaughtError, catch
from workers.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Uploaded:
    """What came of bringing an adapter into the store."""

    job_id: str
    uri: str | None = None
    error: CaughtError | None = None
    """Set where there is no URI."""


class Uploads:
    """At most one for each job. One thread at a time may call it."""

    def __init__(self, storage: Storage, executor: Executor) -> None:
        self._storage = storage
        self._executor = executor
        self._under_way: dict[str, Future[Uploaded]] = {}
        """By job id. They never raise."""

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._under_way

    def begin(self, job_id: str, folder: Path, attempt: int) -> None:
        """Begin to upload a staged artifact."""
        self._under_way[job_id] = self._executor.submit(self._upload, job_id, folder, attempt)

    def collect(self) -> list[Uploaded]:
        """Those that have ended since the last call; nothing is waited for."""
        done = [job_id for job_id, future in self._under_way.items() if future.done()]
        return [self._under_way.pop(job_id).result() for job_id in done]

    def forget(self, job_id: str) -> None:
        """What is under way of a job counts for nothing."""
        self._under_way.pop(job_id, None)

    def _upload(self, job_id: str, folder: Path, attempt: int) -> Uploaded:
        try:
            return Uploaded(job_id=job_id, uri=self._storage.keep_artifact(folder, job_id, attempt))
        except Exception as error:
            return Uploaded(job_id=job_id, error=catch(error))
