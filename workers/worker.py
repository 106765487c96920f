"""A worker: one frozen base on one device, and the jobs that train on it together.

One thread owns it, without a clock in any decision: what runs with what is a function of the jobs and of the order in
which they came. Whoever owns a worker calls `step()` again and again and passes on the reports. Another thread may take
the jobs over with `preempt()` and save them; from then on the owner's calls do nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch

from jobs.choice_types import QUANTISED_ADAMW
from jobs.errors import DeviceLostError
from jobs.records import Assignment, BaseKey, JobState, Report, StepReport, WorkerCounters, WorkerStatus
from jobs.spec import JobSpec
from workers.adapter import initialise
from workers.admission import Admission, LoadData
from workers.base_checks import base_notes
from workers.base_model import BaseModel, load_tokenizer
from workers.caught_error import catch
from workers.confinement import within
from workers.dataset import JobData, load_job_data
from workers.device_gauges import dtype_note
from workers.endings import Endings
from workers.flops import FlopCount
from workers.job_run import JobRun
from workers.job_table import JobTable
from workers.memory_meter import free_memory
from workers.object_store import ObjectStore
from workers.pack_accounts import PackAccounts
from workers.pack_runner import Member, PackRunner, Taken
from workers.report_buffer import ReportBuffer
from workers.rounds import Rounds
from workers.saving import JobSaver, surroundings
from workers.settings import WorkerSettings
from workers.storage import Storage
from workers.usage import Accounts
from workers.worker_counters import Counters

_IDLE_SECONDS = 0.1
"""Between two looks for room on the disk, or at the store, while every job waits for it."""

_NUM_MEASURED = {"cuda": 8}
"""First packs whose memory is measured."""

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
        self._lock = threading.Lock()
        """Held by the thread that changes jobs, saves or reports. The owner lets go of it between two micro-batches,
        and while a base is loaded or rows are tokenised, so that another thread can save the jobs then."""
        self._preempted = False
        self._jobs = JobTable()
        self._accounts = Accounts()
        self._reports = ReportBuffer(self._accounts)
        self._started: float | None = None
        self.is_preparing = False
        """While the base is loaded or rows are tokenised, which takes long and can be broken off without loss."""
        self._last_sign = time.monotonic()
        uri = settings.storage_uri
        self._storage = Storage(ObjectStore(uri)) if uri is not None else None

    @property
    def base(self) -> BaseModel:
        """The frozen base. `load()` comes first."""
        assert self._base is not None, "load() comes first"
        return self._base

    @property
    def is_idle(self) -> bool:
        """Whether `step()` would have nothing to do."""
        return self._preempted or (not self._jobs.runs and not self._jobs.waiting)

    @property
    def silent_seconds(self) -> float:
        """Since the last sign of life, while there is something that could give one: from any thread."""
        return 0.0 if self.is_preparing or self.is_idle else time.monotonic() - self._last_sign

    def load(self) -> None:
        """Read the base into memory; seconds to minutes.

        Raises:
            BaseModelError: It cannot be loaded.
        """
        with self._preparing(), within(self.settings.file_rules):
            base = self._load_base(self.key, self.device)
        threads = torch.get_num_threads() if self.device.type == "cpu" else 1
        num_lanes = self.settings.num_lanes or min(threads, MAX_LANES)
        lane_threads = max(1, threads // num_lanes)
        self._runner = PackRunner(base, num_lanes, lane_threads)
        self._admission = Admission(self.worker_id, base, self.key, self.settings, self.device, self._load_data)
        self._pack_accounts = PackAccounts(
            self._accounts,
            FlopCount.of(base),
            token_budget=self.settings.token_budget,
            is_padded=base.layout == "padded",
        )
        self._saver = JobSaver(
            self.settings.checkpoints_dir,
            self.key,
            base,
            surroundings(self.device, lane_threads),
            storage=self._storage,
        )
        self._endings = Endings(
            self._jobs, self._reports, self._accounts, self._saver, self.key, base, self.settings, forget=self._forget
        )
        num_measured = self.settings.num_measured_packs
        if num_measured is None:
            num_measured = _NUM_MEASURED.get(self.device.type, 0)
        self._rounds = Rounds(
            self._runner,
            self._admission.fit,
            self.device,
            self._pack_accounts,
            token_budget=self.settings.token_budget,
            num_measured=num_measured,
            jobs=self._jobs,
            is_training=self._endings.is_training,
            take_in=self._take_in,
            fail=self._endings.fail,
        )
        self._counters = Counters(self.device, base.dtype)
        self._dtype_note = dtype_note(self.device, base.dtype)
        with self._lock:
            self._base = base
            self._started = time.monotonic()

    @contextmanager
    def _preparing(self) -> Iterator[None]:
        self.is_preparing = True
        try:
            yield
        finally:
            self._last_sign = time.monotonic()
            self.is_preparing = False

    def assign(self, assignments: Iterable[Assignment]) -> None:
        """Queue jobs. They are admitted, in this order, at the next step boundary at which they fit."""
        with self._lock:
            if self._preempted:
                return
            for assignment in assignments:
                self._reports.begin(assignment.job_id, assignment.attempt)
                self._accounts.begin(assignment.job_id)
                self._jobs.add(assignment)

    def release(self, job_id: str) -> bool:
        """Drop a job at a step boundary, whatever its state; its neighbours are not touched.

        Returns:
            Whether the worker had it.
        """
        with self._lock:
            if self._preempted:
                return False
            if self._base is not None:
                return self._endings.release(job_id)
            had = job_id in self._jobs
            self._jobs.drop(job_id)
            return had

    def hand_back(self, job_id: str) -> None:
        """Stop a job at the next micro-batch boundary, save it where it stands, and drop it; then it is reported
        PENDING. Its neighbours train on while it is written. Without effect on a job that is not here."""
        with self._lock:
            if job_id in self._jobs and not self._preempted:
                self._jobs.handing_back.add(job_id)

    def prioritise(self, job_id: str, priority: int) -> None:
        """Give a job another weight among its neighbours from the next round on. Without effect on one not here."""
        with self._lock:
            if job_id in self._jobs and not self._preempted:
                self._jobs.priorities[job_id] = priority

    def preempt(self) -> list[Report]:
        """Save all jobs at the micro-batch boundary that comes next, and do nothing for them any more.

        From any thread: while the owner loads the base, tokenises or waits, the jobs stand still and are saved at once.

        Returns:
            What there is to report, as `step` does.
        """
        self._preempted = True
        with self._lock:
            if self._base is not None and self._jobs.runs:
                self._endings.stop()
            return self._told()

    def last_reports(self) -> list[Report]:
        """What there is still to report after `step` or `preempt` has raised, finished saves among it."""
        with self._lock:
            if self._base is not None:
                self._endings.report_finished_saves()
            return self._told()

    def step(self) -> list[Report]:
        """One round: admit what fits, run one micro-batch of every job, finish what is done.

        Returns:
            What happened, in order. Errors of a job end that job and are reported, never raised.

        Raises:
            DeviceLostError: The device fails whatever is run on it from this process.
        """
        self._last_sign = time.monotonic()
        with self._lock:
            self._accounts.start()
        self._admit()
        with self._lock:
            members = self._members() if not self._preempted else []
        round_began = time.monotonic()
        for pack in self._rounds.packs(members):
            with self._lock:
                if self._preempted:
                    break
                self._rounds.run(pack)
            self._last_sign = time.monotonic()
        with self._lock:
            told = self._end_round(members, time.monotonic() - round_began)
            waits = not self._preempted and self._is_waiting()
        if waits and not members:
            time.sleep(_IDLE_SECONDS)
        return told

    def _end_round(self, members: list[Member], seconds: float) -> list[Report]:
        """Save what is due, let go who is done, and return what there is to report."""
        if not self._preempted:
            tokens = {member.run.job_id: member.work.batch.num_tokens for member in members}
            self._accounts.charge(tokens)
            self._accounts.round_took(tokens, seconds)
            training = [run for run in self._jobs.runs.values() if not self._endings.is_ending(run.job_id)]
            self._saver.save_due(training, leaving=self._jobs.handing_back)
            self._endings.settle()
        return self._told()

    def _is_waiting(self) -> bool:
        """Whether some job waits for the disk or the store."""
        jobs = self._jobs
        return bool(jobs.paused or jobs.handing_back or any(self._endings.is_ending(job_id) for job_id in jobs.runs))

    def _admit(self) -> None:
        """Take in waiting jobs, strictly in order: a small job does not overtake a large one that waits for room."""
        while self._jobs.waiting and not self._preempted:
            assignment = self._jobs.waiting[0]
            caught = None
            try:
                with self._preparing():
                    run = self._admission.prepare(assignment)
                    self._saver.prepare(assignment)
                with self._lock:
                    if self._preempted:
                        return
                    if not self._admission.has_room(run.demand, (other.demand for other in self._jobs.runs.values())):
                        self._accounts.charge({assignment.job_id: 1})
                        return
                    self._begin(run, assignment)
            except DeviceLostError:
                raise
            except Exception as error:
                caught = catch(error)
            if caught is not None and caught.is_out_of_memory:
                free_memory(self.device)
            with self._lock:
                if self._preempted:
                    return
                if caught is not None:
                    self._endings.fail(assignment.job_id, caught)
                self._accounts.charge({assignment.job_id: 1})

    def _begin(self, run: JobRun, assignment: Assignment) -> None:
        """Let a prepared job run: from its start, or from its newest good checkpoint."""
        initialise(run.adapter, run.spec.lora, run.spec.training.seed)
        resumed = self._saver.enrol(run, assignment)
        self._admission.take(run.job_id)
        self._jobs.admit(run)
        notes = [*run.data.notes, *base_notes(self.base.structure, run.data)]
        if run.spec.training.gradient_checkpointing and not self.base.can_checkpoint:
            notes.append(
                "gradient_checkpointing saves nothing here: this base has no layers that can be computed again"
            )
        if run.spec.training.optim in QUANTISED_ADAMW:
            notes.append(f"optim: {run.spec.training.optim} trains as adamw_torch: an adapter's states stay fp32")
        for note in notes:
            self._reports.log(run.job_id, note)
        neighbours = len(self._jobs.runs) - 1
        said = (
            f"{run.adapter.num_parameters:,} trainable parameters on {len(run.adapter.targets)} linear layers of "
            f"{self.key}, {run.total_steps} steps; {neighbours} other {'job' if neighbours == 1 else 'jobs'} here"
        )
        if self._dtype_note is not None:
            said += f"; {self._dtype_note}"
        if resumed is None:
            self._reports.state(run.job_id, JobState.RUNNING, "admitted", said)
        else:
            self._reports.add(resumed)
            where = f"resumed at step {run.step}" if resumed.record is not None else "no checkpoint yet, starts over"
            self._reports.state(run.job_id, JobState.RUNNING, "resumed", f"{where}; {said}")

    def _members(self) -> list[Member]:
        """What the jobs want to run in this round; those that want nothing more are finished."""
        members = []
        for run in list(self._jobs.runs.values()):
            if not self._endings.is_training(run.job_id) or run.job_id in self._jobs.handing_back:
                continue
            with self._endings.guard(run):
                work = run.next_work()
                if work is None:
                    self._endings.finish(run)
                    self._accounts.charge({run.job_id: 1})
                else:
                    members.append(Member(run, work))
        return members

    def _take_in(self, taken: Taken) -> None:
        """What a micro-batch gave."""
        run = taken.member.run
        if taken.error is not None:
            self._endings.fail(run.job_id, taken.error)
            return
        with self._endings.guard(run):
            if taken.report is not None:
                self._reports.add(taken.report)
            if isinstance(taken.report, StepReport):
                run.check_finite()

    def _forget(self, job_id: str) -> JobRun | None:
        """Drop what is kept for a job outside of the table, and return its run if it was only prepared."""
        self._runner.forget(job_id)
        self._pack_accounts.forget(job_id)
        return self._admission.take(job_id)

    def _told(self) -> list[Report]:
        """The reports so far, stamped with the attempts that they are of."""
        told = self._reports.take()
        self._accounts.keep_only({*self._jobs.runs, *(assignment.job_id for assignment in self._jobs.waiting)})
        return told

    def status(self) -> WorkerStatus:
        """Where the worker stands."""
        with self._lock:
            is_loaded = self._base is not None
            totals = self._pack_accounts.totals if is_loaded else None
            return WorkerStatus(
                worker_id=self.worker_id,
                base=self.key,
                base_loaded=is_loaded,
                adapters=len(self._jobs.runs),
                waiting=len(self._jobs.waiting),
                evaluating=tuple(run.job_id for run in self._jobs.runs.values() if run.is_evaluating),
                busy_seconds=self._accounts.charged_seconds,
                wall_seconds=time.monotonic() - self._started if self._started is not None else 0.0,
                tokens=totals.tokens if totals is not None else 0,
                counters=self._counters.read(
                    totals, self._accounts.times, num_failed_saves=self._endings.num_failed_saves
                )
                if totals is not None
                else WorkerCounters(),
            )

    def runs(self) -> dict[str, JobRun]:
        """Admitted jobs by id, in order of admission."""
        return dict(self._jobs.runs)
