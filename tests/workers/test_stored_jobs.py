"""Jobs whose checkpoints and adapters are in a store: they move between machines that share no disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.records import (
    Assignment,
    CheckpointRecord,
    CheckpointReport,
    Job,
    JobState,
    LogReport,
    Report,
    ResumeReport,
    StateReport,
)
from orchestrator.job_files import JobFiles
from tests.models import make_data, make_spec, make_worker, tiny_llama, train
from tests.stores import Faults, claimed, rewrite
from workers.caught_error import catch
from workers.object_store import ObjectStore
from workers.worker import Worker

DATA = {name: make_data(number, [5, 9, 7, 4, 8, 6]) for number, name in enumerate(("moved", "other"))}
TRAINING = {"max_steps": 6, "gradient_accumulation_steps": 3, "per_device_train_batch_size": 1, "weight_decay": 0.1}
LORA = {"r": 4, "lora_dropout": 0.1, "target_modules": ["*_proj", "lm_head"]}
WEIGHTS = "adapter_model.safetensors"


def spec_of(name: str, **training: Any) -> Any:
    return make_spec(name, packing="exact", lora=LORA, training=TRAINING | training)


def worker_in(scratch: Path, uri: str | None, **settings: Any) -> Worker:
    """A worker with a scratch disk of its own."""
    worker = make_worker(
        tiny_llama(), DATA, scratch / "staging", checkpoints_dir=scratch / "checkpoints", storage_uri=uri, **settings
    )
    if worker._storage is not None:
        worker._storage._store._sleep = lambda _: None
    return worker


def faults_of(worker: Worker) -> Faults:
    assert worker._storage is not None
    assert worker._storage._store._fs is not None
    return Faults(worker._storage._store)


def stepped(worker: Worker, until: Callable[[list[Report]], bool], *, waits_for_disk: bool = False) -> list[Report]:
    reports: list[Report] = []
    for _ in range(1000):
        reports += worker.step()
        if waits_for_disk:
            worker._saver._writer.submit(lambda: None).result()
        if until(reports):
            return reports
    pytest.fail("it never happened")


def states_of(job_id: str, reports: list[Report]) -> list[tuple[JobState, str]]:
    return [(one.state, one.reason) for one in reports if isinstance(one, StateReport) and one.job_id == job_id]


def records_of(job_id: str, reports: list[Report]) -> tuple[CheckpointRecord, ...]:
    """Newest first."""
    return tuple(one.record for one in reports if isinstance(one, CheckpointReport) and one.job_id == job_id)[::-1]


def ended(*names: str) -> Callable[[list[Report]], bool]:
    return lambda reports: all(any(state.is_terminal for state, _ in states_of(name, reports)) for name in names)


def adapter_of(job_id: str, reports: list[Report], files: JobFiles, attempt: int = 1) -> bytes:
    """The published weights of a job that has succeeded, verified on the way."""
    (staged,) = [one.staged_artifact for one in reports if isinstance(one, StateReport) and one.staged_artifact
                 and one.job_id == job_id]  # fmt: skip
    published = files.publish(Job(id=job_id, spec=spec_of(job_id), attempt=attempt), staged)
    with files.open(published, WEIGHTS) as stream:
        return stream.read()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Weights of jobs that nothing happened to, without a store."""
    folder = tmp_path_factory.mktemp("whole")
    train(worker_in(folder, None), [spec_of(name) for name in DATA])
    return {name: (folder / "staging" / name / WEIGHTS).read_bytes() for name in DATA}


