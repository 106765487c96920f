"""A running `loraloom serve` in a process of its own, which can be killed and started again."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobs.records import JobState
from orchestrator.client import Client
from tests.machine import end
from tests.nursery import Child, Nursery, Request

PATIENCE_SECONDS = 240.0


class Served:
    """One data directory and whichever process serves it."""

    def __init__(
        self,
        data_dir: Path,
        *options: str,
        nursery: Nursery | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """Nothing is started yet.

        Args:
            data_dir: Of the service.
            options: Of `loraloom serve`.
            nursery: Forks it; without one it starts as it does for users, which takes half a minute of a busy core.
            patience_seconds: For whatever is waited for.
        """
        self.data_dir = data_dir
        self._nursery = nursery
        self._patience_seconds = patience_seconds
        self._options = options
        self._log = data_dir.with_suffix(".log")
        self.process: subprocess.Popen[bytes] | Child | None = None
        self.url = ""

    @property
    def rows(self) -> Path:
        """Each micro-batch that a forked one trained on in this process, a line each: see `Request.rows`."""
        return self.data_dir.with_suffix(".rows")

    def start(self, *, die_in: tuple[str, int, str] | None = None) -> Client:
        """Start it; a client of it, once it answers.

        Args:
            die_in: Where a forked one kills itself: see `Request.die_in`.
        """
        self._log.touch()
        began = self._log.stat().st_size
        arguments = ("serve", "--data-dir", str(self.data_dir), "--port", "0", *self._options)
        if self._nursery is not None:
            self.process = self._nursery.open(
                Request(arguments=arguments, output=str(self._log), rows=str(self.rows), die_in=die_in)
            )
        else:
            with self._log.open("ab") as log:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "orchestrator.cli", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        self.until(lambda: "serving at " in self.told(began), "it answers")
        self.url = self.told(began).split("serving at ")[1].split(",")[0]
        return Client(self.url)

    def told(self, since: int = 0) -> str:
        """What it has printed."""
        return self._log.read_bytes()[since:].decode(errors="replace")

    def end(self, number: int) -> int:
        """Send a signal, and wait for the end."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=self._patience_seconds)

    def close(self) -> None:
        """Whatever became of it, it is gone after this."""
        if self.process is not None:
            end(self.process)

    def until(self, happened: Callable[[], object], what: str) -> None:
        """Wait for something, while the process lives."""
        deadline = time.monotonic() + self._patience_seconds
        while not happened():
            assert self.process is not None
            assert self.process.poll() is None, f"the service ended ({self.process.returncode}): {self.told()}"
            assert time.monotonic() < deadline, f"not within {self._patience_seconds:g} s: {what}\n{self.told()}"
            time.sleep(0.05)


def submit(client: Client, specs: Path, **options: Any) -> list[str]:
    """Ids of the jobs of a spec file."""
    return [job.id for job in client.submit(specs.read_text(), directory=specs.parent, **options).jobs]


def states(client: Client) -> dict[str, JobState]:
    """By job id."""
    return {job.id: job.state for job in client.jobs()}


def reasons(client: Client, job: str) -> list[str]:
    """Reason codes of its events, in order."""
    return [event.reason for event in client.events(job)]
