"""Lists of jobs: what a page holds against the same done in Python, and that no page walks the rows."""

from __future__ import annotations

import base64
import json
import pickle
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import pytest
import sqlalchemy

from jobs.records import JobState
from jobs.spec import JobSpec
from orchestrator.journal import (
    AmbiguousName,
    BadCursor,
    JobFilter,
    JobSummary,
    Journal,
    JournaledJob,
    JournalReader,
    NoSuchJob,
    Sort,
    Submission,
    listing,
    reading,
)
from tests.orchestrator.journal.entries import make_record, make_submission, requeue, start

SORTS: tuple[Sort, ...] = get_args(Sort)


def make_spec(draw: random.Random) -> JobSpec:
    labels = {key: draw.choice("xyz") for key in ("team", "example.org/run") if draw.random() < 0.7}
    return JobSpec.model_validate(
        {
            "name": draw.choice(["sentiment", "sql", "s-q-l", "a"]),
            "labels": labels,
            "model": {"model_name_or_path": draw.choice(["base-1", "base-2"])},
            "datasets": [{"path": "rows.jsonl"}],
            "scheduling": {"queue": draw.choice(["default", "night"]), "priority": draw.randrange(-2, 3)},
        }
    )


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Journal:
    """120 jobs in all kinds of states."""
    draw = random.Random(1)
    journal = Journal(tmp_path_factory.mktemp("listing") / "journal.db")
    ids = journal.submit(
        [
            Submission(
                spec=make_spec(draw), owner=draw.choice(["alice", "bob", None]), sweep_id=draw.choice([None, "s"])
            )
            for _ in range(120)
        ],
        at=1.0,
    )
    for one in ids:
        state = draw.choice(list(JobState))
        if state.is_terminal:
            at = float(draw.randrange(20))
            journal.change(one, attempt=None, state=state, reason="r", message="m", at=at)
        elif state is not JobState.PENDING:
            journal.change(one, attempt=None, state=state, reason="r", message="m", at=1.0)
    return journal


def listed(found: list[JournaledJob], which: JobFilter) -> list[str]:
    """The oracle."""

    def fits(job: JournaledJob) -> bool:
        return (
            (not which.states or job.state in which.states)
            and all(job.labels.get(key) == value for key, value in which.labels.items())
            and (which.text is None or which.text.lower() in job.name or which.text.lower() in job.id)
            and (which.queue is None or job.queue == which.queue)
            and (which.owner is None or job.owner == which.owner)
            and (which.sweep_id is None or job.sweep_id == which.sweep_id)
        )

    def key(job: JournaledJob) -> tuple[object, int]:
        ended = job.ended_unix_seconds
        values = {
            "submitted": job.submitted,
            "ended": (ended is not None, ended or 0.0),
            "name": job.name,
            "state": str(job.state),
            "priority": job.priority,
        }
        return values[which.sort], job.submitted

    return [job.id for job in sorted(filter(fits, found), key=key, reverse=which.descending)]


def turned(reader: JournalReader, which: JobFilter, limit: int) -> list[str]:
    """All pages."""
    found: list[JobSummary] = []
    after = None
    while True:
        page = reader.page(which, after=after, limit=limit)
        found += page.items
        assert len(page.items) <= limit
        if page.after is None:
            return [job.id for job in found]
        assert len(page.items) == limit
        after = page.after


FILTERS = [
    JobFilter(),
    JobFilter(states=frozenset({JobState.RUNNING})),
    JobFilter(states=frozenset({JobState.FAILED, JobState.PENDING, JobState.SUCCEEDED})),
    JobFilter(labels={"team": "x"}),
    JobFilter(labels={"team": "x", "example.org/run": "z"}),
    JobFilter(labels={"team": "no"}),
    JobFilter(labels={"x": "team"}),
    JobFilter(text="SQL"),
    JobFilter(text=".1"),
    JobFilter(text="%"),
    JobFilter(text=""),
    JobFilter(queue="night"),
    JobFilter(owner="alice"),
    JobFilter(sweep_id="s"),
    JobFilter(sweep_id="s", queue="night", labels={"team": "y"}, text="s", states=frozenset({JobState.FAILED})),
]


@pytest.mark.parametrize("few", [listing._FEW, 3], ids=["labels looked up", "labels met on the way"])
@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("descending", [True, False])
def test_pages_against_python(
    filled: Journal, monkeypatch: pytest.MonkeyPatch, sort: Sort, descending: bool, few: int
) -> None:
    monkeypatch.setattr(listing, "_FEW", few)
    found = filled.jobs()
    num_found = 0
    for one in FILTERS:
        which = replace(one, sort=sort, descending=descending)
        expected = listed(found, which)
        num_found += len(expected)
        for limit in (7, 1000):
            assert turned(filled, which, limit) == expected, which
    assert num_found > 500


