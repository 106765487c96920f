"""The process that looks into jobs: its answers, and what becomes of a job on which it hangs or dies."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from jobs.file_rules import FileRules
from jobs.spec import JobSpec
from orchestrator.checking import TIMEOUT_SECONDS, Checked, Checker


def spec_of(name: str, base: str = "none") -> JobSpec:
    rows = [{"path": "rows.jsonl"}]
    return JobSpec.model_validate({"name": name, "model": {"model_name_or_path": base}, "datasets": rows})


def answering(connection: Connection) -> None:
    """Instead of the real body: hangs, dies or refuses by the job's name."""
    while True:
        job_id, spec = connection.recv()
        if spec.name == "hangs":
            time.sleep(600)
        if spec.name == "dies":
            os._exit(9)
        connection.send(Checked(job_id=job_id, estimate=None, problems=(f"{spec.name} by {os.getpid()}",)))


@pytest.fixture
def checker() -> Iterator[Checker]:
    made = Checker(body=answering)
    yield made
    made.close()


def answers(checker: Checker, count: int) -> list[Checked]:
    found: list[Checked] = []
    while len(found) < count:
        found += checker.poll()
        time.sleep(0.01)
    return found


def test_jobs_are_answered_in_order_by_one_process(checker: Checker) -> None:
    for name in ("one", "two", "three"):
        checker.submit(name, spec_of(name))
    checker.submit("gone", spec_of("gone"))
    checker.poll()
    checker.forget("gone")
    found = answers(checker, 3)
    assert [one.job_id for one in found] == ["one", "two", "three"]
    assert len({one.problems[0].split()[-1] for one in found}) == 1
    assert checker.poll() == []


def test_a_job_that_kills_the_process_fails_and_the_next_one_is_checked(checker: Checker) -> None:
    for name in ("dies", "next"):
        checker.submit(name, spec_of(name))
    first, second = answers(checker, 2)
    assert "died (exit code 9)" in first.problems[0]
    assert second.problems[0].startswith("next by")


def test_a_job_that_hangs_the_process_fails_after_its_time(checker: Checker) -> None:
    now = 0.0
    checker._now = lambda: now
    for name in ("hangs", "next"):
        checker.submit(name, spec_of(name))
    assert checker.poll() == []
    now = TIMEOUT_SECONDS + 1.0
    [first] = answers(checker, 1)
    assert "took more than 600 seconds" in first.problems[0]
    [second] = answers(checker, 1)
    assert second.problems[0].startswith("next by")


def test_a_real_base_and_its_data_are_estimated_and_what_is_wrong_is_told(tmp_path: Path) -> None:
    # Not above: the processes of the other tests import this module, and need none of it.
    from tests.tiny_base import write_rows, write_tiny_base

    base = write_tiny_base(tmp_path / "base")
    rows = write_rows(tmp_path / "rows.jsonl", 4)
    good = {"name": "good", "model": {"model_name_or_path": str(base)}, "datasets": [{"path": str(rows)}]}
    bad = good | {"name": "bad", "datasets": [{"path": str(tmp_path / "missing.jsonl")}]}
    # Where it stands, a name that is not absolute is no file.
    relative = good | {"name": "relative", "datasets": [{"path": "rows.jsonl"}]}
    outside = good | {"name": "outside", "datasets": [{"path": str(write_rows(tmp_path.parent / "rows.jsonl", 4))}]}
    checker = Checker(file_rules=FileRules(roots=(str(tmp_path),)), working_dir=tmp_path / "empty")
    try:
        for values in (good, bad, relative, outside):
            checker.submit(values["name"], JobSpec.model_validate(values))
        first, second, third, fourth = answers(checker, 4)
    finally:
        checker.close()
    assert first.estimate is not None
    assert first.estimate.train_rows == 4
    assert type(first.estimate).from_json(first.estimate.to_json()) == first.estimate
    assert second.estimate is None
    assert "missing.jsonl" in second.problems[0]
    assert "neither an absolute path nor a name on the hub" in third.problems[0]
    assert "outside of the folders" in fourth.problems[0]


def test_what_decides_for_the_cluster_loads_neither_torch_nor_ray() -> None:
    modules = ["checking", "scheduler", "recovery", "output_directory", "placement", "journal"]
    code = f"""
import sys
for name in {modules!r}:
    __import__(f"orchestrator.{{name}}")
print([name for name in ("torch", "ray", "transformers", "datasets") if name in sys.modules])
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.strip() == "[]"
