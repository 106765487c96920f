"""The journal's benchmark asks for what it says, of a few jobs; its timings are not looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.records import JobState
from orchestrator.journal import JournalReader
from tests.benchmarks import journal


def test_the_benchmark_of_the_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal.measure(tmp_path / "journal.db", num_jobs=300, num_unfinished=60, times=2)
    printed = capsys.readouterr().out
    assert printed.startswith("300 jobs, 60 unfinished")
    for what in (
        "page: everything at once",
        "all unfinished jobs",
        "a submission with a key",
        "a point of 64 jobs each",
    ):
        assert what in printed
    with JournalReader(tmp_path / "journal.db") as reader:
        ended = [job for job in reader.jobs() if job.state.is_terminal]
        assert len(ended) == 240
        assert {job.state for job in ended} == {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}
        for which in journal.LISTS.values():
            reader.page(which)
