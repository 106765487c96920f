"""Killing a process in the middle of what it does, for tests of what is left."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

_PIPE_BYTES = 4096
"""A write of at most so much to a pipe is whole or absent."""


def killed(run: Callable[[Callable[[str], None]], None], *, after_lines: int, seconds: float) -> list[str]:
    """Run something in a child until it has told so many lines and some time has passed, then kill -9.

    Args:
        run: Never returns; tells a line by calling its argument.
        after_lines: Counted rather than timed, so that a busy machine does not make the test trivial.
        seconds: From then to the kill.

    Returns:
        All lines that were told, those between the count and the kill included.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            run(lambda line: _tell(writing, line))
        finally:
            os._exit(1)
    os.close(writing)
    told = b""
    while told.count(b"\n") < after_lines:
        chunk = os.read(reading, _PIPE_BYTES)
        assert chunk, "the child ended by itself"
        told += chunk
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL, "the child ended by itself"
    with os.fdopen(reading, "rb") as rest:
        return (told + rest.read()).decode().splitlines()


def _tell(descriptor: int, line: str) -> None:
    content = f"{line}\n".encode()
    assert os.write(descriptor, content) == len(content) <= _PIPE_BYTES
