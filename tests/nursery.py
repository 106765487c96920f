"""Forks `loraloom` processes that have everything imported: a fresh one takes ten seconds, a forked one tenths of one.

Run as a program it reads a request a line and answers a line. Nothing has been computed in it, so that no library has
threads that a fork would lose. A service finds the process that checks jobs forked too, instead of starting it.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_IMPORTED = (
    *("orchestrator.cli", "orchestrator.run", "orchestrator.service", "orchestrator.clusters.in_process"),
    *("orchestrator.recovery", "workers.preflight", "workers.worker"),
)
_LOOK_SECONDS = 0.01


@dataclass(frozen=True, kw_only=True)
class Request:
    """A command to run."""

    arguments: tuple[str, ...]
    output: str
    """File that stdout is appended to."""
    errors: str | None = None
    """The same of stderr; `output` where it is none."""
    folder: str | None = None
    """To run in; that of the tests where it is none."""
    environment: dict[str, str] = field(default_factory=dict)
    """Set before anything runs; what was imported before has not seen it."""
    module: str = "orchestrator.cli"
    """Whose `main` runs."""
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
            [sys.executable, "-m", "tests.nursery"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, request: Request) -> int:
        """Fork a process, in a session of its own; its id."""
        return self._ask({"start": asdict(request)})

    def wait(self, pid: int, *, blocking: bool = True) -> int | None:
        """Its exit code, negative for a signal; `None` while it runs."""
        return self._ask({"wait": pid, "blocking": blocking})

    def open(self, request: Request) -> Child:
        """Start a process, and a handle on it."""
        return Child(self, self.start(request))

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


class Child:
    """A process of the nursery's; as `subprocess.Popen`, as far as tests use that."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery = nursery
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code; `None` while it runs."""
        if self.returncode is None:
            self.returncode = self._nursery.wait(self.pid, blocking=False)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended.

        Raises:
            subprocess.TimeoutExpired: It has not, so many seconds long.
        """
        deadline = time.monotonic() + timeout if timeout is not None else float("inf")
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("loraloom", timeout or 0.0)
            time.sleep(_LOOK_SECONDS)
        return code

    def send_signal(self, number: int) -> None:
        """As long as it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


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
        output, errors = (
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for path in (request.output, request.errors or request.output)
        )
        nothing = os.open(os.devnull, os.O_RDONLY)
        for descriptor, target in ((nothing, 0), (output, 1), (errors, 2)):
            os.dup2(descriptor, target)
        if request.folder is not None:
            os.chdir(request.folder)
        os.environ.update({"TOKENIZERS_PARALLELISM": "false", **request.environment})
        if request.rows is not None:
            _record_rows(Path(request.rows))
        if request.die_in is not None:
            _die_in(*request.die_in)
        if request.no_room is not None:
            _fill_the_disk(*request.no_room)
        if request.arguments[0] == "serve":
            _fork_checker()
        sys.argv = ["loraloom", *request.arguments]
        importlib.import_module(request.module).main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _fork_checker() -> None:
    """The first process that checks jobs is there already, forked before this one has threads."""
    from orchestrator.checking import Checker, check_jobs

    ours, theirs = multiprocessing.Pipe()

    def body() -> None:
        # Else it would never see that nobody is there any more.
        ours.close()
        check_jobs(theirs)

    process = multiprocessing.get_context("fork").Process(target=body, name="check", daemon=True)
    process.start()
    theirs.close()
    begin, ready = Checker._begin, [(process, ours)]

    def begin_with_it(checker: Checker, job_id: str, spec: Any) -> None:
        if checker._process is None and ready:
            checker._process, checker._connection = ready.pop()
        begin(checker, job_id, spec)

    Checker._begin = begin_with_it  # type: ignore[method-assign]


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
