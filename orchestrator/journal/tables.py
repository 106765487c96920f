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
    text,
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
    Column("artifact", Text),  # where it was published
    Column("desired", Text, nullable=False, server_default="run"),  # what its owner wants: the scheduler follows
    Column("priority", Integer, nullable=False, server_default=text("0")),  # as steered; the spec keeps what it was
    Column("queue", Text, nullable=False, server_default="default"),  # likewise
    Column("labels", Text, nullable=False, server_default="{}"),  # JSON without spaces, so that text can be looked for
    Column("owner", Text),  # name of the token that submitted it; null where none was asked for
    Column("sweep_id", Text),
    Column("submitted_unix_seconds", Float, nullable=False, server_default=text("0")),
    Column("ended_unix_seconds", Float),
    Column("estimate", Text),  # JSON; null until the job was checked
    Column(
        "retried_after", Integer, nullable=False, server_default=text("0")
    ),  # earlier attempts are not held against it
    # Has every column that a list is filtered and sorted by, so that a list never walks the rows, which hold specs.
    Index(
        "jobs_listing",
        "submitted",
        "state",
        "queue",
        "priority",
        "name",
        "ended_unix_seconds",
        "owner",
        "sweep_id",
        "id",
        "labels",
    ),
    Index("jobs_by_state", "state", "queue"),
    Index("jobs_by_name", "name", "submitted"),
    Index("jobs_by_end", "ended_unix_seconds", "submitted"),
    Index("jobs_by_priority", "priority", "submitted"),
    Index("jobs_by_sweep", "sweep_id", "submitted"),
)

names = Table(
    "names",
    metadata,
    Column("name", Text, primary_key=True),
    Column("last_number", Integer, nullable=False),  # of the ids given out; an id is never given twice
)

job_labels = Table(
    "job_labels",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    Column("submitted", Integer, ForeignKey("jobs.submitted"), primary_key=True),  # whose
    sqlite_with_rowid=False,
)

submissions = Table(
    "submissions",
    metadata,
    Column("owner", Text, primary_key=True),  # name of the token, empty where none was asked for
    Column("key", Text, primary_key=True),
    Column("body_sha256", Text, nullable=False),
    Column("job_ids", Text, nullable=False),  # JSON
    Column("time_unix_seconds", Float, nullable=False),
    sqlite_with_rowid=False,
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
    Column("node", Text),  # machine of the worker
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

metrics = Table(
    "metrics",
    metadata,
    Column("job_id", Text, ForeignKey("jobs.id"), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("kind", Text, primary_key=True),  # train or eval
    Column("values", Text, nullable=False),  # JSON
    sqlite_with_rowid=False,
)

metric_series = Table(
    "metric_series",
    metadata,
    Column("job_id", Text, ForeignKey("jobs.id"), primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("every", Integer, nullable=False),  # steps divisible by it are kept
    Column("num_points", Integer, nullable=False),
    Column("first_step", Integer, nullable=False),
    Column("last_step", Integer, nullable=False),
    sqlite_with_rowid=False,
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("job_id", Text, ForeignKey("jobs.id"), primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("uri", Text, nullable=False),
    Column("manifest_sha256", Text, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("files", Text, nullable=False),  # JSON: name to sha256 and size
)

settings = Table(
    "settings",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),  # JSON
)