def test_handed_back_it_goes_on_from_an_empty_scratch_disk_to_the_same_bytes(
    make_root: Callable[[str], str], scheme: str, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    uri = make_root(scheme)
    claimed(uri)
    here = worker_in(tmp_path / "here", uri)
    here.assign([Assignment(job_id=name, spec=spec_of(name)) for name in DATA])
    for _ in range(5):
        here.step()
    here.hand_back("moved")
    reports = stepped(here, lambda told: (JobState.PENDING, "handed_back") in states_of("moved", told))
    saved = records_of("moved", reports)
    assert saved[0].micro_batch > 0
    there = worker_in(tmp_path / "there", uri)
    there.assign([Assignment(job_id="moved", spec=spec_of("moved"), attempt=2, checkpoints=saved)])
    moved = stepped(there, ended("moved"))
    (resumed,) = [one for one in moved if isinstance(one, ResumeReport)]
    assert resumed.record == saved[0]
    reports += stepped(here, ended("other"))
    files = JobFiles(tmp_path / "head", uri)
    assert adapter_of("moved", moved, files, attempt=2) == whole["moved"]
    assert adapter_of("other", reports, files) == whole["other"]
    here._saver._writer.shutdown()
    there._saver._writer.shutdown()
    for scratch in ("here", "there"):
        left = [path for path in (tmp_path / scratch).rglob("*") if path.is_file()]
        assert left == [], "a job that leaves a worker leaves nothing on its disk"


@pytest.mark.parametrize("spoiled", [False, True])
def test_after_its_machine_has_died_it_goes_on_elsewhere_from_the_newest_good_one(
    make_root: Callable[[str], str], tmp_path: Path, whole: dict[str, bytes], spoiled: bool
) -> None:
    uri = make_root("memory")
    store = claimed(uri)
    here = worker_in(tmp_path / "here", uri)
    here.assign([Assignment(job_id="moved", spec=spec_of("moved", save_steps=2))])
    reports = stepped(here, lambda told: len(records_of("moved", told)) == 2, waits_for_disk=True)
    saved = records_of("moved", reports)
    if spoiled:
        rewrite(store, f"checkpoints/moved/{saved[0].folder}", WEIGHTS, b"x" * 100)
    there = worker_in(tmp_path / "there", uri)
    there.assign([Assignment(job_id="moved", spec=spec_of("moved", save_steps=2), attempt=2, checkpoints=saved)])
    moved = stepped(there, ended("moved"))
    (resumed,) = [one for one in moved if isinstance(one, ResumeReport)]
    assert resumed.record == saved[spoiled]
    assert [one.record for one in resumed.quarantined] == list(saved[:spoiled])
    assert all(store.uri in one.problem for one in resumed.quarantined)
    assert adapter_of("moved", moved, JobFiles(tmp_path, uri), attempt=2) == whole["moved"]


def test_a_checkpoint_is_reported_once_the_store_has_it_and_neighbours_train_meanwhile(
    make_root: Callable[[str], str], tmp_path: Path
) -> None:
    uri = make_root("memory")
    store = claimed(uri)
    worker = worker_in(tmp_path, uri)
    let_through = threading.Event()

    def wait(number: int, request: str, name: str) -> None:
        if request == "put_file" and name == "manifest.json":
            assert let_through.wait(60)

    faults_of(worker).fails = wait
    worker.assign([Assignment(job_id=name, spec=spec_of(name, max_steps=20)) for name in DATA])
    for _ in range(4):
        worker.step()
    worker.hand_back("moved")
    reports = [report for _ in range(30) for report in worker.step()]
    assert records_of("moved", reports) == ()
    assert worker.runs()["other"].step >= 8
    assert "moved" in worker.runs()
    let_through.set()
    reports += stepped(worker, lambda told: (JobState.PENDING, "handed_back") in states_of("moved", told))
    (record,) = records_of("moved", reports)
    assert "manifest.json" in store.files(f"checkpoints/moved/{record.folder}")


def test_a_store_that_fails_now_and_then_is_not_noticed(
    make_root: Callable[[str], str], tmp_path: Path, whole: dict[str, bytes]
) -> None:
    uri = make_root("memory")
    claimed(uri)
    worker = worker_in(tmp_path, uri)
    faults_of(worker).fails = lambda number, *_: ConnectionResetError("reset") if number % 3 else None
    worker.assign([Assignment(job_id=name, spec=spec_of(name, save_steps=2)) for name in DATA])
    reports = stepped(worker, ended(*DATA))
    for name in DATA:
        assert states_of(name, reports) == [(JobState.RUNNING, "admitted"), (JobState.SUCCEEDED, "finished")]
        assert adapter_of(name, reports, JobFiles(tmp_path, uri)) == whole[name]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError("AccessDenied"), "refused: PermissionError: AccessDenied"),
        (TimeoutError("no answer"), "cannot be reached, after 4 tries"),
        (OSError(28, "full"), "free some space or raise the quota"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("about", ["checkpoints", "artifacts"])
def test_a_job_waits_for_a_store_that_refuses_and_its_neighbour_trains_on(
    make_root: Callable[[str], str], tmp_path: Path, whole: dict[str, bytes], error: OSError, told: str, about: str
) -> None:
    uri = make_root("memory")
    claimed(uri)
    worker = worker_in(tmp_path, uri)
    clock = [0.0]
    worker._saver._now = lambda: clock[0]
    faults = faults_of(worker)
    real = faults._real.put_file
    refuses = True

    def put_file(local: str, remote: str) -> None:
        if refuses and f"/{about}/moved/" in remote:
            raise error
        real(local, remote)

    faults._real = type("Store", (), {"__getattr__": lambda _, name: getattr(real.__self__, name)})()
    faults._real.put_file = put_file
    worker.assign([Assignment(job_id="moved", spec=spec_of("moved", save_steps=2))])
    worker.assign([Assignment(job_id="other", spec=spec_of("other"))])
    reports = stepped(worker, ended("other"))
    reports += stepped(worker, lambda _: "moved" in worker._jobs.paused)
    reports += worker.step()
    paused = [one for one in reports if isinstance(one, StateReport) and one.state is JobState.PAUSED]
    assert {one.job_id for one in paused} == {"moved"}
    assert told in paused[0].message
    assert uri in paused[0].message
    assert adapter_of("other", reports, JobFiles(tmp_path, uri)) == whole["other"]
    for _ in range(3):
        clock[0] += 100
        again = worker.step()
        again += worker.step()
        assert states_of("moved", again) == [] or about == "artifacts"
    refuses = False
    for _ in range(200):
        clock[0] += 100
        reports += worker.step()
        if ended("moved")(reports):
            break
    assert states_of("moved", reports)[-1] == (JobState.SUCCEEDED, "finished")
    states = [state for state, _ in states_of("moved", reports)]
    assert JobState.RUNNING in states[states.index(JobState.PAUSED) :]
    assert adapter_of("moved", reports, JobFiles(tmp_path, uri)) == whole["moved"]


def test_a_root_that_is_no_store_fails_a_job_before_it_trains(make_root: Callable[[str], str], tmp_path: Path) -> None:
    worker = worker_in(tmp_path, make_root("file"))
    worker.assign([Assignment(job_id=name, spec=spec_of(name)) for name in DATA])
    worker._admit()
    ends = [one for one in worker._told() if isinstance(one, StateReport)]
    assert [(one.state, one.reason) for one in ends] == [(JobState.FAILED, "store")] * 2
    assert "is the share mounted here?" in ends[0].message
    assert not (tmp_path / "checkpoints").exists()


def test_a_job_that_fails_while_it_is_uploaded_keeps_its_checkpoint_and_nobody_waiting(
    make_root: Callable[[str], str], tmp_path: Path
) -> None:
    uri = make_root("memory")
    claimed(uri)
    worker = worker_in(tmp_path, uri)
    let_through = threading.Event()
    faults_of(worker).fails = lambda number, request, name: (
        None if request != "put_file" or let_through.wait(60) else AssertionError()
    )
    worker.assign([Assignment(job_id="moved", spec=spec_of("moved", save_steps=2, max_steps=20))])
    worker.assign([Assignment(job_id="other", spec=spec_of("other", max_steps=20))])
    stepped(worker, lambda _: worker._saver.is_under_way("moved"))
    worker._endings.fail("moved", catch(RuntimeError("its own fault")))
    before = worker.runs()["other"].step
    reports = [report for _ in range(12) for report in worker.step()]
    assert states_of("moved", reports) == []
    assert worker.runs()["other"].step > before
    let_through.set()
    reports += stepped(worker, ended("moved"))
    assert states_of("moved", reports)[-1] == (JobState.FAILED, "error")
    order = [type(one) for one in reports if one.job_id == "moved" and not isinstance(one, LogReport)]
    assert order == [CheckpointReport, StateReport]


def test_preempted_while_its_adapter_is_uploaded_it_has_finished_or_is_saved(
    make_root: Callable[[str], str], tmp_path: Path, whole: dict[str, bytes]
) -> None:
    uri = make_root("memory")
    claimed(uri)
    worker = worker_in(tmp_path, uri)
    let_through = threading.Event()
    faults_of(worker).fails = lambda number, request, name: (
        None if request != "put_file" or let_through.wait(60) else AssertionError()
    )
    worker.assign([Assignment(job_id="moved", spec=spec_of("moved"))])
    reports = stepped(worker, lambda _: worker._saver.is_uploading("moved"))
    let_through.set()
    reports += worker.preempt()
    assert states_of("moved", reports)[-1] == (JobState.SUCCEEDED, "finished")
    assert adapter_of("moved", reports, JobFiles(tmp_path, uri)) == whole["moved"]


def test_a_stale_attempt_writes_over_nobody_and_is_not_published(
    make_root: Callable[[str], str], tmp_path: Path
) -> None:
    uri = make_root("memory")
    claimed(uri)
    reports: dict[int, list[Report]] = {}
    for attempt in (1, 2):
        worker = worker_in(tmp_path / str(attempt), uri)
        worker.assign([Assignment(job_id="moved", spec=spec_of("moved"), attempt=attempt)])
        reports[attempt] = stepped(worker, ended("moved"))
    files = JobFiles(tmp_path, uri)
    assert len(ObjectStore(uri).folders("artifacts/moved")) == 2
    assert adapter_of("moved", reports[2], files, attempt=2)
    with pytest.raises(ValueError, match="is not of attempt 2 of moved"):
        adapter_of("moved", reports[1], files, attempt=2)
