"""A tracker's process and the pipe to it. Whoever feeds it never waits for it."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

MOST_QUEUED = 20_000
"""Messages that wait for a tracker that is slow; what comes beyond them is dropped, and that is told."""
CLOSE_SECONDS = 20.0
"""For a tracker to finish what it was given, at the end."""


class Channel:
    """One tool's."""

    def __init__(
        self,
        tool: str,
        folder: Path,
        *,
        most_queued: int = MOST_QUEUED,
        command: tuple[str, ...] = (sys.executable, "-m", "orchestrator.trackers.process"),
    ) -> None:
        """Nothing starts before the first message.

        Args:
            tool: As `report_to` names it.
            folder: Where it keeps what it is told.
            most_queued: See `MOST_QUEUED`.
            command: What to start; gets tool and folder as arguments.
        """
        self._command = (*command, tool, str(folder))
        self._tool = tool
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(most_queued)
        self._told: deque[tuple[str, str]] = deque(maxlen=1000)
        """(job id, message), from the process."""
        self._process: subprocess.Popen[bytes] | None = None
        self._feeder: threading.Thread | None = None
        self._behind: set[str] = set()
        """Jobs that were told that it is too slow, since it last had half of its queue free."""
        self._has_ended = False

    def send(self, message: dict[str, Any]) -> None:
        """Queue a message, which has a `job`; dropped where too many wait."""
        if self._feeder is None:
            self._feeder = threading.Thread(target=self._feed, name=f"tracker-{self._tool}", daemon=True)
            self._feeder.start()
        try:
            self._queue.put_nowait(message)
            if self._queue.qsize() <= self._queue.maxsize // 2:
                self._behind.clear()
        except queue.Full:
            # One that has ended takes nothing, and that is told by itself.
            if message["job"] not in self._behind and not self._has_ended:
                self._behind.add(message["job"])
                self._told.append(
                    (message["job"], f"{self._tool} is too slow; what it does not take in time is dropped")
                )

    def told(self) -> list[tuple[str, str]]:
        """What there is to say to the owners of jobs since the last call: job ids and sentences."""
        found: list[tuple[str, str]] = []
        with suppress(IndexError):
            while True:
                found.append(self._told.popleft())
        return found

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Let the process finish, within a time; then it goes."""
        if self._feeder is None:
            return
        with suppress(queue.Full):
            self._queue.put(None, timeout=seconds / 2)
        self._feeder.join(seconds / 2)
        # It may be starting only now.
        while self._feeder.is_alive():
            if self._process is not None and self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            # Where the queue was full, the end did not find room in it before.
            with suppress(queue.Full):
                self._queue.put_nowait(None)
            self._feeder.join(0.05)

    def _feed(self) -> None:
        """Start the process, hand messages on one by one, and say so where it ends too early. Once is enough: what a
        library cannot do it will not do the next time."""
        try:
            process = self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # Signals to the service or the run are not for it: it ends when its input does.
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)},
            )
        except OSError as error:
            self._drop(f"{self._tool} cannot be started: {error.strerror}")
            return
        assert process.stdin is not None
        assert process.stdout is not None
        listener = threading.Thread(target=self._listen, args=(process,), daemon=True)
        listener.start()
        try:
            while (message := self._queue.get()) is not None:
                process.stdin.write(json.dumps(message, ensure_ascii=False).encode() + b"\n")
                process.stdin.flush()
            process.stdin.close()
            process.wait()
        except OSError:
            with suppress(OSError):
                process.stdin.close()
            self._drop(f"{self._tool} has ended ({process.wait()}); it is told nothing more")
        listener.join()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                with suppress(ValueError, KeyError):
                    said = json.loads(line)
                    self._told.append((said["job"], said["message"]))

    def _drop(self, message: str) -> None:
        """Take messages for nobody until the end, and say why to each job once."""
        self._has_ended = True
        warned: set[str] = set()
        while (one := self._queue.get()) is not None:
            if one["job"] not in warned:
                warned.add(one["job"])
                self._told.append((one["job"], message))
