"""What a scrape costs: `python -m tests.benchmarks.scraping`.

Processor time of making the text of all series, and of taking figures every other second, of a large service:
64 workers with 512 jobs, 50,000 jobs in the journal. Where training shares the process, that time is what it loses.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from prometheus_client.exposition import generate_latest

from jobs.records import JobState, StateReport, WorkerCounters, WorkerStatus
from orchestrator.clusters import Observation
from orchestrator.job_files import JobFiles
from orchestrator.journal import Journal
from orchestrator.monitoring.exporter import Monitoring
from orchestrator.monitoring.figures import Surveyor
from orchestrator.snapshot import PolicySettings
from tests.benchmarks.journal import fill
from tests.orchestrator.scripted import ScriptedCluster, estimate, make_scheduler, step
from workers.pack_times import BUCKETS_SECONDS

_INTERVAL_SECONDS = 15.0
"""Of the configuration that ships."""


def _cpu_seconds(run: Callable[[], object], repeats: int) -> float:
    """Median processor time of this thread."""
    times = []
    for _ in range(repeats):
        began = time.thread_time()
        run()
        times.append(time.thread_time() - began)
    return statistics.median(times)


def main() -> None:
    """Print a line for each part, and the share of one core."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--jobs", type=int, default=512)
    parser.add_argument("--journaled", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=11)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "journal.db") as journal:
        fill(journal, options.journaled, 0)
        monitoring, cluster = Monitoring(journal.counts_by_state_and_queue), ScriptedCluster(options.workers)
        names = {f"live-{number}": f"base-{number % options.workers}" for number in range(options.jobs)}
        scheduler = make_scheduler(
            journal, JobFiles(Path(folder)), cluster, names, monitoring.recorder, policy=PolicySettings()
        )
        scheduler.tick()
        status = WorkerStatus(
            worker_id="w", base=estimate("x").base, base_loaded=True, adapters=8, waiting=0, busy_seconds=5.0,
            wall_seconds=9.0, tokens=10**6, counters=WorkerCounters(
                pack_bounds=BUCKETS_SECONDS, pack_counts=(10,) * (len(BUCKETS_SECONDS) + 1), matrix_flops_per_second=1e9
            ),
        )  # fmt: skip
        for worker_id in scheduler.workers:
            jobs = scheduler.active_jobs(worker_id)
            running = [StateReport(job_id=job, state=JobState.RUNNING, reason="r", message="m") for job in jobs]
            reports = (*running, *(step(job, 3) for job in jobs))
            cluster.script.append(
                Observation(worker_id=worker_id, reports=reports, status=replace(status, worker_id=worker_id))
            )
        scheduler.tick()
        surveyor = Surveyor(monitoring.recorder.grad_norm)

        def take() -> None:
            monitoring.figures = surveyor.take(scheduler)

        taking = _cpu_seconds(take, options.repeats)
        counting = _cpu_seconds(journal.counts_by_state_and_queue, options.repeats)
        scraping = _cpu_seconds(lambda: generate_latest(monitoring.registry), options.repeats)
        text = generate_latest(monitoring.registry)
        series = sum(not line.startswith(b"#") for line in text.splitlines())
        live = len(monitoring.figures.jobs)
    print(f"{len(monitoring.figures.workers)} workers, {live} live jobs, {series} series, {len(text) / 1024:.0f} KiB")
    print(f"a scrape {scraping * 1e3:.1f} ms of processor time, of which counting jobs {counting * 1e3:.1f} ms")
    print(f"taking figures {taking * 1e3:.2f} ms, every other second")
    print(f"together {scraping / _INTERVAL_SECONDS + taking / 2:.3%} of a core")


if __name__ == "__main__":
    main()
