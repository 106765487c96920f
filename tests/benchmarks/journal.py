"""What the journal of a service costs: `python -m tests.benchmarks.journal`.

Pages of a long list, what a restart loads, and changes one by one. On a busy machine the processor time is what counts.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import insert, update

from jobs.frozen_dict import FrozenDict
from jobs.records import Desired, JobState
from jobs.spec import JobSpec
from orchestrator.journal import JobFilter, Journal, JournalReader, MetricPoint, Submission, SubmissionKey
from orchestrator.journal.tables import attempts, checkpoints, events, jobs

_TEAMS = ("red", "green", "blue")
_QUEUES = ("default", "night", "urgent")
_ENDS = (JobState.SUCCEEDED, JobState.SUCCEEDED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)

LISTS = {
    "newest": JobFilter(),
    "running": JobFilter(states=frozenset({JobState.RUNNING})),
    "failed, last ended first": JobFilter(states=frozenset({JobState.FAILED}), sort="ended"),
    "by name": JobFilter(sort="name", descending=False),
    "by priority": JobFilter(sort="priority"),
    "by state": JobFilter(sort="state"),
    "by end": JobFilter(sort="ended"),
    "a common label": JobFilter(labels={"team": "red"}),
    "a common label, by name": JobFilter(labels={"team": "red"}, sort="name"),
    "a rare label": JobFilter(labels={"run": "r77"}, sort="name"),
    "a common label and a rare one": JobFilter(labels={"team": "red", "run": "r77"}),
    "two common labels that never meet": JobFilter(labels={"team": "red", "parity": "none"}),
    "text in many names": JobFilter(text="sentiment"),
    "text in no name": JobFilter(text="nothing-of-the-kind"),
    "a queue, by priority": JobFilter(queue="night", sort="priority"),
    "everything at once": JobFilter(
        states=frozenset({JobState.SUCCEEDED}), labels={"team": "red"}, text="9", queue="night", sort="name"
    ),
}


def fill(journal: Journal, num_jobs: int, num_unfinished: int) -> None:
    """Jobs as months of use leave them: most have ended, the unfinished ones are the latest."""
    draw = random.Random(3)
    spec = JobSpec.model_validate(
        {"name": "x", "model": {"model_name_or_path": "some/base"}, "datasets": [{"path": "rows.jsonl"}]}
    )
    ids: list[str] = []
    for begin in range(0, num_jobs, 1000):
        batch = []
        for number in range(begin, min(begin + 1000, num_jobs)):
            team = draw.choice(_TEAMS)
            labels = {"team": team, "run": f"r{number % 5000}", "parity": "none" if team != "red" else "odd"}
            scheduling = spec.scheduling.model_copy(
                update={"queue": draw.choice(_QUEUES), "priority": draw.randrange(5)}
            )
            update_with = {
                "name": f"{draw.choice(('sentiment', 'summary', 'sql'))}-{draw.randrange(3000)}",
                "labels": FrozenDict(labels),
                "scheduling": scheduling,
            }
            batch.append(Submission(spec=spec.model_copy(update=update_with), owner=f"{team}-team"))
        ids += journal.submit(batch, at=float(begin))
    # What would be a transaction each in life, in one: only what is left in the tables matters here.
    with journal._writing() as connection:
        tries = [
            {
                "job_id": one,
                "number": 1,
                "worker_id": "w",
                "started_unix_seconds": 1.0,
                "is_open": False,
                "charged": False,
            }
            for one in ids
        ]
        connection.execute(insert(attempts), tries)
        saved: list[dict[str, Any]] = [
            {
                "job_id": one,
                "attempt": 1,
                "step": step,
                "micro_batch": 0,
                "folder": f"step-{step:06d}.00-a1",
                "manifest_sha256": "0" * 64,
                "size_bytes": 10**7,
            }
            for one in ids
            for step in (100, 200)
        ]
        connection.execute(insert(checkpoints), saved)
        happened = [
            {"job_id": one, "time_unix_seconds": 1.0, "state": "RUNNING", "reason": "admitted", "message": "m" * 60}
            for one in ids
            for _ in range(4)
        ]
        connection.execute(insert(events), happened)
        for number, one in enumerate(ids):
            ended = number < num_jobs - num_unfinished
            state = draw.choice(_ENDS) if ended else JobState.RUNNING if number % 50 == 0 else JobState.PENDING
            connection.execute(
                update(jobs)
                .where(jobs.c.id == one)
                .values(
                    attempt=1,
                    state=state.value,
                    message="waiting: no worker with this base has room for it",
                    ended_unix_seconds=float(number + draw.randrange(1000)) if ended else None,
                )
            )


def timed(call: Callable[[], object], times: int) -> list[tuple[float, float]]:
    """Milliseconds of each call, by the clock and of processor time."""
    taken = []
    for _ in range(times):
        began, busy = time.perf_counter(), time.process_time()
        call()
        taken.append(((time.perf_counter() - began) * 1000, (time.process_time() - busy) * 1000))
    return taken


def told(what: str, taken: list[tuple[float, float]]) -> None:
    """A line: median, 95th percentile and worst by the clock, and the median of processor time."""
    clock = sorted(wall for wall, _ in taken)
    p95 = clock[min(len(clock) - 1, int(0.95 * len(clock)))]
    busy = statistics.median(busy for _, busy in taken)
    print(f"{what:44} {statistics.median(clock):9.2f} {p95:9.2f} {clock[-1]:9.2f} {busy:9.2f}", flush=True)


def through(reader: JournalReader, which: JobFilter, num_pages: int) -> Callable[[], object]:
    """Turn over pages from the first on, one a call, and begin again at the end or after so many."""

    def pages() -> Iterator[None]:
        while True:
            after = None
            for _ in range(num_pages):
                after = reader.page(which, after=after, limit=50).after
                yield
                if after is None:
                    break

    turning = pages()
    return lambda: next(turning)


@contextmanager
def made(folder: Path | None) -> Iterator[Path]:
    """A folder to work in."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    else:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)


