"""Opening a journal to write it, and what a transaction of it is."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError

from jobs.checkpoints import DiskFullError
from jobs.errors import LoraloomError
from orchestrator.journal import statements
from orchestrator.journal.engine import open_engine
from orchestrator.journal.lock import ProcessLock
from orchestrator.journal.migrations import STEPS, Step, migrate
from orchestrator.journal.reading import JournalReader
from workers.publishing import free_bytes, fsync


class OpenJournal(JournalReader):
    """A journal that this process alone may write; its threads may share it."""

    def __init__(self, path: Path, *, steps: Sequence[Step] = STEPS) -> None:
        """Open a journal, or begin one; its folder must exist.

        Args:
            path: The database. A lock file stands beside it.
            steps: How files of older versions are brought up to date.

        Raises:
            JournalLocked: Another process has it open for writing.
            LoraloomError: It is damaged, of a later version, or on a disk that cannot hold one.
            DiskFullError: No room.
        """
        self.path = path
        self.on_commit: Callable[[float], None] = lambda _seconds: None
        """Told of the seconds that each transaction took, from having its turn until it was durable."""
        self.num_told = 0
        """Transactions with events so far: whatever happens to a job changes it."""
        # The database would have them wait as well, but asks again only now and then, and in no order.
        self._turn = threading.Lock()
        try:
            self._lock = ProcessLock(path.with_name(f"{path.name}.lock"))
        except OSError as error:
            raise LoraloomError(f"the journal {path} cannot be opened: {error.strerror}") from error
        try:
            self._engine = open_engine(path)
            with self._writing() as connection:
                migrate(connection, str(path), steps)
            # The name of a new file has to be as durable as what is in it.
            fsync(path.parent)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file and let the next process have it."""
        if hasattr(self, "_engine"):
            self._engine.dispose()
        self._lock.release()

    def put_setting(self, key: str, value: Any) -> None:
        """Set a JSON value."""
        with self._writing() as connection:
            statements.put_setting(connection, key, value)

    def fix_setting(self, key: str, value: Any) -> Any:
        """Set a JSON value unless there is one, for what must not change over the life of an output directory.

        Returns:
            The value that holds from now on.
        """
        with self._writing() as connection:
            if statements.setting(connection, key) is None:
                statements.put_setting(connection, key, value)
            return statements.setting(connection, key)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        try:
            with self._turn:
                began = time.perf_counter()
                with self._engine.execution_options(writes=True).begin() as connection:
                    connection.info.pop(statements.TOLD, None)
                    yield connection
                    has_told = connection.info.pop(statements.TOLD, False)
                # Once it is there to be read, and before its caller goes on.
                self.num_told += has_told
                self.on_commit(time.perf_counter() - began)
        except DatabaseError as error:
            if isinstance(error.orig, sqlite3.Error) and error.orig.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise DiskFullError(self.path, needed_bytes=None, free_bytes=free_bytes(self.path)) from error
            raise LoraloomError(f"the journal {self.path} cannot be written: {error.orig}") from error
