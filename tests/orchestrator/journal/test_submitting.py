"""Ids of jobs, and keys that make submitting twice the same as submitting once."""

from __future__ import annotations

import pickle
import random
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy

from orchestrator.journal import Journal, JournalError, JournalReader, KeyConflict, Submission, SubmissionKey
from tests.kills import killed
from tests.orchestrator.journal.entries import contents, make_submission

KEY = SubmissionKey.of("key", b"body", owner="alice")


def named(name: str, job_id: str | None = None) -> Submission:
    spec = make_submission("a").spec.model_copy(update={"name": name})
    return Submission(job_id=job_id, spec=spec)


def test_jobs_of_one_name_get_ids_of_their_own(journal: Journal) -> None:
    assert journal.free_id("a") == "a"
    assert journal.submit([named("a"), named("b"), named("a"), named("a")], at=1.0) == ["a", "b", "a.2", "a.3"]
    assert journal.free_id("a") == "a.4"
    assert journal.submit([named("a"), named("b")], at=1.0) == ["a.4", "b.2"]
    assert [(job.id, job.name) for job in journal.jobs()][-2:] == [("a.4", "a"), ("b.2", "b")]


def test_an_id_that_was_chosen_counts(journal: Journal) -> None:
    assert journal.submit([named("a", "a.7"), named("a"), named("other", "b")], at=1.0) == ["a.7", "a.8", "b"]
    assert journal.submit([named("b"), named("b")], at=1.0) == ["b.2", "b.3"]
    assert journal.free_id("b") == "b.4"


def test_an_id_is_never_given_twice(journal: Journal) -> None:
    """Not even once its job is gone: who has kept the id must not come upon another job."""
    journal.submit([named("a"), named("a")], at=1.0)
    with journal._writing() as connection:
        for table in ("events", "jobs"):
            connection.exec_driver_sql(f"DELETE FROM {table}")
    assert journal.submit([named("a")], at=1.0) == ["a.3"]


@pytest.mark.parametrize("job_id", ["", "..", "../a", "a/b", "a.b", "A", "a\n", "a.", ".2", "a.2.3", "a\0", "é"])
def test_an_id_is_never_a_path(journal: Journal, job_id: str) -> None:
    before = contents(journal)
    with pytest.raises(JournalError, match="is no id of a job"):
        journal.submit([named("a", job_id)], at=1.0)
    assert contents(journal) == before


def test_many_jobs_of_one_name(journal: Journal) -> None:
    """Looks at each id once: with a look at all those before, this would be 25 million."""
    spec = named("a").spec
    statements = 0

    def count(*_: object) -> None:
        nonlocal statements
        statements += 1

    journal.submit([Submission(spec=spec)] * 5000, at=1.0)
    sqlalchemy.event.listen(journal._engine, "before_cursor_execute", count)
    assert journal.submit([Submission(spec=spec)] * 3, at=1.0) == ["a.5001", "a.5002", "a.5003"]
    assert statements < 15


def test_a_key_used_again_with_the_same_body_gives_the_jobs_of_the_first_time(journal: Journal) -> None:
    assert journal.submission(KEY) is None
    ids = journal.submit([named("a"), named("a"), named("b")], at=1.0, key=KEY)
    before = contents(journal)
    assert journal.submit([named("a"), named("a"), named("b")], at=2.0, key=KEY) == ids == ["a", "a.2", "b"]
    assert journal.submission(KEY) == ids
    assert contents(journal) == before


def test_a_key_used_again_with_another_body_is_refused(journal: Journal) -> None:
    journal.submit([named("a")], at=1.0, key=KEY)
    before = contents(journal)
    other = SubmissionKey.of("key", b"other body", owner="alice")
    for use in (partial(journal.submission, other), partial(journal.submit, [named("b")], at=2.0, key=other)):
        with pytest.raises(KeyConflict, match=r"idempotency key 'key' was used before.*; send the same body") as caught:
            use()
        assert pickle.loads(pickle.dumps(caught.value)).key == "key"
    assert contents(journal) == before


def test_each_owner_has_keys_of_their_own(journal: Journal) -> None:
    keys = [SubmissionKey.of("key", owner.encode() if owner else b"", owner=owner) for owner in ("alice", "bob", None)]
    assert [journal.submit([named("a")], at=1.0, key=key) for key in keys] == [["a"], ["a.2"], ["a.3"]]
    assert [journal.submission(key) for key in keys] == [["a"], ["a.2"], ["a.3"]]


def test_a_refused_submission_does_not_use_up_its_key(journal: Journal) -> None:
    journal.submit([named("a")], at=1.0)
    with pytest.raises(JournalError, match="already"):
        journal.submit([named("b"), named("a", "a")], at=1.0, key=KEY)
    assert journal.submission(KEY) is None
    assert journal.submit([], at=1.0, key=KEY) == []
    assert journal.submission(KEY) == []


def test_what_a_job_was_submitted_with(journal: Journal) -> None:
    spec = make_submission("a").spec
    scheduling = spec.scheduling.model_copy(update={"queue": "night", "priority": -3})
    spec = type(spec).model_validate(
        {**spec.model_dump(), "scheduling": scheduling.model_dump(), "labels": {"b": "1", "a": ""}}
    )
    journal.submit([Submission(spec=spec, owner="alice", sweep_id="s1")], at=5.0)
    job = journal.job("name-a")
    assert (job.queue, job.priority, job.labels, job.owner, job.sweep_id) == (
        "night",
        -3,
        {"b": "1", "a": ""},
        "alice",
        "s1",
    )
    assert (job.desired, job.submitted_unix_seconds, job.ended_unix_seconds, job.estimate) == ("run", 5.0, None, None)


def test_the_same_key_from_many_threads_at_once_submits_once(journal: Journal) -> None:
    found: list[list[str]] = []
    gate = threading.Barrier(8)

    def submit(number: int) -> None:
        gate.wait()
        found.append(journal.submit([named("a")], at=1.0, key=KEY))
        journal.submit([named(f"other-{number}")], at=1.0)

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [["a"]] * 8
    assert len(journal.jobs()) == 9


def submit_forever(path: Path, first: int, tell: Callable[[str], None]) -> None:
    journal = Journal(path)
    number = first
    while True:
        tell(f"asked {number}")
        ids = journal.submit([named("a"), named("b")], at=1.0, key=SubmissionKey.of(str(number), b"body"))
        tell(f"told {number} {' '.join(ids)}")
        number += 1


def test_asking_again_after_a_kill_submits_once(path: Path) -> None:
    draw = random.Random(11)
    told: dict[int, list[str]] = {}
    asked: set[int] = set()
    for kill in range(15):
        lines = killed(
            partial(submit_forever, path, kill * 1000), after_lines=draw.randint(1, 6), seconds=draw.uniform(0.0, 0.01)
        )
        for what, number, *ids in (line.split() for line in lines):
            if what == "told":
                told[int(number)] = ids
            asked.add(int(number))
        with Journal(path) as journal:
            for number in asked:
                ids = journal.submit([named("a"), named("b")], at=1.0, key=SubmissionKey.of(str(number), b"body"))
                assert told.setdefault(number, ids) == ids
            assert sorted(job.id for job in journal.jobs()) == sorted(one for ids in told.values() for one in ids)
    with JournalReader(path) as reader:
        assert {event.reason for event in reader.events()} == {"submitted"}