def measure(path: Path, num_jobs: int, num_unfinished: int, times: int) -> None:
    """Fill a journal and time what is asked of it."""
    with Journal(path) as journal:
        began = time.perf_counter()
        fill(journal, num_jobs, num_unfinished)
        filled = time.perf_counter() - began
    size = path.stat().st_size / 2**20
    print(f"{num_jobs:,} jobs, {num_unfinished:,} unfinished, {size:.0f} MiB, filled in {filled:.0f} s")
    print(f"{'milliseconds':44} {'median':>9} {'p95':>9} {'worst':>9} {'cpu':>9}")
    with Journal(path) as journal, JournalReader(path) as reader:
        for name, which in LISTS.items():
            told(f"page: {name}", timed(through(reader, which, 20), times))
        newest = reader.page(JobFilter(), limit=1).items[0].id
        told("job by id", timed(lambda: reader.job(newest), times))
        told("counts by state and queue", timed(reader.counts_by_state_and_queue, times))
        sequence = reader.unfinished().sequence
        told("nothing changed since", timed(lambda: reader.changed_since(sequence), times))
        told("all unfinished jobs", timed(reader.unfinished, 5))
        told("   and their specs parsed", timed(lambda: [JobSpec(**job.spec) for job in reader.unfinished().jobs], 3))
        one = reader.page(JobFilter(), limit=1).items[0]
        spec = JobSpec(**reader.job(one.id).spec)
        keys = (SubmissionKey.of(f"key-{number}", b"body") for number in range(10**9))
        told(
            "a submission with a key",
            timed(lambda: journal.submit([Submission(spec=spec)], at=1.0, key=next(keys)), 1000),
        )
        priorities = iter(range(10**9))
        steer = lambda: journal.steer(one.id, desired=Desired.PAUSE, priority=next(priorities), by="me", at=1.0)  # noqa: E731
        told("steering", timed(steer, times))
        running = [job.id for job in reader.page(JobFilter(), limit=64).items]
        steps = iter(range(1, 10**9))

        def record() -> None:
            step = next(steps)
            journal.record_metrics(
                [
                    MetricPoint(job_id=job, step=step, kind="train", values={"loss": 0.5, "epoch": 0.1})
                    for job in running
                ]
            )

        told("a point of 64 jobs each", timed(record, times))


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=50_000)
    parser.add_argument("--unfinished", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=200, help="calls of each kind")
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; default: the temporary folder's")
    options = parser.parse_args()
    with made(options.folder) as folder:
        measure(folder / "journal.db", options.jobs, options.unfinished, options.times)


if __name__ == "__main__":
    main()
