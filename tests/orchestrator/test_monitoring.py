"""What Prometheus is told: of live jobs and workers alone, by names that are bounded, however long the service runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families as parse

from dashboards.metric_table import MOST_QUEUES, TABLE
from jobs.ledger import Ledger, Usage
from jobs.records import (
    CheckpointReport,
    Event,
    Job,
    JobState,
    WorkerCounters,
    WorkerStatus,
)
from jobs.spec import JobSpec
from orchestrator.clusters import End, Observation, WorkerEnd
from orchestrator.job_files import JobFiles
from orchestrator.journal import Journal
from orchestrator.monitoring.exporter import Monitoring
from orchestrator.monitoring.figures import Surveyor
from orchestrator.monitoring.targets import announce
from tests.orchestrator.scripted import ScriptedCluster, estimate, make_scheduler, record_of, state, step

Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]


def samples(monitoring: Monitoring) -> Samples:
    found: Samples = {}
    for family in parse(generate_latest(monitoring.registry).decode()):
        for one in family.samples:
            found.setdefault(one.name, {})[tuple(sorted(one.labels.items()))] = one.value
    return found


def status(seconds: float, *, tokens: int = 0, **counters: object) -> WorkerStatus:
    return WorkerStatus(
        worker_id="w0",
        base=estimate("x").base,
        base_loaded=True,
        adapters=2,
        waiting=0,
        busy_seconds=seconds,
        wall_seconds=seconds,
        tokens=tokens,
        counters=WorkerCounters(**counters),  # type: ignore[arg-type]
    )


def event(job: Job, to: JobState, at: float, reason: str = "r") -> Event:
    return Event(sequence=1, time_unix_seconds=at, job_id=job.id, state=to, reason=reason, message="")


def test_every_row_of_the_table_is_exported_with_its_type_and_labels() -> None:
    monitoring = Monitoring()
    families = {family.name: family for family in parse(generate_latest(monitoring.registry).decode())}
    of_the_api = {"http_request_duration_seconds"}
    for metric in TABLE:
        name = metric.full_name.removesuffix("_total")
        if metric.name not in of_the_api:
            assert families[name].type == metric.type, metric.name
            assert families[name].documentation == metric.help


def test_a_job_has_series_while_a_worker_has_it_and_none_after(journal: Journal, tmp_path: Path) -> None:
    monitoring, cluster = Monitoring(), ScriptedCluster()
    clock = [100.0]
    scheduler = make_scheduler(
        journal, JobFiles(tmp_path), cluster, {"a": "x", "b": "x"}, monitoring.recorder, wall=lambda: clock[0],
    )  # fmt: skip
    surveyor = Surveyor(monitoring.recorder.grad_norm, now=lambda: clock[0], clock=lambda: clock[0])

    def told() -> Samples:
        monitoring.figures = surveyor.take(scheduler, count_jobs=True)
        return samples(monitoring)

    scheduler.tick()
    assert told()["loraloom_jobs"] == {(("queue", "default"), ("state", "STARTING")): 2.0}
    clock[0] = 130.0
    usage = Usage(device_seconds=3.0, tokens=20)
    skipped = replace(step("b", 1), skipped=True, loss=float("nan"))
    reports = [state("a", JobState.RUNNING), state("b", JobState.RUNNING), replace(step("a", 3), usage=usage), skipped]
    cluster.script.append(
        Observation(
            worker_id="w0",
            reports=(*reports, CheckpointReport(record=record_of("a", 2))),
            status=status(10.0, tokens=500, pack_tokens=30, pack_room=40, flops=6e9, matrix_flops_per_second=1e9),
        )
    )
    scheduler.tick()
    assert scheduler.jobs["a"].progress.ledger.total == usage
    found = told()
    a = (("job_id", "a"), ("job_name", "a"))
    assert found["loraloom_job_step"][a] == 3.0
    assert found["loraloom_job_progress_ratio"][a] == 0.75
    assert found["loraloom_job_unsaved_steps"][a] == 1.0
    assert found["loraloom_job_unsaved_intervals"][a] == 0.01
    assert found["loraloom_job_nonfinite_steps_total"] == {(("reason", "loss"),): 1.0}
    # The job was submitted at 0 by no clock that its ledger knew; it began to wait when it was placed.
    assert found["loraloom_job_wait_seconds_sum"] == {(("queue", "default"),): 60.0}
    w0 = (("worker", "w0"),)
    assert found["loraloom_worker_up"] == {w0: 1.0}
    assert found["loraloom_train_tokens_total"] == {w0: 500.0}
    cluster.script.append(
        Observation(
            worker_id="w0",
            reports=(state("b", JobState.FAILED),),
            status=status(15.0, pack_tokens=50, pack_room=80, flops=8e9, matrix_flops_per_second=1e9),
        )
    )
    clock[0] = 140.0
    scheduler.tick()
    found = told()
    assert found["loraloom_worker_utilization_ratio"] == {w0: 0.5}
    assert found["loraloom_worker_flops_ratio"] == {w0: 0.2}
    assert found["loraloom_pack_fill_ratio"] == {w0: 0.5}
    assert set(found["loraloom_job_step"]) == {a}
    assert found["loraloom_jobs_finished_total"] == {
        (("queue", "default"), ("reason", "told"), ("state", "FAILED")): 1.0
    }
    assert found["loraloom_job_duration_seconds_sum"] == {(("queue", "default"),): 10.0}
    # A worker that says nothing more has done nothing more.
    clock[0] = 200.0
    told()
    assert told()["loraloom_worker_utilization_ratio"][w0] < 0.1
    cluster.says("w0", end=WorkerEnd(kind=End.LOST, message="died"))
    scheduler.tick()
    found = told()
    assert found["loraloom_job_recoveries_total"] == {(("reason", "worker_lost"),): 1.0}
    assert found["loraloom_worker_up"] == {w0: 0.0}
    assert "loraloom_job_step" not in found
    assert "loraloom_train_tokens_total" not in found
    clock[0] = 1000.0
    told()
    assert "loraloom_worker_up" not in told()


def test_ten_thousand_ended_jobs_in_as_many_queues_leave_no_series_behind() -> None:
    monitoring = Monitoring()
    recorder = monitoring.recorder
    spec = JobSpec.model_validate(
        {"name": "a", "model": {"model_name_or_path": "x"}, "datasets": [{"path": "rows.jsonl"}]}
    )

    def live(first: int, count: int) -> None:
        for number in range(first, first + count):
            job = Job(id=f"job-{number}", spec=spec, worker_id="w0", attempt=1)
            job.queue = f"queue-{number % 5000}"
            recorder.submitted(job.queue)
            job.progress = replace(job.progress, ledger=Ledger().waits(1.0).runs(2.0))
            for at, to in ((1.0, JobState.STARTING), (2.0, JobState.RUNNING)):
                recorder.on_event(job, event(job, to, at))
            recorder.on_step(job, step(job.id, 1))
            recorder.on_event(job, event(job, JobState.SUCCEEDED, 9.0, "finished"))

    live(0, 200)
    before = sum(len(series) for series in samples(monitoring).values())
    live(200, 10_000)
    found = samples(monitoring)
    assert sum(len(series) for series in found.values()) == before
    assert not [name for name in found if name.startswith("loraloom_job_step")]
    submitted = found["loraloom_jobs_submitted_total"]
    assert len(submitted) == MOST_QUEUES + 1
    assert sum(submitted.values()) == 10_200
    assert recorder.grad_norm("job-1") is None
    assert not recorder._open


def test_checkpoints_are_told_of_with_their_size_and_time(journal: Journal, tmp_path: Path) -> None:
    told: list[tuple[int, float]] = []
    monitoring, cluster = Monitoring(), ScriptedCluster()
    scheduler = make_scheduler(journal, JobFiles(tmp_path), cluster, {"a": "x"}, monitoring.recorder)
    scheduler._lives._on_checkpoint = lambda record, seconds: (
        told.append((record.step, seconds)),
        monitoring.recorder.on_checkpoint(record, seconds),
    )
    scheduler.tick()
    saved = CheckpointReport(record=record_of("a", 2), seconds=0.3, usage=Usage(checkpoint_seconds=0.3))
    cluster.says("w0", state("a", JobState.RUNNING), saved)
    cluster.says("w0", saved)
    scheduler.tick()
    assert told == [(2, 0.3)]
    found = samples(monitoring)
    assert found["loraloom_checkpoint_save_seconds_sum"][()] == pytest.approx(0.3)
    assert found["loraloom_checkpoint_bytes_total"][()] == 1.0
    assert found["loraloom_checkpoint_last_success_timestamp_seconds"][()] > 1e9
    assert scheduler.jobs["a"].progress.ledger.total.checkpoint_seconds == 0.3


def test_attempts_that_are_called_back_and_those_that_are_lost_are_told_apart(journal: Journal, tmp_path: Path) -> None:
    monitoring, cluster = Monitoring(), ScriptedCluster()
    scheduler = make_scheduler(
        journal, JobFiles(tmp_path), cluster, {"a": "x", "b": "x"}, monitoring.recorder, max_restarts=1
    )
    scheduler.tick()
    cluster.says(
        "w0",
        state("a", JobState.RUNNING),
        state("a", JobState.PENDING),
        state("b", JobState.RUNNING),
        state("b", JobState.FAILED),
    )
    scheduler.tick()
    found = samples(monitoring)
    assert found["loraloom_job_preemptions_total"] == {(("reason", "preempted"),): 1.0}
    assert found["loraloom_job_recoveries_total"] == {(("reason", "told"),): 1.0}
    assert [scheduler.jobs[name].progress.ledger.recoveries for name in "ab"] == [0, 1]
    kept = {job.id: job.progress.ledger for job in journal.unfinished().jobs}
    assert [kept[name].recoveries for name in "ab"] == [0, 1]
    assert kept["a"].waiting_since_unix_seconds is not None


def test_usage_of_attempts_adds_up_through_a_resume(journal: Journal, tmp_path: Path) -> None:
    cluster = ScriptedCluster()
    scheduler = make_scheduler(journal, JobFiles(tmp_path), cluster, {"a": "x"})
    scheduler.tick()
    cluster.says("w0", state("a", JobState.RUNNING), replace(step("a", 1), usage=Usage(tokens=20, device_seconds=1.0)))
    cluster.says("w0", replace(state("a", JobState.PENDING), usage=Usage(tokens=30, device_seconds=1.5)))
    scheduler.tick()
    scheduler.tick()
    again = Usage(tokens=10, device_seconds=0.5)
    cluster.says("w0", replace(state("a", JobState.RUNNING), attempt=2, usage=again))
    scheduler.tick()
    ledger = scheduler.jobs["a"].progress.ledger
    assert (ledger.total.tokens, ledger.total.device_seconds) == (40, 2.0)
    assert [job.progress.ledger for job in journal.unfinished().jobs] == [ledger]


def test_a_service_is_announced_whole_and_beside_others(tmp_path: Path) -> None:
    folder = tmp_path / "targets"
    first = announce(folder, "a1", "127.0.0.1:8400")
    announce(folder, "b2", "127.0.0.1:8401")
    announce(folder, "a1", "127.0.0.1:9999")
    assert json.loads(first.read_text()) == [{"targets": ["127.0.0.1:9999"], "labels": {"service": "a1"}}]
    assert sorted(path.name for path in folder.iterdir()) == ["loraloom-a1.json", "loraloom-b2.json"]
