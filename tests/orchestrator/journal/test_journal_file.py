"""The file of a journal: versions, foreign files, full disks, locks."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy

from jobs.checkpoints import DiskFullError
from jobs.errors import LoraloomError
from jobs.records import JobProgress, JobState
from orchestrator.journal import JobFilter, Journal, JournalLocked, JournalReader, Submission
from orchestrator.journal.lock import ProcessLock
from orchestrator.journal.migrations import STEPS
from orchestrator.journal.tables import metadata
from tests.orchestrator.journal.entries import contents, make_record, make_submission, start

VERSION_1 = Path(__file__).with_name("version_1.sql")
"""A journal as the first version wrote it; never to be changed, since such files are out there."""


def write_version_1(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(VERSION_1.read_text(encoding="utf-8"))
    connection.close()


def test_a_file_of_version_1_is_brought_up_to_date_with_everything_in_it(path: Path) -> None:
    write_version_1(path)
    with Journal(path) as journal:
        finished, going_on = journal.jobs()
        assert (finished.id, finished.state, finished.artifact) == ("a", JobState.SUCCEEDED, "artifacts/name-a")
        assert (finished.attempt, finished.num_charged) == (2, 1)
        assert finished.checkpoints == (make_record(15, attempt=2), make_record(10))
        assert [bad.record for bad in journal.quarantined("a")] == [make_record(20, micro_batch=1)]
        assert (going_on.id, going_on.attempt, going_on.attempt_is_open) == ("b", 1, True)
        assert going_on.progress == JobProgress(step=3, train_loss=0.5)
        assert len(journal.events()) == 8
        assert journal.setting("token_budget") == {"tiny (float32)": 4096}
        journal.commit_checkpoint(make_record(9, job_id="b"))
        journal.change("b", attempt=1, state=JobState.SUCCEEDED, reason="r", message="m", at=1.0)
    with JournalReader(path) as reader:
        assert reader.jobs()[1].state is JobState.SUCCEEDED


def columns_of_version_1(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """All rows of all tables that version 1 has, in the columns that it has."""
    before = sqlite3.connect(":memory:")
    for statement in STEPS[0]:
        before.execute(statement)
    names = [row[0] for row in before.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    connection = sqlite3.connect(path)
    found: dict[str, list[tuple[object, ...]]] = {}
    for table in names:
        columns = ", ".join(row[1] for row in before.execute(f"PRAGMA table_info({table})"))
        found[table] = connection.execute(f"SELECT {columns} FROM {table} ORDER BY rowid").fetchall()
    connection.close()
    return found


def test_the_first_step_makes_what_version_1_was(path: Path, tmp_path: Path) -> None:
    write_version_1(path)
    other = tmp_path / "made.db"
    connection = sqlite3.connect(other)
    for statement in STEPS[0]:
        connection.execute(statement)
    connection.close()

    def schema(database: Path) -> list[str]:
        rows = sqlite3.connect(database).execute(
            "SELECT sql FROM sqlite_master WHERE name NOT IN ('schema_version', 'sqlite_sequence') AND sql NOT NULL"
        )
        return sorted(" ".join(row[0].split()) for row in rows)

    assert schema(path) == schema(other)


def write_many_of_version_1(path: Path) -> None:
    """200 jobs of 40 names, as `loraloom run` of that version left them."""
    draw = random.Random(9)
    connection = sqlite3.connect(path)
    for statement in STEPS[0]:
        connection.execute(statement)
    connection.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
    connection.execute("INSERT INTO schema_version VALUES (1)")
    for number in range(1, 201):
        name = f"job-{number % 40}"
        job_id = name if number <= 40 else f"{name}.{(number - 1) // 40 + 1}"
        spec = make_submission("a").spec.model_dump(mode="json")
        spec["labels"] = {"n": str(number % 3), "odd": "yes"} if number % 2 else {}
        spec["scheduling"] |= {"queue": draw.choice(["default", "night"]), "priority": draw.randrange(-3, 4)}
        state = draw.choice(list(JobState)).value
        row = (job_id, name, json.dumps(spec), "0" * 64, number, state, "why", "é", 1, "w0", None, None)
        connection.execute(f"INSERT INTO jobs VALUES ({', '.join('?' * 12)})", row)
        ended = JobState(state).is_terminal
        connection.execute(
            "INSERT INTO attempts VALUES (?, 1, 'w0', 1.5, ?, ?, ?, 1)",
            (job_id, 9.0 if ended else None, not ended, state if ended else None),
        )
        for at, what in ((number, "PENDING"), (number + 0.5, "RUNNING"), (number + 0.75, state)):
            connection.execute("INSERT INTO events VALUES (NULL, ?, ?, ?, 'r', 'm')", (job_id, at, what))
        folder = f"step-{number:06d}.00-a1"
        connection.execute(
            "INSERT INTO checkpoints VALUES (NULL, ?, 1, ?, 0, ?, 's', 7, NULL)", (job_id, number, folder)
        )
    connection.execute("INSERT INTO settings VALUES ('token_budget', '[1]')")
    connection.commit()
    connection.close()


def test_every_row_of_version_1_is_there_and_found_by_what_is_new(path: Path) -> None:
    write_many_of_version_1(path)
    before = columns_of_version_1(path)
    with Journal(path) as journal:
        assert columns_of_version_1(path) == before
        jobs = journal.jobs()
        assert len(jobs) == 200
        for number, job in enumerate(jobs, 1):
            assert (job.queue, job.priority) == (job.spec["scheduling"]["queue"], job.spec["scheduling"]["priority"])
            assert (job.labels, job.owner, job.sweep_id, job.estimate) == (job.spec["labels"], None, None, None)
            assert job.desired == ("cancel" if job.state is JobState.CANCELLED else "run")
            assert job.submitted_unix_seconds == number
            assert job.ended_unix_seconds == (number + 0.75 if job.state.is_terminal else None)
            assert (job.num_charged, len(job.checkpoints)) == (1, 1)
        by_label = {job.id for job in journal.page(JobFilter(labels={"n": "1", "odd": "yes"}), limit=1000).items}
        assert by_label == {job.id for job in jobs if job.labels.get("n") == "1"} != set()
        assert [job.id for job in journal.unfinished().jobs] == [job.id for job in jobs if not job.state.is_terminal]
        spec = make_submission("a").spec.model_copy(update={"name": "job-3"})
        assert journal.submit([Submission(spec=spec)], at=1.0) == ["job-3.6"]
        assert journal.jobs()[-1].submitted == 201


LATER = (
    *STEPS,
    ("ALTER TABLE jobs ADD COLUMN mood TEXT", "UPDATE jobs SET mood = 'good'"),
    ("CREATE TABLE leases (job_id TEXT NOT NULL REFERENCES jobs (id))",),
)


def test_steps_run_once_and_in_order(path: Path) -> None:
    write_version_1(path)
    for _ in range(2):
        with Journal(path, steps=LATER) as journal:
            found = contents(journal)
            assert ("schema_version", 4) in found
            assert [row[-1] for row in found if row[0] == "jobs"] == ["good", "good"]


def test_a_step_that_fails_leaves_the_old_version_whole(path: Path) -> None:
    with Journal(path) as journal:
        journal.submit([make_submission("a")], at=1.0)
        before = contents(journal)
    broken = (*STEPS, ("ALTER TABLE jobs ADD COLUMN mood TEXT", "CREATE TABLE leases (job_id TEXT)", "NONSENSE"))
    with pytest.raises(LoraloomError, match="NONSENSE"):
        Journal(path, steps=broken)
    with Journal(path) as journal:
        assert contents(journal) == before


def test_a_file_of_a_later_version_is_left_alone(path: Path) -> None:
    Journal(path, steps=LATER).close()
    content = path.read_bytes()
    for kind in (Journal, JournalReader):
        with pytest.raises(LoraloomError, match=r"journal of version 4, and this Loraloom (knows|reads) 2"):
            kind(path)
    assert path.read_bytes() == content


def test_steps_lead_to_the_tables_that_are_used(path: Path, tmp_path: Path) -> None:
    Journal(path).close()
    meant = tmp_path / "meant.sqlite"
    metadata.create_all(sqlalchemy.create_engine(f"sqlite:///{meant}"))

    def described(database: Path) -> dict[str, object]:
        connection = sqlite3.connect(database)
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        return {
            table: [
                sorted(row[1:6] for row in connection.execute(f"PRAGMA table_info({table})")),
                sorted(row[2:5] for row in connection.execute(f"PRAGMA foreign_key_list({table})")),
                sorted(
                    (row[2], [column[2] for column in connection.execute(f"PRAGMA index_info({row[1]})")])
                    for row in connection.execute(f"PRAGMA index_list({table})")
                ),
                "AUTOINCREMENT"
                in connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0],
            ]
            for table in tables - {"schema_version", "sqlite_sequence"}
        }

    assert described(path) == described(meant)


@pytest.mark.parametrize("content", [b"not a database, by far" * 100, b"SQLite format 3\0" + b"\xff" * 500])
def test_other_files_are_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    for kind in (Journal, JournalReader):
        with pytest.raises(LoraloomError, match=str(path)):
            kind(path)
    assert path.read_bytes() == content


def test_other_databases_are_refused(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE mine (x)")
    connection.close()
    with pytest.raises(LoraloomError, match="not a journal of Loraloom; move it away"):
        Journal(path)
    with pytest.raises(LoraloomError, match="not a journal of Loraloom; move it away"):
        JournalReader(path)


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    with pytest.raises(LoraloomError, match="cannot be opened: No such file"):
        Journal(tmp_path / "nothing" / "journal.sqlite")
    with pytest.raises(LoraloomError, match="cannot be read"):
        JournalReader(tmp_path / "journal.sqlite")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_changes_nothing_and_is_not_the_end(journal: Journal) -> None:
    start(journal)
    with journal._engine.begin() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    before = contents(journal)
    with pytest.raises(
        DiskFullError, match=r"journal\.sqlite: it needs more room than there is, [\d,]+ bytes are free"
    ):
        journal.put_setting("large", "x" * 10**6)
    assert contents(journal) == before
    with journal._engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    journal.put_setting("large", "x" * 10**6)
    journal.commit_checkpoint(make_record(1))


OPEN = """
import sys
from pathlib import Path
from orchestrator.journal import Journal, JournalLocked
try:
    journal = Journal(Path(sys.argv[1]))