def test_a_summary_is_the_job_without_its_spec(filled: Journal) -> None:
    for summary in filled.page(JobFilter(), limit=1000).items:
        job = filled.job(summary.id)
        assert {name: getattr(job, name) for name in JobSummary.__dataclass_fields__} == vars(summary)
        assert summary.model == job.spec["model"]["model_name_or_path"]


def test_counts(filled: Journal) -> None:
    expected: dict[tuple[JobState, str], int] = {}
    for job in filled.jobs():
        expected[job.state, job.queue] = expected.get((job.state, job.queue), 0) + 1
    assert filled.counts_by_state_and_queue() == expected


def test_jobs_that_come_and_go_move_no_page(journal: Journal) -> None:
    ids = journal.submit([Submission(spec=make_submission("a").spec) for _ in range(9)], at=1.0)
    which = JobFilter(states=frozenset({JobState.PENDING}))
    first = journal.page(which, limit=3)
    assert [job.id for job in first.items] == ids[:-4:-1]
    journal.submit([Submission(spec=make_submission("a").spec)], at=2.0)
    for gone in (ids[-2], ids[-3]):
        journal.change(gone, attempt=None, state=JobState.FAILED, reason="r", message="m", at=3.0)
    second = journal.page(which, after=first.after, limit=3)
    assert [job.id for job in second.items] == ids[5:2:-1]


def encoded(content: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "é",
        "\0",
        "a" * 10_000,
        "W10",
        encoded(None),
        encoded(["submitted", True, 1]),
        encoded(["submitted", False, 1, 1]),
        encoded(["name", True, "a", 1]),
        encoded(["submitted", True, "1", 1]),
        encoded(["submitted", True, 1, True]),
        encoded(["submitted", True, 1, 2**63]),
        encoded(["submitted", True, 2**70, 1]),
        encoded(["submitted", True, [1], 1]),
        encoded({"a": 1}),
        base64.urlsafe_b64encode(b"[" * 100_000).decode(),
    ],
)
def test_other_cursors_are_refused(journal: Journal, cursor: str) -> None:
    with pytest.raises(BadCursor, match=r"after is .*; leave it out to begin at the first") as caught:
        journal.page(JobFilter(), after=cursor)
    assert len(str(caught.value)) < 500
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_limit_out_of_range_is_told(journal: Journal, limit: int) -> None:
    with pytest.raises(ValueError, match=f"limit is {limit}; it should be 1 to 1000"):
        journal.page(JobFilter(), limit=limit)


@pytest.mark.parametrize("text", ["'", '"', "\\", "'; DROP TABLE jobs; --", "\0", "é\n", "x" * 10_000])
def test_what_is_looked_for_is_only_ever_a_value(filled: Journal, text: str) -> None:
    label = {"team": text}, {text: "x"}
    for which in (JobFilter(text=text), JobFilter(queue=text), *(JobFilter(labels=one) for one in label)):
        assert filled.page(which).items == ()
    assert len(filled.page(JobFilter(), limit=1000).items) == 120


