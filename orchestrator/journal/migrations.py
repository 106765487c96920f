"""The steps by which a journal of an older version, or an empty file, becomes one of today."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from jobs.errors import LoraloomError

Step = Sequence[str]
"""Statements that make a file of one version one of the next. Never changed once released: files depend on it."""

STEPS: tuple[Step, ...] = (
    (
        """
        CREATE TABLE jobs (
            id TEXT NOT NULL PRIMARY KEY,
            name TEXT NOT NULL,
            spec TEXT NOT NULL,
            spec_sha256 TEXT NOT NULL,
            submitted INTEGER NOT NULL UNIQUE,
            state TEXT NOT NULL,
            reason TEXT NOT NULL,
            message TEXT NOT NULL,
            attempt INTEGER NOT NULL,
            worker_id TEXT,
            progress TEXT,
            artifact TEXT
        )
        """,
        """
        CREATE TABLE attempts (
            job_id TEXT NOT NULL REFERENCES jobs (id),
            number INTEGER NOT NULL,
            worker_id TEXT,
            started_unix_seconds FLOAT NOT NULL,
            ended_unix_seconds FLOAT,
            is_open BOOLEAN NOT NULL,
            why TEXT,
            charged BOOLEAN NOT NULL,
            PRIMARY KEY (job_id, number)
        )
        """,
        """
        CREATE TABLE checkpoints (
            sequence INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
            job_id TEXT NOT NULL,
            attempt INTEGER NOT NULL,
            step INTEGER NOT NULL,
            micro_batch INTEGER NOT NULL,
            folder TEXT NOT NULL,
            manifest_sha256 TEXT NOT NULL,
            size_bytes INTEGER NOT NULL,
            quarantined TEXT,
            FOREIGN KEY (job_id, attempt) REFERENCES attempts (job_id, number),
            UNIQUE (job_id, folder)
        )
        """,
        "CREATE INDEX checkpoints_by_job ON checkpoints (job_id, sequence)",
        """
        CREATE TABLE events (
            sequence INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
            job_id TEXT NOT NULL REFERENCES jobs (id),
            time_unix_seconds FLOAT NOT NULL,
            state TEXT NOT NULL,
            reason TEXT NOT NULL,
            message TEXT NOT NULL
        )
        """,
        "CREATE INDEX events_by_job ON events (job_id, sequence)",
        "CREATE TABLE settings (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)",
    ),
    (
        "ALTER TABLE jobs ADD COLUMN desired TEXT NOT NULL DEFAULT 'run'",
        "ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE jobs ADD COLUMN queue TEXT NOT NULL DEFAULT 'default'",
        "ALTER TABLE jobs ADD COLUMN labels TEXT NOT NULL DEFAULT '{}'",
        "ALTER TABLE jobs ADD COLUMN owner TEXT",
        "ALTER TABLE jobs ADD COLUMN sweep_id TEXT",
        "ALTER TABLE jobs ADD COLUMN submitted_unix_seconds FLOAT NOT NULL DEFAULT 0",
        "ALTER TABLE jobs ADD COLUMN ended_unix_seconds FLOAT",
        "ALTER TABLE jobs ADD COLUMN estimate TEXT",
        "ALTER TABLE jobs ADD COLUMN retried_after INTEGER NOT NULL DEFAULT 0",
        """
        UPDATE jobs SET
            desired = CASE state WHEN 'CANCELLED' THEN 'cancel' ELSE 'run' END,
            priority = coalesce(json_extract(spec, '$.scheduling.priority'), 0),
            queue = coalesce(json_extract(spec, '$.scheduling.queue'), 'default'),
            labels = json(coalesce(json_extract(spec, '$.labels'), '{}')),
            submitted_unix_seconds = coalesce(
                (SELECT time_unix_seconds FROM events WHERE job_id = jobs.id ORDER BY sequence LIMIT 1), 0
            ),
            ended_unix_seconds = CASE WHEN state IN ('SUCCEEDED', 'FAILED', 'CANCELLED') THEN (
                SELECT time_unix_seconds FROM events
                WHERE job_id = jobs.id AND events.state = jobs.state ORDER BY sequence LIMIT 1
            ) END
        """,
        "CREATE INDEX jobs_listing ON jobs "
        "(submitted, state, queue, priority, name, ended_unix_seconds, owner, sweep_id, id, labels)",
        "CREATE INDEX jobs_by_state ON jobs (state, queue)",
        "CREATE INDEX jobs_by_name ON jobs (name, submitted)",
        "CREATE INDEX jobs_by_end ON jobs (ended_unix_seconds, submitted)",
        "CREATE INDEX jobs_by_priority ON jobs (priority, submitted)",
        "CREATE INDEX jobs_by_sweep ON jobs (sweep_id, submitted)",
        "ALTER TABLE attempts ADD COLUMN node TEXT",
        "CREATE TABLE names (name TEXT NOT NULL PRIMARY KEY, last_number INTEGER NOT NULL)",
        """
        INSERT INTO names (name, last_number)
        SELECT name, max(
            CASE
                WHEN id = name THEN 1
                WHEN substr(id, 1, length(name) + 1) = name || '.' THEN CAST(substr(id, length(name) + 2) AS INTEGER)
                ELSE 0
            END
        )
        FROM jobs GROUP BY name
        """,
        """
        CREATE TABLE job_labels (
            key TEXT NOT NULL,
            value TEXT NOT NULL,
            submitted INTEGER NOT NULL REFERENCES jobs (submitted),
            PRIMARY KEY (key, value, submitted)
        ) WITHOUT ROWID
        """,
        """
        INSERT INTO job_labels (key, value, submitted)
        SELECT label.key, label.value, jobs.submitted FROM jobs, json_each(jobs.labels) AS label
        """,
        """
        CREATE TABLE submissions (
            owner TEXT NOT NULL,
            key TEXT NOT NULL,
            body_sha256 TEXT NOT NULL,
            job_ids TEXT NOT NULL,
            time_unix_seconds FLOAT NOT NULL,
            PRIMARY KEY (owner, key)
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE metrics (
            job_id TEXT NOT NULL REFERENCES jobs (id),
            step INTEGER NOT NULL,
            kind TEXT NOT NULL,
            "values" TEXT NOT NULL,
            PRIMARY KEY (job_id, step, kind)
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE metric_series (
            job_id TEXT NOT NULL REFERENCES jobs (id),
            kind TEXT NOT NULL,
            every INTEGER NOT NULL,
            num_points INTEGER NOT NULL,
            first_step INTEGER NOT NULL,
            last_step INTEGER NOT NULL,
            PRIMARY KEY (job_id, kind)
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE artifacts (
            job_id TEXT NOT NULL PRIMARY KEY REFERENCES jobs (id),
            attempt INTEGER NOT NULL,
            uri TEXT NOT NULL,
            manifest_sha256 TEXT NOT NULL,
            size_bytes INTEGER NOT NULL,
            files TEXT NOT NULL
        )
        """,
    ),
)
"""`STEPS[n]` leads from version n to n + 1; an empty file is of version 0."""


def migrate(connection: Connection, path: str, steps: Sequence[Step] = STEPS) -> None:
    """Bring a file to the version known here, in the caller's transaction.

    Raises:
        LoraloomError: The file is of a later version, or not a journal.
    """
    version = read_version(connection, path)
    if version > len(steps):
        raise LoraloomError(
            f"{path} is a journal of version {version}, and this Loraloom knows {len(steps)}; "
            "use the one that wrote it, or a later one"
        )
    for step in steps[version:]:
        for statement in step:
            connection.exec_driver_sql(statement)
    if version < len(steps):
        connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
        connection.exec_driver_sql("DELETE FROM schema_version")
        connection.exec_driver_sql("INSERT INTO schema_version (version) VALUES (?)", (len(steps),))


def read_version(connection: Connection, path: str) -> int:
    """Version of a file; 0 for an empty one.

    Raises:
        LoraloomError: It holds something else.
    """
    tables = {row[0] for row in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "schema_version" in tables:
        versions = [row[0] for row in connection.exec_driver_sql("SELECT version FROM schema_version")]
        if len(versions) == 1:
            return int(versions[0])
    elif not tables:
        return 0
    raise LoraloomError(f"{path} is a database, but not a journal of Loraloom; move it away, or name another folder")