except JournalLocked as error:
    print(error)
    raise SystemExit(7)
print("open", flush=True)
sys.stdin.read()
"""


def open_elsewhere(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OPEN, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_two_processes_cannot_both_write(path: Path) -> None:
    with open_elsewhere(path) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(JournalLocked, match=f"process {other.pid} on .*; wait for it, stop it, or name another"):
            Journal(path)
        with JournalReader(path) as reader:
            assert reader.jobs() == []
        other.send_signal(signal.SIGKILL)
        other.wait()
        # A lock that outlives its process would need a person.
        Journal(path).close()


def test_a_second_one_in_the_same_process_is_refused_too(path: Path, journal: Journal) -> None:
    with pytest.raises(JournalLocked, match=f"process {os.getpid()} on"):
        Journal(path)
    journal.submit([make_submission("a")], at=1.0)
    with open_elsewhere(path) as other:
        out, _ = other.communicate()
        assert other.returncode == 7
        assert f"process {os.getpid()} on" in out
    journal.close()
    Journal(path).close()


def test_a_forked_child_does_not_keep_the_lock(path: Path) -> None:
    """Children of a driver outlive it: one that was killed must not block the next because of them."""
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            journal = Journal(path)
            if os.fork() == 0:
                os.close(writing)
                os.read(reading, 1)
                os._exit(0)
            os.close(reading)
            os.write(writing, b"x")
            os.kill(os.getpid(), signal.SIGKILL)
            journal.close()
        finally:
            os._exit(1)
    os.close(reading)
    assert os.WTERMSIG(os.waitpid(parent, 0)[1]) == signal.SIGKILL
    Journal(path).close()
    os.close(writing)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"[]", b'{"pid": "x"}', b"\xff" * 5000])
def test_a_lock_that_says_nothing_holds_all_the_same(tmp_path: Path, content: bytes) -> None:
    lock = ProcessLock(tmp_path / "lock")
    (tmp_path / "lock").write_bytes(content)
    with pytest.raises(JournalLocked, match="is being written by another process"):
        ProcessLock(tmp_path / "lock")
    lock.release()
    lock.release()
    ProcessLock(tmp_path / "lock").release()
