"""The scheduler against a scripted cluster: who is told what, and what becomes of jobs when workers go."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from jobs.records import (
    BadCheckpoint,
    CheckpointReport,
    Desired,
    Job,
    JobProgress,
    JobState,
    LogReport,
    Report,
    ResumeReport,
    StateReport,
)
from jobs.spec import JobSpec
from orchestrator.clusters import AdoptedWorker, End, WorkerEnd
from orchestrator.job_files import JobFiles
from orchestrator.journal import Journal
from orchestrator.lives import Lives
from orchestrator.readoption import readopt
from orchestrator.retries import MOST_FRUITLESS
from orchestrator.roster import Unpublished
from orchestrator.scheduler import Scheduler
from orchestrator.snapshot import PolicySettings
from orchestrator.survey import Survey
from tests.orchestrator.scripted import (
    GIB,
    Recorder,
    ScriptedCluster,
    estimate,
    evaluation,
    make_scheduler,
    record_of,
    state,
    step,
)
from workers.settings import WorkerSettings

SchedulerOf = Callable[..., Scheduler]


@pytest.fixture
def scheduler_of(tmp_path: Path, journal: Journal) -> SchedulerOf:
    return partial(make_scheduler, journal, JobFiles(tmp_path))


def test_all_first_jobs_of_a_worker_are_there_before_its_first_step(scheduler_of: SchedulerOf) -> None:
    cluster = ScriptedCluster()
    scheduler_of(cluster, {"a": "x", "b": "x", "c": "x"}).tick()
    assert cluster.calls == [("start", "w0", ("a", "b", "c"))]
    assert cluster.settings[0].capacity_bytes == 8 * GIB


def test_a_job_lives_from_placed_to_published_and_its_worker_ends_with_the_last(scheduler_of: SchedulerOf) -> None:
    cluster, recorder = ScriptedCluster(), Recorder()
    scheduler = scheduler_of(cluster, {"a": "x"}, recorder)
    scheduler.tick()
    cluster.says("w0", state("a", JobState.RUNNING), step("a", 1), step("a", 2, logged=False, loss=7.0))
    scheduler.tick()
    progress = scheduler.jobs["a"].progress
    assert (progress.step, progress.train_loss, progress.tokens, progress.busy_seconds) == (2, 1.0, 40, 0.5)
    assert not scheduler.is_done
    cluster.says("w0", LogReport(job_id="a", message="line"), state("a", JobState.SUCCEEDED, staged="staging/a"))
    scheduler.tick()
    assert scheduler.is_done
    assert (scheduler.jobs["a"].artifact or "").endswith("published/a")
    assert [kind for _, kind, _ in recorder.events] == [JobState.STARTING, JobState.RUNNING, JobState.SUCCEEDED]
    assert set(recorder.times) == {12.5}
    assert recorder.logs == ["line"]
    assert cluster.calls[-1] == ("stop", "w0", ())


def test_a_base_that_cannot_be_used_fails_its_jobs_with_the_workers_last_words_and_no_other(
    scheduler_of: SchedulerOf,
) -> None:
    cluster = ScriptedCluster(num_devices=2)
    scheduler = scheduler_of(cluster, {"a": "x", "b": "y"})
    scheduler.tick()
    cluster.says("w0", end=WorkerEnd(kind=End.UNUSABLE, message="BaseModelError: broken"))
    scheduler.tick()
    lost, other = scheduler.jobs.values()
    assert (lost.state, lost.reason, lost.message) == (JobState.FAILED, "worker_lost", "w0: BaseModelError: broken")
    assert other.state is JobState.STARTING
    assert ("stop", "w0", ()) not in cluster.calls


def test_a_base_without_a_device_waits_for_one_and_gets_it(scheduler_of: SchedulerOf) -> None:
    cluster = ScriptedCluster(num_devices=1)
    scheduler = scheduler_of(cluster, {"a": "x", "b": "y"})
    scheduler.tick()
    assert scheduler.jobs["b"].state is JobState.PENDING
    assert "no free device for y" in scheduler.jobs["b"].message
    cluster.says("w0", state("a", JobState.FAILED))
    scheduler.tick()
    scheduler.tick()
    assert cluster.calls == [("start", "w0", ("a",)), ("stop", "w0", ()), ("start", "w1", ("b",))]


def test_an_artifact_that_cannot_be_published_fails_the_job_with_the_reason(scheduler_of: SchedulerOf) -> None:
    cluster = ScriptedCluster()
    scheduler = scheduler_of(cluster, {"a": "x"}, publish_error="a file is missing")
    scheduler.tick()
    cluster.says("w0", state("a", JobState.RUNNING), state("a", JobState.SUCCEEDED, staged="staging/a"))
    scheduler.tick()
    job = scheduler.jobs["a"]
    assert (job.state, job.reason, job.artifact) == (JobState.FAILED, "publish", None)
    assert "a file is missing" in job.message


LOST = WorkerEnd(kind=End.LOST, message="its process died")


def test_jobs_of_a_lost_worker_go_on_at_a_new_one_from_their_checkpoints_uncharged(
    scheduler_of: SchedulerOf, journal: Journal
) -> None:
    cluster = ScriptedCluster()
    scheduler = scheduler_of(cluster, {"a": "x", "b": "x"})
    scheduler.tick()
    saved = CheckpointReport(record=record_of("a", 2))
    cluster.says("w0", state("a", JobState.RUNNING), step("a", 1), step("a", 2), saved, step("a", 3), end=LOST)
    scheduler.tick()
    assert [job.state for job in scheduler.jobs.values()] == [JobState.PENDING, JobState.PENDING]
    scheduler.tick()
    assert cluster.calls[-1] == ("start", "w1", ("a", "b"))
    assigned = {one.job_id: one for one in cluster.assigned[-1]}
    assert assigned["a"].attempt == 2
    assert assigned["a"].checkpoints == (saved.record,)
    assert [attempt.charged for attempt in journal.attempts("a")] == [False, False]
    assert [attempt.is_open for attempt in journal.attempts("a")] == [False, True]


def test_a_device_that_is_lost_charges_nobody_but_the_job_that_was_alone_there_twice(
    scheduler_of: SchedulerOf, journal: Journal
) -> None:
    cluster = ScriptedCluster()
    scheduler = scheduler_of(cluster, {"a": "x", "b": "x"})

    def lose(number: int, *suspects: str) -> None:
        end = WorkerEnd(kind=End.LOST, message="CUDA error: device-side assert triggered", suspects=suspects)
        running = [
            one for job_id, job in scheduler.jobs.items() if job.state is JobState.STARTING
            for one in (state(job_id, JobState.RUNNING), step(job_id, number))
        ]  # fmt: skip
        attempts = {job_id: job.attempt for job_id, job in scheduler.jobs.items()}
        cluster.says(f"w{number}", *(replace(one, attempt=attempts[one.job_id]) for one in running), end=end)
        scheduler.tick()

    scheduler.tick()
    assert not any(one.is_isolated for one in cluster.assigned[-1])
    lose(0, "a", "b")
    scheduler.tick()
    assert {one.job_id: one.is_isolated for one in cluster.assigned[-1]} == {"a": True, "b": True}
    lose(1, "a")
    assert {job.state for job in scheduler.jobs.values()} == {JobState.PENDING}
    scheduler.tick()
    lose(2, "a")
    assert scheduler.jobs["a"].state is JobState.FAILED
    assert scheduler.jobs["a"].reason == "device"
    assert [attempt.charged for attempt in journal.attempts("a")] == [False, False, True]
    assert scheduler.jobs["b"].state is JobState.PENDING
    assert [attempt.charged for attempt in journal.attempts("b")] == [False, False, False]


def test_a_stale_attempt_is_not_heard_whatever_it_says(scheduler_of: SchedulerOf, journal: Journal) -> None:
    cluster, recorder = ScriptedCluster(), Recorder()
    scheduler = scheduler_of(cluster, {"a": "x"}, recorder)
    scheduler.tick()
    cluster.says("w0", state("a", JobState.RUNNING), end=LOST)
    scheduler.tick()
    scheduler.tick()
    told = list(recorder.events)
    for worker_id in ("w0", "w1"):
        late = [step("a", 4), CheckpointReport(record=record_of("a", 4)), state("a", JobState.SUCCEEDED, staged="s/a")]
        cluster.says(worker_id, *late)
        scheduler.tick()
    job = scheduler.jobs["a"]
    assert (job.state, job.attempt, job.progress.step, job.artifact) == (JobState.STARTING, 2, 0, None)
    assert journal.checkpoints("a") == ()
    assert recorder.events == told


def test_an_error_of_the_jobs_own_is_retried_after_a_while_and_charged_until_its_restarts_are_used_up(
    scheduler_of: SchedulerOf, journal: Journal
) -> None:
    clock = [100.0]
    cluster = ScriptedCluster()
    scheduler = scheduler_of(cluster, {"a": "x"}, max_restarts=1, now=lambda: clock[0])
    job = scheduler.jobs["a"]
    scheduler.tick()
    cluster.says("w0", state("a", JobState.RUNNING), state("a", JobState.FAILED))
    scheduler.tick()
    assert (job.state, job.num_charged) == (JobState.RECOVERING, 1)
    clock[0] += 1.9
    scheduler.tick()
    assert job.state is JobState.RECOVERING
    clock[0] += 0.2
    scheduler.tick()
    assert cluster.calls[-1] == ("assign", "w0", ("a",))
    running = replace(state("a", JobState.RUNNING), attempt=2)
    saved = CheckpointReport(record=record_of("a", 3, attempt=2))
    cluster.says("w0", running, saved, replace(state("a", JobState.FAILED), attempt=2))
    scheduler.tick()
    assert (job.state, job.reason, job.num_charged) == (JobState.FAILED, "told", 2)
    assert "checkpoint of step 3 is kept" in job.message
    assert journal.checkpoints("a") == (saved.record,)


def test_what_is_sure_to_repeat_is_not_tried_again(scheduler_of: SchedulerOf) -> None:
    cluster = ScriptedCluster()
    scheduler = scheduler_of(cluster, {"a": "x"}, max_restarts=5)
    scheduler.tick()
    cluster.says("w0", replace(state("a", JobState.FAILED), reason="nonfinite"))
    scheduler.tick()
    assert scheduler.jobs["a"].state is JobState.FAILED


def test_a_job_that_loses_every_worker_before_its_first_step_fails_in_the_end(scheduler_of: SchedulerOf) -> None:
    clock = [0.0]
    cluster = ScriptedCluster()
    scheduler = scheduler_of(cluster, {"a": "x"}, now=lambda: clock[0])
    for number in range(MOST_FRUITLESS):
        scheduler.tick()
        cluster.says(f"w{number}", end=LOST)
        scheduler.tick()
        clock[0] += 1000.0
    assert scheduler.jobs["a"].state is JobState.FAILED
    assert "before its first step" in scheduler.jobs["a"].message


def test_preempting_saves_and_takes_all_jobs_back_uncharged(scheduler_of: SchedulerOf, journal: Journal) -> None:
    cluster = ScriptedCluster()
    scheduler = scheduler_of(cluster, {"a": "x", "b": "x"})
    scheduler.tick()
    cluster.says("w0", state("a", JobState.RUNNING), step("a", 1))
    scheduler.tick()
    preempted = WorkerEnd(kind=End.PREEMPTED, message="told to stop")
    cluster.says("w0", CheckpointReport(record=record_of("a", 1)), end=preempted)
    scheduler.preempt(30.0, "interrupted")
    assert [job.state for job in scheduler.jobs.values()] == [JobState.PENDING, JobState.PENDING]
    assert not any(job.attempt_is_open or job.num_charged for job in journal.jobs())
    assert [record.step for record in journal.checkpoints("a")] == [1]


def test_old_checkpoints_go_and_a_bad_one_is_never_used_again(
    scheduler_of: SchedulerOf, journal: Journal, tmp_path: Path
) -> None:
    cluster, recorder = ScriptedCluster(), Recorder()
    scheduler = scheduler_of(cluster, {"a": "x"}, recorder)
    scheduler.tick()
    records = [record_of("a", number) for number in (1, 2, 3)]
    for record in records:
        (tmp_path / "checkpoints/a" / record.folder).mkdir(parents=True)
    cluster.says("w0", state("a", JobState.RUNNING), *(CheckpointReport(record=one) for one in records), end=LOST)
    scheduler.tick()
    assert journal.checkpoints("a") == (records[2], records[1])
    assert sorted(one.name for one in (tmp_path / "checkpoints/a").iterdir()) == ["step-2-a1", "step-3-a1"]
    scheduler.tick()
    bad = BadCheckpoint(record=records[2], problem="has a flipped bit")
    resumed = ResumeReport(
        job_id="a", record=records[1], progress=JobProgress(step=2, total_steps=4, tokens=40), evaluated_at=-1,
        quarantined=(bad,), attempt=2,
    )  # fmt: skip
    cluster.says("w1", resumed)
    scheduler.tick()
    assert journal.checkpoints("a") == (records[1],)
    assert [one.problem for one in journal.quarantined("a")] == ["has a flipped bit"]
    assert ("a", JobState.STARTING, "checkpoint_quarantined") in recorder.events
    assert recorder.logs == ["resumed at 2"]
    assert scheduler.jobs["a"].progress.step == 2


def test_cancelling_releases_the_job_once_and_late_reports_change_nothing(scheduler_of: SchedulerOf) -> None:
    cluster = ScriptedCluster()
    scheduler = scheduler_of(cluster, {"a": "x", "b": "x"})
    scheduler.tick()
    scheduler.cancel("a", "enough")
    scheduler.cancel("a", "again")
    assert [call for call in cluster.calls if call[0] == "release"] == [("release", "w0", ("a",))]
    cluster.says("w0", state("a", JobState.RUNNING), step("a", 1))
    scheduler.tick()
    assert scheduler.jobs["a"].state is JobState.CANCELLED
    assert scheduler.jobs["a"].progress.step == 0
    assert [job.id for job in scheduler.neighbours(scheduler.jobs["b"])] == []


def test_neighbours_are_the_live_jobs_of_the_same_worker(scheduler_of: SchedulerOf) -> None:
    cluster = ScriptedCluster(num_devices=2)
    scheduler = scheduler_of(cluster, {"a": "x", "b": "y", "c": "x"})
    scheduler.tick()
    # Two devices, two bases: `a` and `c` share one.
    assert [job.id for job in scheduler.neighbours(scheduler.jobs["a"])] == ["c"]
    assert scheduler.neighbours(scheduler.jobs["b"]) == []


def numbered(*reports: Report, first: int = 1) -> list[Report]:
    return [replace(report, number=number) for number, report in enumerate(reports, first)]


def test_workers_are_told_to_forget_what_is_in_the_journal_and_not_before(
    scheduler_of: SchedulerOf, journal: Journal
) -> None:
    wall = [100.0]
    cluster = ScriptedCluster()
    scheduler = scheduler_of(cluster, {"a": "x"}, wall=lambda: wall[0])
    scheduler.tick()
    cluster.says("w0", *numbered(state("a", JobState.RUNNING), step("a", 1), step("a", 2)))
    scheduler.tick()
    # Progress goes into the journal every five seconds; until then a crash would take it along.
    assert cluster.acknowledged == []
    wall[0] += 5.0
    scheduler.tick()
    assert cluster.acknowledged == [("w0", 3)]
    assert journal.jobs()[0].progress.step == 2
    wall[0] += 5.0
    scheduler.tick()
    assert cluster.acknowledged == [("w0", 3)]
    # A clock that is set back keeps nobody waiting.
    cluster.says("w0", *numbered(step("a", 3), first=4))
    wall[0] -= 3600.0
    scheduler.tick()
    assert cluster.acknowledged[-1] == ("w0", 4)
    # The last word to one that has ended needs no waiting: its jobs are taken back in the journal.
    cluster.says("w0", *numbered(step("a", 4), first=5), end=LOST)
    scheduler.tick()
    assert cluster.acknowledged[-1] == ("w0", 5)


def test_what_is_told_twice_counts_once_also_by_the_next_scheduler(
    scheduler_of: SchedulerOf, journal: Journal, tmp_path: Path
) -> None:
    cluster, recorder = ScriptedCluster(), Recorder()
    scheduler = scheduler_of(cluster, {"a": "x", "b": "x"}, recorder)
    scheduler.tick()
    told = numbered(
        state("a", JobState.RUNNING),
        step("a", 1),
        evaluation("a", 1),
        CheckpointReport(record=record_of("a", 1)),
        LogReport(job_id="a", message="line"),
        state("a", JobState.PAUSED),
        state("a", JobState.RUNNING),
        step("a", 2),
        state("b", JobState.RUNNING),
        state("b", JobState.SUCCEEDED, staged="staging/b"),
        state("a", JobState.PAUSED),
    )
    cluster.says("w0", *told)
    scheduler.tick()
    progress, events = scheduler.jobs["a"].progress, list(recorder.events)
    assert (progress.step, progress.tokens, progress.busy_seconds) == (2, 40, 1.5)
    cluster.says("w0", *told)
    scheduler.tick()
    assert scheduler.jobs["a"].progress == progress
    assert recorder.events == events
    assert recorder.logs == ["line"]
    assert scheduler.jobs["a"].checkpoints == journal.checkpoints("a") == (record_of("a", 1),)

    # Killed here; the next one has the journal, and the worker tells everything again, and goes on.
    before = {job.id: job for job in journal.jobs()}
    assert before["a"].attempt_is_open
    # What has ended it does not take up, though the worker tells of that too.
    next_jobs = [replace(scheduler.jobs["a"], progress=before["a"].progress, checkpoints=before["a"].checkpoints)]
    next_jobs[0].priority = 7
    again = ScriptedCluster()
    later = Scheduler(
        next_jobs,
        {name: estimate("x") for name in ("a", "b")},
        again,
        WorkerSettings(staging_dir=Path("staging")),
        Lives(journal, JobFiles(tmp_path), [recorder], now=lambda: 12.5),
        publish=lambda job, staged: pytest.fail("published twice"),
        adopted=[scheduler.workers["w0"].worker],
        num_started=journal.num_workers_started(),
    )
    # What its owner has asked for since the worker was told.
    assert again.priorities == [("w0", "a", 7)]
    again.says("w0", *told, *numbered(state("a", JobState.RUNNING), step("a", 3), first=len(told) + 1))
    later.tick()
    progress = later.jobs["a"].progress
    assert (progress.step, progress.tokens, progress.busy_seconds) == (3, 60, 1.75)
    assert recorder.events == [*events, ("a", JobState.RUNNING, "told")]
    assert recorder.logs == ["line"]
    assert [call for call in again.calls if call[0] == "start"] == []
    # What it starts later has an id that nothing before it had.
    again.says("w0", end=LOST)
    later.tick()
    later.tick()
    assert again.calls[-1] == ("start", "w1", ("a",))


def test_nothing_is_said_of_what_fits_while_there_is_no_device(scheduler_of: SchedulerOf) -> None:
    cluster = ScriptedCluster(num_devices=0)
    scheduler = scheduler_of(cluster, {"a": "x"})
    scheduler.tick()
    assert scheduler.jobs["a"].state is JobState.PENDING
    assert "no device yet" in scheduler.jobs["a"].message


def test_a_job_moves_to_a_device_that_has_come_when_it_ends_sooner_there_and_is_not_charged(
    scheduler_of: SchedulerOf, journal: Journal
) -> None:
    clock = [0.0]
    cluster, recorder = ScriptedCluster(), Recorder()
    # A micro-batch of each is 10 tokens: the first fills the pack, the second shares the device.
    scheduler = scheduler_of(
        cluster, {"a": "x", "b": "x"}, recorder, now=lambda: clock[0], policy=PolicySettings(), token_budget=10
    )
    scheduler.tick()
    assert cluster.calls == [("start", "w0", ("a", "b"))]
    # 15 seconds a token, of 75 tokens that each still has: 1125 seconds of the device for either.
    slow = [replace(step(name, 1), seconds=300.0) for name in ("a", "b")]
    cluster.says("w0", state("a", JobState.RUNNING), state("b", JobState.RUNNING), *slow)
    scheduler.tick()
    cluster.num_devices = 2
    clock[0] = 599.0
    scheduler.tick()
    # Not before it has been somewhere for ten minutes.
    assert cluster.called_back == []
    clock[0] = 700.0
    scheduler.tick()
    clock[0] = 740.0
    scheduler.tick()
    # The other one stays: what the first move changes is seen before the next.
    assert cluster.called_back == [("w0", "a")]
    handed_back = StateReport(job_id="a", state=JobState.PENDING, reason="handed_back", message="saved at step 1")
    cluster.says("w0", CheckpointReport(record=record_of("a", 1)), handed_back)
    scheduler.tick()
    assert (scheduler.jobs["a"].state, scheduler.jobs["a"].reason) == (JobState.PENDING, "moved")
    event = journal.events("a")[-1]
    assert event.reason == "moved"
    assert event.message == "ends 16 min sooner on cpu-1; moving costs 2 min; saved at step 1"
    scheduler.tick()
    assert cluster.calls[-1] == ("start", "w1", ("a",))
    assert [attempt.charged for attempt in journal.attempts("a")] == [False, False]
    clock[0] = 2000.0
    scheduler.tick()
    assert cluster.called_back == [("w0", "a")]


def test_what_is_handed_over_at_once_never_moves(scheduler_of: SchedulerOf) -> None:
    clock = [0.0]
    cluster = ScriptedCluster()
    scheduler = scheduler_of(cluster, {"a": "x", "b": "x"}, now=lambda: clock[0], token_budget=10)
    scheduler.tick()
    cluster.says("w0", *(replace(step(name, 1), seconds=300.0) for name in ("a", "b")))
    scheduler.tick()
    cluster.num_devices, clock[0] = 2, 5000.0
    scheduler.tick()
    assert cluster.called_back == []


def test_an_adapter_waits_for_the_store_uncharged_whatever_becomes_of_its_worker(
    scheduler_of: SchedulerOf, journal: Journal
) -> None:
    clock, store = [0.0], ["is away"]
    cluster, recorder = ScriptedCluster(), Recorder()
    scheduler = scheduler_of(
        cluster, {"a": "x", "b": "x", "c": "x"}, recorder, now=lambda: clock[0], store=store, policy=PolicySettings()
    )
    scheduler.tick()
    began = [state(name, JobState.RUNNING) for name in "abc"]
    cluster.says("w0", *began, state("a", JobState.SUCCEEDED, staged="s3://b/a"))
    scheduler.tick()
    job = scheduler.jobs["a"]
    assert (job.state, job.reason) == (JobState.PAUSED, "store")
    assert "tried until it works: s3://b/a: is away" in job.message
    assert journal.job("a").message == job.message
    # It has left its worker, which makes room for others and whose end is not its own.
    assert scheduler.active_jobs("w0") == ["b", "c"]
    cluster.says("w0", state("b", JobState.SUCCEEDED, staged="s3://b/b"), end=LOST)
    scheduler.tick()
    assert {job.id: job.state for job in scheduler.jobs.values()} == {
        "a": JobState.PAUSED, "b": JobState.PAUSED, "c": JobState.PENDING,
    }  # fmt: skip
    scheduler.steer("a", desired=Desired.PAUSE, priority=0, queue="default")
    clock[0] = 2.1
    scheduler.tick()
    assert job.state is JobState.PAUSED
    store.clear()
    clock[0] = 4.0
    scheduler.tick()
    assert job.state is JobState.PAUSED
    clock[0] = 6.2
    scheduler.tick()
    assert (scheduler.jobs["a"].state, scheduler.jobs["b"].state) == (JobState.SUCCEEDED, JobState.SUCCEEDED)
    assert [kind for name, kind, _ in recorder.events if name == "a"][-2:] == [JobState.RUNNING, JobState.SUCCEEDED]
    assert not any(attempt.charged for name in "ab" for attempt in journal.attempts(name))
    assert journal.setting("unpublished") == {}
    assert cluster.called_back == []


def test_an_adapter_that_waits_for_the_store_is_published_by_the_next_scheduler(
    scheduler_of: SchedulerOf, journal: Journal, tmp_path: Path
) -> None:
    clock, store = [0.0], ["is away"]
    scheduler = scheduler_of(cluster := ScriptedCluster(), {"a": "x"}, now=lambda: clock[0], store=store)
    scheduler.tick()
    cluster.says("w0", state("a", JobState.RUNNING), state("a", JobState.SUCCEEDED, staged="s3://b/a"))
    scheduler.tick()
    scheduler.preempt(0.0, "stopped")

    class Empty:
        def adopt(self, open_attempts: object) -> list[AdoptedWorker]:
            return []

    unpublished = {name: Unpublished(**one) for name, one in journal.setting("unpublished").items()}
    assert readopt(journal, Empty(), at=1.0, unpublished=unpublished) == []
    known = journal.job("a")
    assert (known.state, known.reason, known.attempt_is_open) == (JobState.PAUSED, "store", True)
    folder = tmp_path / "published" / "a"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"files": {}}')
    asked: list[str] = []
    later = Scheduler(
        [replace(scheduler.jobs["a"], worker_id="w0")],
        {"a": estimate("x")},
        ScriptedCluster(),
        WorkerSettings(staging_dir=Path("staging")),
        Lives(journal, JobFiles(tmp_path), [], now=lambda: 12.5),
        publish=lambda job, staged: asked.append(staged) or str(folder),
        unpublished=unpublished,
    )
    later.tick()
    assert asked == ["s3://b/a"]
    assert journal.job("a").state is JobState.SUCCEEDED
    assert [attempt.number for attempt in journal.attempts("a")] == [1]


def test_one_that_was_cancelled_while_its_adapter_waited_for_the_store_stays_so(
    scheduler_of: SchedulerOf, journal: Journal
) -> None:
    clock, store = [0.0], ["is away"]
    scheduler = scheduler_of(cluster := ScriptedCluster(), {"a": "x"}, now=lambda: clock[0], store=store)
    scheduler.tick()
    cluster.says("w0", state("a", JobState.RUNNING), state("a", JobState.SUCCEEDED, staged="s3://b/a"))
    scheduler.tick()
    scheduler.cancel("a", "enough")
    store.clear()
    clock[0] = 10.0
    scheduler.tick()
    assert journal.job("a").state is JobState.CANCELLED
    assert journal.setting("unpublished") == {}
    assert ("release", "w0", ("a",)) not in cluster.calls


def test_a_changed_priority_reaches_the_worker_of_a_running_job_and_no_other(scheduler_of: SchedulerOf) -> None:
    cluster = ScriptedCluster()
    scheduler = scheduler_of(cluster, {"a": "x", "b": "y"})
    scheduler.tick()
    for name in ("a", "b"):
        scheduler.steer(name, desired=Desired.RUN, priority=3, queue="default")
        scheduler.steer(name, desired=Desired.RUN, priority=3, queue="other")
    assert cluster.priorities == [("w0", "a", 3)]
    cluster.says("w0", end=LOST)
    scheduler.tick()
    scheduler.tick()
    # Whoever gets it next is told at once.
    assert [(one.job_id, one.priority) for one in cluster.assigned[-1]] == [("a", 3)]
    assert [one.priority for one in cluster.assigned[0]] == [0]


def test_a_job_that_fits_only_a_device_that_is_away_waits_for_it(scheduler_of: SchedulerOf) -> None:
    cluster = ScriptedCluster(num_devices=1)
    scheduler = scheduler_of(cluster, {"a": "x", "b": "y"}, policy=PolicySettings())
    scheduler.tick()
    assert cluster.calls == [("start", "w0", ("a",))]
    cluster.num_devices = 0
    cluster.says("w0", end=LOST)
    scheduler.tick()
    scheduler.tick()
    assert {job.state for job in scheduler.jobs.values()} == {JobState.PENDING}
    assert scheduler.why("a") == "waiting: no device yet; the cluster has no node with room for a worker"
    assert (scheduler.wanted_devices, scheduler.memory["largest_device_bytes"]) == (2, 8 * GIB)
    cluster.memory_bytes, cluster.num_devices = 1000, 1
    scheduler.tick()
    assert "the largest device that is here has 0.00 GiB; one of 8.00 GiB may come" in (scheduler.why("a") or "")
    cluster.memory_bytes = 8 * GIB
    scheduler.tick()
    assert cluster.calls[-1] == ("start", "w1", ("a",))


def test_what_preemptions_and_fair_shares_were_survives_a_restart(
    scheduler_of: SchedulerOf, journal: Journal, tmp_path: Path
) -> None:
    clock = [0.0]
    scheduler = scheduler_of(
        cluster := ScriptedCluster(),
        {"low": "x", "high": "y"},
        now=lambda: clock[0],
        policy=PolicySettings(),
        priorities={"low": 0, "high": 0},
    )
    scheduler.tick()
    saved = CheckpointReport(record=record_of("low", 1))
    cluster.says("w0", state("low", JobState.RUNNING), step("low", 1), saved, step("low", 2))
    scheduler.tick()
    scheduler.steer("high", desired=Desired.RUN, priority=5, queue="default")
    clock[0] = 60.0
    scheduler.tick()
    assert cluster.called_back == [("w0", "low")]
    memory = json.loads(json.dumps(scheduler.memory))
    assert memory["num_preemptions"] == {"low": 1}
    assert memory["saved_seconds"]["low"] == 0.25
    assert memory["fair_shares"]["default"][0] == pytest.approx(60.0, rel=0.01)
    assert memory["largest_device_bytes"] == 8 * GIB

    clock[0] = 5.0
    jobs = [replace(scheduler.jobs["low"]), replace(scheduler.jobs["high"])]
    jobs[1].priority = 5
    again = ScriptedCluster()
    later = Scheduler(
        jobs,
        {"low": estimate("x"), "high": estimate("y")},
        again,
        WorkerSettings(staging_dir=Path("staging")),
        Lives(journal, JobFiles(tmp_path), [], now=lambda: 12.5),
        publish=lambda job, staged: pytest.fail("nothing to publish"),
        now=lambda: clock[0],
        adopted=[scheduler.workers["w0"].worker],
        policy=PolicySettings(),
        memory=memory,
        waited_seconds={"low": 100.0, "high": 7000.0},
    )
    assert later.memory == memory
    # It has made room once, so that it is left alone for ten minutes now.
    later.tick()
    assert again.called_back == []
    clock[0] = 620.0
    later.tick()
    assert again.called_back == [("w0", "low")]


def test_jobs_are_as_old_after_a_restart_as_before_and_stay_in_order_whatever_the_clock_says() -> None:
    survey = Survey({name: estimate("x") for name in "abc"}, lambda: 1000.0, whole_jobs=False)
    spec = {"name": "a", "model": {"model_name_or_path": "x"}, "datasets": [{"path": "rows.jsonl"}]}
    jobs = [Job(id=name, spec=JobSpec.model_validate(spec)) for name in "abc"]
    for job, waited in zip(jobs, (500.0, -300.0, 900.0), strict=True):
        survey.enrol(job, waited_seconds=waited)
    assert [survey.waiting(job).submitted_seconds for job in jobs] == [500.0, 1000.0, 1000.0]
    assert sorted(jobs, key=lambda job: survey.waiting(job).order) == jobs
