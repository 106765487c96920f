"""Connections to the file of a journal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event

from jobs.errors import LoraloomError

_BUSY_MILLISECONDS = 10_000
"""How long to wait for another connection's transaction: ours take milliseconds, a backup of the file takes longer."""


def open_engine(path: Path, *, read_only: bool = False) -> Engine:
    """An engine under whose connections a commit that has returned survives a power cut.

    With the execution option `writes`, a transaction takes the write lock at its beginning: what it reads it may then
    act upon, and it cannot fail half way through because another one was faster.
    """
    query: Mapping[str, str] = {"uri": "true", "mode": "ro"} if read_only else {}
    database = path.resolve().as_uri() if read_only else str(path)
    engine = create_engine(URL.create("sqlite", database=database, query=query))

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, record: object) -> None:
        # The driver would begin transactions by its own rules, and none for a CREATE TABLE.
        connection.isolation_level = None
        for pragma in (
            f"busy_timeout = {_BUSY_MILLISECONDS}",
            "foreign_keys = ON",
            "query_only = ON" if read_only else "synchronous = FULL",
        ):
            connection.execute(f"PRAGMA {pragma}")
        if not read_only:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                raise LoraloomError(
                    f"{path} cannot have a write-ahead log (its journal mode is {mode}), as on some network file "
                    "systems; name an output directory on a local disk"
                )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
