"""Forks `loraloom` processes that have everything imported: a fresh one takes seconds, a forked one tenths of them.

Run as a program it reads a request a line and answers a line. Nothing has been computed in it, so that no library has
threads that a fork would lose.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_IMPORTED = ("orchestrator.cli", "orchestrator.run", "orchestrator.clusters.in_process", "orchestrator.recovery")


@dataclass(frozen=True, kw_only=True)
class Request:
    """A command to run."""

    arguments: tuple[str, ...]
    output: str
    """File that stdout and stderr are appended to."""
    rows: str | None = None
    """File to which each micro-batch that is trained on appends a line: job, step, number, positions of its rows."""
    die_in: tuple[str, int, str] | None = None
    """Kill itself with -9 in the n-th call of this function of `os` whose path has this pattern."""
    no_room: tuple[str, int, int] | None = None
    """Writes below this folder of the output directory, from the first number to the second, find the disk full."""


class Nursery:
    """The client's side."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, request: Request) -> int:
        """Fork a process, in a session of its own; its id."""
        return self._ask({"start": asdict(request)})

    def wait(self, pid: int, *, blocking: bool = True) -> int | None:
        """Its exit code, negative for a signal; `None` while it runs."""
        return self._ask({"wait": pid, "blocking": blocking})

    def close(self) -> None:
        """End the nursery. Processes that it started are the caller's to end before."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def _ask(self, question: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def _serve() -> None:
    for name in _IMPORTED:
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        question = json.loads(line)
        if "start" in question:
            answer: int | None = os.fork()
            if answer == 0:
                _child(Request(**question["start"]))
        else:
            pid, status = os.waitpid(question["wait"], 0 if question["blocking"] else os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _child(request: Request) -> None:
    code: Any = 70
    try:
        os.setsid()
        output = os.open(request.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for descriptor, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(descriptor, target)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        if request.rows is not None:
            _record_rows(Path(request.rows))
        if request.die_in is not None:
            _die_in(*request.die_in)
        if request.no_room is not None:
            _fill_the_disk(*request.no_room)
        sys.argv = ["loraloom", *request.arguments]
        from orchestrator.cli import main

        main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _record_rows(path: Path) -> None:
    from workers.job_run import JobRun

    trained = JobRun.trained

    def record(run: JobRun, work: Any, **results: Any) -> Any:
        line = [run.job_id, run.step, work.micro_batch, [row.index for row in work.batch.rows]]
        report = trained(run, work, **results)
        with path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        return report

    JobRun.trained = record  # type: ignore[method-assign]


def _die_in(call: str, number: int, pattern: str) -> None:
    original = getattr(os, call)
    left = [number]

    def counted(subject: Any, *more: Any, **named: Any) -> Any:
        path = os.readlink(f"/proc/self/fd/{subject}") if isinstance(subject, int) else os.fspath(subject)
        if re.search(pattern, str(path)):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return original(subject, *more, **named)

    setattr(os, call, counted)


def _fill_the_disk(folder: str, first: int, last: int) -> None:
    import errno

    original = os.write
    count = [0]

    def write(descriptor: int, data: Any) -> int:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if f"/{folder}/" in path:
            count[0] += 1
            if first <= count[0] <= last:
                raise OSError(errno.ENOSPC, "No space left on device")
        return original(descriptor, data)

    os.write = write


if __name__ == "__main__":
    _serve()
