"""The journal's tables as they are today; `migrations` says how a file comes to have them."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("spec", Text, nullable=False),  # JSON, keys in the spec's own order: the first pattern that matches counts
    Column("spec_sha256", Text, nullable=False),
    Column("submitted", Integer, nullable=False, unique=True),  # orders jobs, counted from 1
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("attempt", Integer, nullable=False),  # the fencing number; 0 before the first
    Column("worker_id", Text),
    Column("progress", Text),  # JSON
    Column("artifact", Text),
)

attempts = Table(
    "attempts",
    metadata,
    Column("job_id", Text, ForeignKey("jobs.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("worker_id", Text),
    Column("started_unix_seconds", Float, nullable=False),
    Column("ended_unix_seconds", Float),
    Column("is_open", Boolean, nullable=False),  # said apart from the times, which a clock may set to anything
    Column("why", Text),  # reason code of its end
    Column("charged", Boolean, nullable=False),  # counts against job_recovery.max_restarts_on_errors
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("sequence", Integer, primary_key=True),  # the newest has the highest
    Column("job_id", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("step", Integer, nullable=False),
    Column("micro_batch", Integer, nullable=False),
    Column("folder", Text, nullable=False),
    Column("manifest_sha256", Text, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("quarantined", Text),  # what was wrong with it; null for one to go on from
    ForeignKeyConstraint(["job_id", "attempt"], ["attempts.job_id", "attempts.number"]),
    UniqueConstraint("job_id", "folder"),
    Index("checkpoints_by_job", "job_id", "sequence"),
    sqlite_autoincrement=True,
)

events = Table(
    "events",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("job_id", Text, ForeignKey("jobs.id"), nullable=False),
    Column("time_unix_seconds", Float, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("message", Text, nullable=False),
    Index("events_by_job", "job_id", "sequence"),
    sqlite_autoincrement=True,
)

settings = Table(
    "settings",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),  # JSON
)
