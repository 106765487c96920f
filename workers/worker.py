"""A worker: one frozen base on one device, and the jobs that train on it together.

Single-threaded and without a clock in any decision: what runs with what is a function of the jobs and of the order in
which they came. Whoever owns a worker calls `step()` again and again and passes on the reports.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace

import torch

from jobs.checkpoints import DiskFullError
from jobs.choice_types import QUANTISED_ADAMW
from jobs.errors import JobError, LoraloomError, StoreError
from jobs.ledger import Ledger
from jobs.records import (
    Assignment,
    BaseKey,
    CheckpointReport,
    EvalReport,
    JobState,
    LogReport,
    Report,
    StateReport,
    StepReport,
    WorkerCounters,
    WorkerStatus,
)
from jobs.spec import JobSpec
from workers import artifact
from workers.adapter import initialise
from workers.admission import Admission, LoadData
from workers.base_checks import base_notes
from workers.base_model import BaseModel, load_tokenizer
from workers.confinement import within
from workers.dataset import JobData, load_job_data
from workers.device_gauges import DeviceGauges, dtype_note, matrix_flops_per_second
from workers.flops import FlopCount
from workers.job_run import JobRun
from workers.object_store import ObjectStore
from workers.pack_runner import Member, PackRunner, Taken
from workers.pack_times import BUCKETS_SECONDS
from workers.publishing import discard
from workers.rounds import Rounds
from workers.saving import JobSaver, Saved, surroundings
from workers.settings import WorkerSettings
from workers.storage import Storage
from workers.usage import Accounts

_IDLE_SECONDS = 0.1
"""Between two looks for room on the disk, or at the store, while every job waits for it."""

MAX_LANES = 8
"""Lanes share Python's interpreter lock, which is held for some percent of a lane's time."""


def load_tokenised(spec: JobSpec, key: BaseKey, now_unix_seconds: float | None = None) -> JobData:
    """A job's rows, tokenised by the base's own tokenizer.

    Args:
        spec: The job.
        key: Its base.
        now_unix_seconds: What chat templates take for the current time; `None`: the time of this call.

    Raises:
        BaseModelError: The base has no usable tokenizer.
        DataError: The rows cannot be used.
    """
    return load_job_data(spec, load_tokenizer(spec.model, key), now_unix_seconds=now_unix_seconds)


class Worker:
    """One device's worth of training."""

    def __init__(
        self,
        worker_id: str,
        key: BaseKey,
        settings: WorkerSettings,
        *,
        device: torch.device | str = "cpu",
        load_base: Callable[[BaseKey, torch.device], BaseModel] = BaseModel.load,
        load_data: LoadData = load_tokenised,
    ) -> None:
        self.worker_id = worker_id
        self.key = key
        self.settings = settings
        self.device = torch.device(device)
        self._load_base = load_base
        self._load_data = load_data
        self._base: BaseModel | None = None
        self._waiting: deque[Assignment] = deque()
        self._runs: dict[str, JobRun] = {}
        self._attempts: dict[str, int] = {}
        self._reports: list[Report] = []
        self._started: float | None = None
        self._boundary = threading.Lock()
        """Held while jobs are not between two micro-batches; not while a base is loaded or rows are tokenised."""
        self._preempted = False
        self.is_preparing = False
        """While the base is loaded or rows are tokenised, which takes long and can be broken off without loss."""
        self._last_sign = time.monotonic()
        uri = settings.storage_uri
        self._storage = Storage(ObjectStore(uri)) if uri is not None else None
        self._paused: dict[str, str] = {}
        """Jobs that wait for room or for the store → the reason that they were PAUSED with."""
        self._failing: dict[str, BaseException] = {}
        """Jobs that end with an error as soon as the save that is under way has come to its end."""
        self._priorities: dict[str, int] = {}
        """Of jobs, where they are not as in their specs."""
        self._handing_back: set[str] = set()
        """Jobs that stand still and leave as soon as they are saved."""
        self._accounts = Accounts()
        self._ledgers: dict[str, Ledger] = {}
        """What the jobs that are here have cost before."""
        self._checkpoint_failures = 0

    @property
    def base(self) -> BaseModel:
        """The frozen base. `load()` comes first."""
        assert self._base is not None, "load() comes first"
        return self._base

    @property
    def is_idle(self) -> bool:
        """Whether `step()` would have nothing to do."""
        return self._preempted or (not self._runs and not self._waiting)

    def load(self) -> None:
        """Read the base into memory; seconds to minutes.

        Raises:
            BaseModelError: It cannot be loaded.
        """
        with self._preparing(), within(self.settings.file_rules):
            base = self._load_base(self.key, self.device)
        self._runner = self._make_runner(base)
        self._admission = Admission(self.worker_id, base, self.key, self.settings, self.device, self._load_data)
        self._rounds = Rounds(
            self._runner,
            self._admission.fit,
            self.device,
            token_budget=self.settings.token_budget,
            num_measured=self.settings.num_measured_packs,
            flops=FlopCount.of(base),
            accounts=self._accounts,
            is_padded=base.layout == "padded",
            here=self._runs,
            priorities=self._priorities,
            take_in=self._report,
            fail=self._fail,
        )
        self._saver = JobSaver(
            self.settings.checkpoints_dir,
            self.key,
            base,
            surroundings(self.device, self._lane_threads),
            storage=self._storage,
        )
        self._gauges = DeviceGauges(self.device)
        self._matrix_flops_per_second = matrix_flops_per_second(self.device, base.dtype)
        self._dtype_note = dtype_note(self.device, base.dtype)
        self._base = base
        self._started = time.monotonic()

    @property
    def silent_seconds(self) -> float:
        """Since the last sign of life, while there is something that could give one: from any thread."""
        return 0.0 if self.is_preparing or self.is_idle else time.monotonic() - self._last_sign

    @contextmanager
    def _preparing(self) -> Iterator[None]:
        self.is_preparing = True
        try:
            yield
        finally:
            self._last_sign = time.monotonic()
            self.is_preparing = False

    def _make_runner(self, base: BaseModel) -> PackRunner:
        threads = torch.get_num_threads() if self.device.type == "cpu" else 1
        num_lanes = self.settings.num_lanes or min(threads, MAX_LANES)
        self._lane_threads = max(1, threads // num_lanes)
        return PackRunner(base, num_lanes, self._lane_threads)

    def assign(self, assignments: Iterable[Assignment]) -> None:
        """Queue jobs. They are admitted, in this order, at the next step boundary at which they fit."""
        for assignment in assignments:
            self._attempts[assignment.job_id] = assignment.attempt
            self._accounts.begin(assignment.job_id)
            if assignment.priority is not None:
                self._priorities[assignment.job_id] = assignment.priority
            self._waiting.append(assignment)

    def release(self, job_id: str) -> bool:
        """Drop a job at a step boundary, whatever its state; its neighbours are not touched.

        Returns:
            Whether the worker had it.
        """
        waiting = [assignment for assignment in self._waiting if assignment.job_id != job_id]
        had = len(waiting) < len(self._waiting) or job_id in self._runs
        self._waiting = deque(waiting)
        run = self._runs.pop(job_id, None)
        if run is None and self._base is not None:
            run = self._admission.take(job_id)
        if run is not None:
            self._runner.forget(job_id)
            self._rounds.forget(job_id)
            self._saver.forget(job_id)
            if run.adapter.factors.slot is not None:
                run.adapter.factors.slot.give_back()
        self._paused.pop(job_id, None)
        self._failing.pop(job_id, None)
        self._handing_back.discard(job_id)
        self._ledgers.pop(job_id, None)
        self._priorities.pop(job_id, None)
        return had

    def hand_back(self, job_id: str) -> None:
        """Stop a job at the next micro-batch boundary, save it where it stands, and drop it; then it is reported
        PENDING. Its neighbours train on while it is written. Without effect on a job that is not here."""
        if job_id in self._runs or any(assignment.job_id == job_id for assignment in self._waiting):
            self._handing_back.add(job_id)

    def prioritise(self, job_id: str, priority: int) -> None:
        """Give a job another weight among its neighbours from the next round on. Without effect on one not here."""
        if job_id in self._runs or any(assignment.job_id == job_id for assignment in self._waiting):
            self._priorities[job_id] = priority

    def preempt(self) -> list[Report]:
        """Save all jobs at the micro-batch boundary that comes next, and do nothing for them any more.

        From any thread: while another one loads the base, tokenises or waits, the jobs stand still and are saved at
        once.

        Returns:
            What there is to report, as `step` does.
        """
        self._preempted = True
        with self._boundary:
            if self._runs:
                self._take_saved(self._saver.save_all(self._runs.values()))
                self._take_uploaded()
            return self._told()

    def step(self) -> list[Report]:
        """One round: admit what fits, run one micro-batch of every job, finish what is done.

        Returns:
            What happened, in order. Errors of a job end that job and are reported, never raised.
        """
        self._last_sign = time.monotonic()
        self._accounts.start()
        self._admit()
        with self._boundary:
            members = self._members() if not self._preempted else []
        round_began = time.monotonic()
        for pack in self._rounds.packs(members):
            with self._boundary:
                if self._preempted:
                    break
                self._rounds.run(pack)
            self._last_sign = time.monotonic()
        tokens = {member.run.job_id: member.work.batch.num_tokens for member in members}
        self._accounts.charge(tokens)
        self._accounts.round_took(tokens, time.monotonic() - round_began)
        with self._boundary:
            if not self._preempted:
                training = [run for run in self._runs.values() if not self._is_ending(run.job_id)]
                self._saver.save_due(training, leaving=self._handing_back)
                # With nothing to run, the disk is what there is to wait for.
                self._take_saved(self._saver.collect())
                self._take_uploaded()
                self._let_fail()
                self._let_go()
            told = self._told()
        waiting = self._paused or self._handing_back or any(self._is_ending(job_id) for job_id in self._runs)
        if waiting and not members:
            time.sleep(_IDLE_SECONDS)
        return told

    def _members(self) -> list[Member]:
        """What the jobs want to run in this round; those that want nothing more are finished."""
        members = []
        for run in list(self._runs.values()):
            if self._saver.is_held(run.job_id) or self._is_ending(run.job_id) or run.job_id in self._handing_back:
                continue
            with self._guard(run):
                work = run.next_work()
                if work is None:
                    self._finish(run)
                    self._accounts.charge({run.job_id: 1})
                else:
                    members.append(Member(run, work))
        return members

    def _let_go(self) -> None:
        """Drop the jobs that are to be handed back and are saved."""
        for job_id in sorted(self._handing_back):
            run = self._runs.get(job_id)
            if run is not None and (self._is_ending(job_id) or not self._saver.is_saved(run)):
                continue
            said = "had not begun" if run is None else f"saved at step {run.step}"
            self.release(job_id)
            self._state(job_id, JobState.PENDING, "handed_back", said)

    def _let_fail(self) -> None:
        """End the jobs whose last save has come to its end, with the error that they had before it."""
        for job_id in [one for one in self._failing if not self._saver.is_under_way(one)]:
            self._fail(job_id, self._failing.pop(job_id))

    def _is_ending(self, job_id: str) -> bool:
        """Whether the job trains no more and waits for the store to leave."""
        return job_id in self._failing or self._saver.is_uploading(job_id)

    def _told(self) -> list[Report]:
        """The reports so far, stamped with the attempts that they are of."""
        reports, self._reports = self._reports, []
        told = [self._stamped(one) for one in reports]
        self._accounts.keep_only({*self._runs, *(assignment.job_id for assignment in self._waiting)})
        return told

    def _stamped(self, report: Report) -> Report:
        attempt = self._attempts[report.job_id]
        match report:
            case CheckpointReport():
                # One of an earlier attempt here, which has no account any more.
                mine = report.attempt == attempt
                return replace(report, usage=self._accounts.last_usage(report.job_id)) if mine else report
            case StepReport() | EvalReport() | StateReport():
                return replace(report, attempt=attempt, usage=self._accounts.last_usage(report.job_id))
            case _:
                return replace(report, attempt=attempt)

    def status(self) -> WorkerStatus:
        """Where the worker stands."""
        return WorkerStatus(
            worker_id=self.worker_id,
            base=self.key,
            base_loaded=self._base is not None,
            adapters=len(self._runs),
            waiting=len(self._waiting),
            evaluating=tuple(run.job_id for run in self._runs.values() if run.is_evaluating),
            busy_seconds=self._accounts.charged_seconds,
            wall_seconds=time.monotonic() - self._started if self._started is not None else 0.0,
            tokens=self._rounds.totals.tokens if self._base is not None else 0,
            counters=self._counters() if self._base is not None else WorkerCounters(),
        )

    def _counters(self) -> WorkerCounters:
        totals = asdict(self._rounds.totals)
        del totals["tokens"]
        times = self._accounts.times
        return WorkerCounters(
            **totals,
            pack_seconds=times.seconds,
            pack_counts=tuple(times.counts),
            pack_bounds=BUCKETS_SECONDS,
            checkpoint_failures=self._checkpoint_failures,
            matrix_flops_per_second=self._matrix_flops_per_second,
            memory_bytes=self._gauges.memory_bytes,
            device_utilization=self._gauges.utilization,
        )

    def runs(self) -> dict[str, JobRun]:
        """Admitted jobs by id, in order of admission."""
        return dict(self._runs)

    def _admit(self) -> None:
        """Take in waiting jobs, strictly in order: a small job does not overtake a large one that waits for room."""
        while self._waiting:
            assignment = self._waiting[0]
            try:
                with self._preparing():
                    run = self._admission.prepare(assignment)
                    self._saver.prepare(assignment)
                if not self._admission.has_room(run.demand, (other.demand for other in self._runs.values())):
                    return
                with self._boundary:
                    if self._preempted:
                        return
                    self._begin(run, assignment)
            except Exception as error:
                self._fail(assignment.job_id, error)
            finally:
                self._accounts.charge({assignment.job_id: 1})

    def _begin(self, run: JobRun, assignment: Assignment) -> None:
        """Let a prepared job run: from its start, or from its newest good checkpoint."""
        initialise(run.adapter, run.spec.lora, run.spec.training.seed)
        resumed = self._saver.enrol(run, assignment)
        self._waiting.popleft()
        self._admission.take(run.job_id)
        self._runs[run.job_id] = run
        self._ledgers[run.job_id] = assignment.ledger.goes_on(time.time())
        notes = [*run.data.notes, *base_notes(self.base.structure, run.data)]
        if run.spec.training.gradient_checkpointing and not self.base.can_checkpoint:
            notes.append(
                "gradient_checkpointing saves nothing here: this base has no layers that can be computed again"
            )
        if run.spec.training.optim in QUANTISED_ADAMW:
            notes.append(f"optim: {run.spec.training.optim} trains as adamw_torch: an adapter's states stay fp32")
        self._reports += [LogReport(job_id=run.job_id, message=note) for note in notes]
        neighbours = len(self._runs) - 1
        said = (
            f"{run.adapter.num_parameters:,} trainable parameters on {len(run.adapter.targets)} linear layers of "
            f"{self.key}, {run.total_steps} steps; {neighbours} other {'job' if neighbours == 1 else 'jobs'} here"
        )
        if self._dtype_note is not None:
            said += f"; {self._dtype_note}"
        if resumed is None:
            self._state(run.job_id, JobState.RUNNING, "admitted", said)
        else:
            self._reports.append(resumed)
            where = f"resumed at step {run.step}" if resumed.record is not None else "no checkpoint yet, starts over"
            self._state(run.job_id, JobState.RUNNING, "resumed", f"{where}; {said}")

    def _take_saved(self, saved: Iterable[Saved]) -> None:
        """Report what came of saves; who could not be saved ends, or waits for room."""
        for one in saved:
            if one.record is not None:
                self._accounts.saved(one.job_id, one.seconds)
                self._reports.append(CheckpointReport(record=one.record, seconds=one.seconds))
                continue
            self._checkpoint_failures += one.error is not None
            if self._preempted:
                self._reports.append(LogReport(job_id=one.job_id, message=f"could not be saved: {one.error}"))
            elif one.error is not None:
                self._fail(one.job_id, one.error)
        for job_id in [one for one in self._paused if not self._saver.is_held(one)]:
            if self._paused.pop(job_id) == "store":
                self._state(job_id, JobState.RUNNING, "store", "the store takes in again, the job goes on")
            else:
                self._state(job_id, JobState.RUNNING, "room", "there is room on the disk again, the job goes on")

    def _take_uploaded(self) -> None:
        """Let the jobs go whose adapters are in the store; those whose are not wait for it."""
        for one in self._saver.uploaded():
            # Of what was saved before it on the same thread.
            self._take_saved(self._saver.collect(one.job_id, wait=True))
            run = self._runs.get(one.job_id)
            if run is None:
                continue
            if one.uri is not None:
                self._saver.go_on(run.job_id)
                self._take_saved(())
                self._succeed(run, one.uri)
            elif self._preempted:
                self._reports.append(LogReport(job_id=run.job_id, message=f"could not be uploaded: {one.error}"))
            elif one.error is not None:
                self._fail(run.job_id, one.error)

    def _report(self, taken: Taken) -> None:
        run = taken.member.run
        with self._guard(run):
            if taken.error is not None:
                raise taken.error
            if taken.report is not None:
                self._reports.append(taken.report)
            if isinstance(taken.report, StepReport):
                run.check_finite()

    def _finish(self, run: JobRun) -> None:
        """Write the artifact and let the job go, at once or when the store has it."""
        source = artifact.Provenance(
            job_id=run.job_id,
            spec=run.spec,
            base=self.key,
            model_type=self.base.model.config.model_type,
            base_fingerprint=self.base.fingerprint,
            train_fingerprint=run.data.train.fingerprint,
            eval_fingerprint=run.data.evaluation.fingerprint if run.data.evaluation is not None else None,
            num_threads=torch.get_num_threads(),
            last_step=run.last_step,
            first_eval=run.first_eval,
            last_eval=run.last_eval,
            best_metric=run.best_metric,
            best_step=run.best_step,
            ledger=self._ledgers[run.job_id].heard(self._attempts[run.job_id], self._accounts.usage(run.job_id)),
        )
        folder = self.settings.staging_dir / run.job_id
        # Of an earlier attempt here, whose adapter could not be published, or that was called away meanwhile.
        discard(folder)
        artifact.export(run.adapter, self.base.shapes, source, folder, beside_text=self.base.structure.beside_text)
        if self._storage is not None:
            self._saver.upload(run.job_id, folder, self._attempts[run.job_id])
            return
        self._take_saved(self._saver.collect(run.job_id, wait=True))
        self._succeed(run, str(folder))

    def _succeed(self, run: JobRun, staged: str) -> None:
        self.release(run.job_id)
        self._state(run.job_id, JobState.SUCCEEDED, "finished", f"all {run.total_steps} steps done", staged=staged)

    def _fail(self, job_id: str, error: BaseException) -> None:
        """End one job with a reason; its neighbours go on. For want of room, or of the store, it is only held."""
        if job_id in self._runs:
            if self._storage is not None and self._saver.is_under_way(job_id):
                # A network may take its time, and nobody else's.
                self._failing.setdefault(job_id, error)
                return
            self._take_saved(self._saver.collect(job_id, wait=True))
            if isinstance(error, DiskFullError | StoreError) and self._saver.hold(job_id, error):
                if job_id not in self._paused:
                    self._paused[job_id] = error.reason
                    self._state(job_id, JobState.PAUSED, error.reason, str(error))
                return
        self.release(job_id)
        if isinstance(error, JobError):
            self._state(job_id, JobState.FAILED, error.reason, str(error))
        elif isinstance(error, LoraloomError):
            self._state(job_id, JobState.FAILED, "invalid", str(error))
        else:
            self._reports.append(LogReport(job_id=job_id, message="".join(traceback.format_exception(error)).rstrip()))
            last = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
            self._state(job_id, JobState.FAILED, "error", last)

    @contextmanager
    def _guard(self, run: JobRun) -> Iterator[None]:
        """Turn an exception into the end of one job."""
        try:
            yield
        except Exception as error:
            self._fail(run.job_id, error)

    def _state(self, job_id: str, state: JobState, reason: str, message: str, *, staged: str | None = None) -> None:
        self._reports.append(
            StateReport(job_id=job_id, state=state, reason=reason, message=message, staged_artifact=staged)
        )
