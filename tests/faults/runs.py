"""Real runs that are watched, killed, and compared afterwards."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.artifacts import verify
from jobs.records import JobState
from orchestrator.clusters.processes import descendants
from orchestrator.journal import JournalReader
from tests.nursery import Nursery, Request
from tests.published import content

_SECONDS = 480.0
STEP = r" step \d+/"
"""Of a line that tells of a job's step."""

_OF_ONE_LIFE = ("seconds", "attempt")


@dataclass
class Run:
    """One output directory and the processes that train into it, one after the other."""

    nursery: Nursery
    specs: Path
    folder: Path
    options: tuple[str, ...] = ("--in-process", "--workers", "1")
    pid: int = 0
    _read_to: int = field(default=0, repr=False)

    @property
    def output(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.txt")

    @property
    def rows(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.rows")

    def start(self, **faults: Any) -> None:
        """Begin, or go on."""
        self.output.touch()
        self._read_to = self.output.stat().st_size
        arguments = ("run", str(self.specs), "--output-dir", str(self.folder), *self.options)
        self.pid = self.nursery.start(
            Request(arguments=arguments, output=str(self.output), rows=str(self.rows), **faults)
        )

    def told(self) -> str:
        """What the process of now has printed."""
        with self.output.open("rb") as stream:
            stream.seek(self._read_to)
            return stream.read().decode(errors="replace")

    def count_told(self, pattern: str) -> int:
        """How often it has said such a thing."""
        return len(re.findall(pattern, self.told()))

    def wait_until_told(self, pattern: str, *, times: int = 1) -> bool:
        """Wait for lines; false if the process ended before."""
        deadline = time.monotonic() + _SECONDS
        while self.count_told(pattern) < times:
            if not self.is_alive():
                return False
            assert time.monotonic() < deadline, f"never told {times} times {pattern!r}:\n{self.told()}"
            time.sleep(0.005)
        return True

    def is_alive(self) -> bool:
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        return state != "Z"

    def signal(self, number: int, *, group: bool = False) -> None:
        (os.killpg if group else os.kill)(self.pid, number)

    def worker_pids(self) -> list[int]:
        """Processes of the Ray workers that the process of now has."""
        found = []
        for process in descendants(self.pid):
            with suppress(OSError):
                if b"ray::WorkerActor" in Path(f"/proc/{process.pid}/cmdline").read_bytes():
                    found.append(process.pid)
        return found

    def wait(self) -> int:
        code = self.nursery.wait(self.pid)
        assert code is not None
        return code

    def finish(self, **faults: Any) -> str:
        """Go on to the end; what was told."""
        self.start(**faults)
        assert self.wait() == 0, self.told()
        return self.told()

    def stopped(self, after_lines: int, seconds: float, number: int) -> int:
        """Begin or go on, and signal some time after so many steps were told; the exit code."""
        self.start()
        if self.wait_until_told(STEP, times=after_lines):
            time.sleep(seconds)
            if self.is_alive():
                self.signal(number)
        code = self.wait()
        assert code in (0, -signal.SIGKILL, 128 + signal.SIGTERM), self.told()
        return code

    def resumed_at(self) -> dict[str, int]:
        """Job → step that the process of now went on from."""
        return {name: int(step) for name, step in re.findall(r" (\S+): resumed at step (\d+) of", self.told())}

    def last_steps(self) -> dict[str, int]:
        """Job → last step that the process of now told of."""
        return {name: int(step) for name, step in re.findall(r" (\S+): step (\d+)/", self.told())}

    def adapters(self) -> dict[str, bytes]:
        """Name and file → content of all that was published and holds against its manifest."""
        found = {}
        for folder in sorted((self.folder / "artifacts").iterdir()):
            verify(folder)
            found |= {f"{folder.name}/{name}": file for name, file in content(folder).items()}
        return found

    def metrics(self) -> dict[str, list[dict[str, Any]]]:
        """Job → its history without what a clock has a part in."""
        return {
            path.stem: [
                {key: value for key, value in json.loads(line).items() if key not in _OF_ONE_LIFE}
                for line in path.read_text().splitlines()
            ]
            for path in sorted((self.folder / "metrics").iterdir())
        }

    def journal(self) -> JournalReader:
        return JournalReader(self.folder / "journal.db")

    def check_history(self) -> None:
        """What must hold of any history, whatever was killed in it."""
        with self.journal() as journal:
            for job in journal.jobs():
                attempts = journal.attempts(job.id)
                assert [one.number for one in attempts] == list(range(1, len(attempts) + 1))
                events = journal.events(job.id)
                succeeded = [one for one in events if one.state is JobState.SUCCEEDED]
                assert len(succeeded) <= 1, f"{job.id} was published {len(succeeded)} times"
                assert not any(one.state.is_terminal for one in events[:-1]), f"{job.id} went on after its end"
                assert (job.artifact is not None) == bool(succeeded)
                for record in job.checkpoints:
                    assert (self.folder / "checkpoints" / job.id / record.folder).is_dir()

    def rows_of_epochs(self, rows_a_step: int) -> None:
        """Whatever was trained on twice was the same both times, and an epoch has each of its rows once."""
        seen: dict[str, dict[tuple[int, int], list[int]]] = defaultdict(dict)
        for line in self.rows.read_text().splitlines():
            job_id, step, micro_batch, positions = json.loads(line)
            before = seen[job_id].setdefault((step, micro_batch), positions)
            assert before == positions, f"{job_id}: other rows at step {step} after a stop"
        for job_id, batches in seen.items():
            in_order = [position for key in sorted(batches) for position in batches[key]]
            size = len(set(in_order))
            for start in range(0, len(in_order) - size + 1, size):
                epoch = in_order[start : start + size]
                assert len(set(epoch)) == size, f"{job_id}: a row twice in the epoch of row {start}"
