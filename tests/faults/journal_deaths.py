"""Where a process may die as it writes its journal: beside every statement, and before, in and after every commit."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

_COMMIT = "a commit"
_IN = f"in {_COMMIT}"


@dataclass(frozen=True, kw_only=True)
class Death:
    """When a process is to kill itself with -9."""

    point: int
    """Of those that it comes by, all connections and threads counted together, from 1."""
    only_commits: bool = False
    """Count the points before, in and after commits alone."""
    seconds_into_commit: float = 0.0
    """Where that point is in the middle of a commit: how long after its beginning."""


def install(death: Death, tell: Callable[[str], None]) -> None:
    """Let this process die at a point of a journal that it opens to write from now on.

    Args:
        death: When.
        tell: Called with where it is, just before.
    """
    from orchestrator.journal import opening

    lock = threading.Lock()
    passed = [0]

    def die(where: str) -> None:
        tell(f"dies {where}")
        os.kill(os.getpid(), signal.SIGKILL)

    def arrive(where: str) -> bool:
        if death.only_commits and not where.endswith(_COMMIT):
            return False
        with lock:
            passed[0] += 1
            is_here = passed[0] == death.point
        if is_here and where != _IN:
            die(where)
        return is_here

    def open_to_die(path: Path, **options: Any) -> Engine:
        engine = original(path, **options)
        commit = engine.dialect.do_commit

        def do_commit(connection: Any) -> None:
            arrive(f"before {_COMMIT}")
            if arrive(_IN):
                tell(f"dies {_IN}")
                # It wakes while the database waits for the disk, or soon after.
                threading.Thread(target=_kill_after, args=(death.seconds_into_commit,), daemon=True).start()
            commit(connection)
            arrive(f"after {_COMMIT}")

        engine.dialect.do_commit = do_commit  # type: ignore[method-assign]
        event.listen(engine, "before_cursor_execute", lambda *of: arrive(f"before {_named(of[2])}"))
        event.listen(engine, "after_cursor_execute", lambda *of: arrive(f"after {_named(of[2])}"))
        return engine

    original, opening.open_engine = opening.open_engine, open_to_die


def _kill_after(seconds: float) -> None:
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)


def _named(statement: str) -> str:
    """Kind of a statement and its table."""
    found = re.match(r"\s*(\w+)(?:.*?\b(?:FROM|INTO|UPDATE|TABLE|ON)\s+(\w+))?", statement, re.DOTALL | re.IGNORECASE)
    return " ".join(part for part in found.groups() if part) if found else "?"