@pytest.mark.parametrize("few", [2000, -1])
def test_a_label_is_found_whole_and_nothing_else(journal: Journal, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(listing, "_FEW", few)
    labels = [
        {"a": "b"},
        {"aa": "b"},
        {"a": "bb"},
        {"b": "a"},
        {"c": "a", "a": "b"},
        {"c": "a"},
        {"a": ""},
        {"x/a": "b"},
    ]
    spec = make_submission("a").spec.model_dump()
    ids = journal.submit([Submission(spec=JobSpec.model_validate({**spec, "labels": one})) for one in labels], at=1.0)
    for asked in (*labels, {"a": "c"}, {'a":"b","c': "a"}):
        found = {job.id for job in journal.page(JobFilter(labels=asked)).items}
        assert found == {one for one, has in zip(ids, labels, strict=True) if asked.items() <= has.items()}


def test_a_job_by_id_or_name(journal: Journal) -> None:
    spec = make_submission("a").spec
    journal.submit([make_submission("a"), Submission(job_id="x", spec=spec), make_submission("b")], at=1.0)
    assert journal.job("a").id == "a"
    assert journal.job("name-b").id == "b"
    with pytest.raises(AmbiguousName, match="2 jobs bear the name name-a; say which by its id: x, a") as caught:
        journal.job("name-a")
    assert pickle.loads(pickle.dumps(caught.value)).job_ids == ("x", "a")
    with pytest.raises(NoSuchJob, match="there is no job c") as missing:
        journal.job("c")
    assert pickle.loads(pickle.dumps(missing.value)).job_id == "c"
    journal.submit([Submission(spec=spec)], at=1.0)
    assert journal.job("name-a").id == "name-a", "an id always means its job"


def test_many_of_one_name_are_told_shortly(journal: Journal) -> None:
    spec = make_submission("a").spec
    journal.submit([Submission(job_id=f"x.{number}", spec=spec) for number in range(1, 101)], at=1.0)
    with pytest.raises(AmbiguousName, match=r"100 jobs bear.*: x\.100, .*x\.93 and 92 more"):
        journal.job("name-a")


def test_what_has_not_ended(journal: Journal) -> None:
    for one in "abcdefg":
        start(journal, one)
        journal.commit_checkpoint(make_record(1, job_id=one))
        journal.commit_checkpoint(make_record(2, job_id=one))
        if one in "adg":
            requeue(journal, one, 1, charged=True)
    for one, state in zip("bcd", (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED), strict=True):
        journal.change(one, attempt=None, state=state, reason="r", message="m", at=3.0)
    found = journal.unfinished()
    assert found.sequence == journal.events()[-1].sequence
    assert found.jobs == tuple(job for job in journal.jobs() if job.id in "aefg")
    assert [job.num_charged for job in found.jobs] == [1, 0, 0, 1]
    assert found.jobs[0].checkpoints == (make_record(2, job_id="a"), make_record(1, job_id="a"))


def test_what_owners_did_since(journal: Journal, path: Path) -> None:
    ids = journal.submit([Submission(spec=make_submission("a").spec) for _ in range(5)], at=1.0)
    with JournalReader(path) as reader:
        last = reader.unfinished().sequence
        assert reader.changed_since(last) == reading.Snapshot(sequence=last, jobs=())
        # What the scheduler does itself moves the sequence on, and tells it nothing.
        journal.change(ids[0], attempt=None, state=JobState.FAILED, reason="r", message="m", at=2.0)
        start(journal, ids[1])
        found = reader.changed_since(last)
        assert (found.sequence, found.jobs) == (last + 2, ())
        journal.retry(ids[0], by="alice", at=3.0)
        journal.steer(ids[1], priority=4, by="alice", at=3.0)
        journal.steer(ids[1], queue="night", by="alice", at=3.0)
        ids += journal.submit([Submission(spec=make_submission("a").spec)], at=4.0)
        changed = reader.changed_since(found.sequence)
        assert [(job.id, job.state) for job in changed.jobs] == [
            (ids[0], JobState.PENDING),
            (ids[1], JobState.STARTING),
            (ids[5], JobState.PENDING),
        ]
        assert (changed.jobs[1].priority, changed.jobs[1].queue) == (4, "night")
        assert reader.changed_since(changed.sequence).jobs == ()
        # In small parts it is the same.
        sequence, seen = found.sequence, []
        while (part := reader.changed_since(sequence, limit=1)).sequence > sequence:
            sequence = part.sequence
            seen += [job.id for job in part.jobs]
        assert (sequence, seen) == (changed.sequence, [ids[0], ids[1], ids[1], ids[5]])


def plans(journal: Journal, run: Callable[[], object]) -> list[str]:
    """How SQLite carries out each statement of a call, a line a step."""
    asked: list[tuple[str, object]] = []

    def keep(_c: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        asked.append((statement, parameters))

    sqlalchemy.event.listen(journal._engine, "before_cursor_execute", keep)
    try:
        run()
    finally:
        sqlalchemy.event.remove(journal._engine, "before_cursor_execute", keep)
    with journal._reading() as connection:
        return [
            row[3]
            for statement, parameters in asked
            if statement.lstrip().upper().startswith("SELECT")
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]


@pytest.mark.parametrize("few", [2000, 3])
@pytest.mark.parametrize("sort", SORTS)
def test_no_page_walks_the_rows(filled: Journal, monkeypatch: pytest.MonkeyPatch, sort: Sort, few: int) -> None:
    monkeypatch.setattr(listing, "_FEW", few)
    for one in FILTERS:
        which = replace(one, sort=sort)
        after = filled.page(which, limit=1).after
        for cursor in (None, after):
            steps = plans(filled, partial(filled.page, which, after=cursor, limit=5))
            walks = [step for step in steps if "jobs" in step and "SCAN" in step]
            assert all("COVERING INDEX" in step for step in walks), steps
            if one == JobFilter() and sort != "state":
                assert not any("TEMP B-TREE" in step for step in steps), steps


def test_a_restart_reads_no_job_that_has_ended(filled: Journal) -> None:
    for run in (filled.unfinished, lambda: filled.changed_since(0), lambda: filled.job("a")):
        steps = plans(filled, run)
        assert steps
        tables = ("jobs", "attempts", "checkpoints")
        assert not any(step.startswith(tuple(f"SCAN {table}" for table in tables)) for step in steps), steps
    assert any("jobs_by_state" in step for step in plans(filled, filled.unfinished))
    assert all("SEARCH" in step for step in plans(filled, lambda: filled.changed_since(10**6)))
