"""What the machine that tests run on must have, and lends."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess

import pytest

from tests.nursery import Child

_PATIENCE_SECONDS = 60.0


def program(*names: str, mend: str) -> str:
    """Path of the first of some programs that is installed. Without any a contributor's test is skipped, CI's fails.

    Args:
        names: As they are called.
        mend: Command that installs it.
    """
    found = next((path for name in names if (path := shutil.which(name)) is not None), None)
    if found is not None:
        return found
    message = f"{names[0]} is not installed: `{mend}`, on Debian and as root"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def end(process: subprocess.Popen[bytes] | Child) -> None:
    """Ask a process to end; it is gone after this, whatever it does."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
