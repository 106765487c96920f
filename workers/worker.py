"""A worker: one frozen base on one device, and the jobs that train on it together.

Single-threaded and without a clock in any decision: what runs with what is a function of the jobs and of the order in
which they came. Whoever owns a worker calls `step()` again and again and passes on the reports.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from jobs.checkpoints import DiskFullError
from jobs.errors import JobError, LoraloomError
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
    WorkerStatus,
)
from jobs.spec import JobSpec
from workers import artifact
from workers.adapter import allocate, dtype_for, initialise
from workers.base_model import BaseModel, load_tokenizer
from workers.batcher import Batcher, Candidate, Kind
from workers.dataset import JobData, load_job_data
from workers.job_run import JobRun
from workers.memory import MAX_TOKEN_BUDGET, BaseShape, Demand, PackLoad, demand, without_chunks, worker_bytes
from workers.memory_fit import MemoryFit
from workers.memory_meter import PeakMeter, device_bytes, free_cached_memory, is_out_of_memory
from workers.pack_runner import Failure, Member, Outcome, PackRunner, Taken
from workers.saving import JobSaver, Saved, surroundings
from workers.stacks import AdapterStacks
from workers.targets import resolve

_IDLE_SECONDS = 0.1
"""Between two looks for room on the disk while every job waits for it."""

MAX_LANES = 8
"""Lanes share Python's interpreter lock, which is held for some percent of a lane's time."""


def load_tokenised(spec: JobSpec, key: BaseKey) -> JobData:
    """A job's rows, tokenised by the base's own tokenizer.

    Raises:
        BaseModelError: The base has no usable tokenizer.
        DataError: The rows cannot be used.
    """
    return load_job_data(spec, load_tokenizer(spec.model, key))


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """What the owner of a worker decides. No default depends on the machine: `capacity_bytes` is measured if `None`."""

    staging_dir: Path
    """Finished artifacts are written below it, for the scheduler to publish."""
    checkpoints_dir: Path | None = None
    """A folder a job is made below it; `None` saves nothing."""
    token_budget: int = MAX_TOKEN_BUDGET
    """Tokens that a pack of several jobs may hold."""
    capacity_bytes: int | None = None
    """Memory the worker may use, base included; measured once the base is loaded if `None`."""
    grouped: bool | None = None
    """Adapters of one layout side by side in stacks, for grouped products; on a GPU, and not on a CPU, if `None`."""
    num_measured_packs: int = 8
    """First packs whose peak memory is measured, at the cost of some tenths of a second each; 0 measures none ever."""
    num_lanes: int | None = None
    """Packs that run at one time; on a CPU one for each of torch's threads if `None`, on a GPU one."""


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
        load_data: Callable[[JobSpec, BaseKey], JobData] = load_tokenised,
    ) -> None:
        self.worker_id = worker_id
        self.key = key
        self.settings = settings
        self.device = torch.device(device)
        self._load_base = load_base
        self._load_data = load_data
        self._base: BaseModel | None = None
        self._shape: BaseShape | None = None
        self._capacity_bytes = settings.capacity_bytes or 0
        self._waiting: deque[Assignment] = deque()
        self._prepared: dict[str, JobRun] = {}
        self._runs: dict[str, JobRun] = {}
        self._attempts: dict[str, int] = {}
        self._reports: list[Report] = []
        self._started: float | None = None
        self._busy_seconds = 0.0
        self._tokens = 0
        self._batcher = Batcher(settings.token_budget)
        self._meter = PeakMeter(self.device)
        self._loaded_bytes = 0
        self._boundary = threading.Lock()
        """Held while jobs are not between two micro-batches; not while a base is loaded or rows are tokenised."""
        self._preempted = False
        self.is_preparing = False
        """While the base is loaded or rows are tokenised, which takes long and can be broken off without loss."""
        self._last_sign = time.monotonic()
        self._paused: set[str] = set()

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
        with self._preparing():
            base = self._load_base(self.key, self.device)
        self._base = base
        self._runner = self._make_runner(base)
        grouped = self.device.type == "cuda" if self.settings.grouped is None else self.settings.grouped
        self._stacks = AdapterStacks(base.groups, dtype_for(base.dtype), self.device) if grouped else None
        parameters = list(base.model.parameters())
        self._shape = BaseShape.of(
            base.shapes,
            sum(parameter.numel() for parameter in parameters),
            parameters[0].dtype.itemsize,
            base.vocab_size,
        )
        if not base.has_plain_head:
            self._shape = without_chunks(self._shape)
        self._fit = MemoryFit(self._shape)
        self._loaded_bytes = self._meter.held_bytes()
        if self.settings.capacity_bytes is None:
            # Free memory is what is left beside the base, which is loaded by now.
            self._capacity_bytes = self._shape.base_bytes + int(0.9 * device_bytes(self.device))
        self._saver = JobSaver(
            self.settings.checkpoints_dir, self.key, base, surroundings(self.device, self._lane_threads)
        )
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
            self._waiting.append(assignment)

    def release(self, job_id: str) -> bool:
        """Drop a job at a step boundary, whatever its state; its neighbours are not touched.

        Returns:
            Whether the worker had it.
        """
        waiting = [assignment for assignment in self._waiting if assignment.job_id != job_id]
        had = len(waiting) < len(self._waiting) or job_id in self._runs
        self._waiting = deque(waiting)
        run = self._runs.pop(job_id, None) or self._prepared.pop(job_id, None)
        if run is not None:
            self._runner.forget(job_id)
            self._saver.forget(job_id)
            if run.adapter.factors.slot is not None:
                run.adapter.factors.slot.give_back()
        self._paused.discard(job_id)
        return had

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
            return self._told()

    def step(self) -> list[Report]:
        """One round: admit what fits, run one micro-batch of every job, finish what is done.

        Returns:
            What happened, in order. Errors of a job end that job and are reported, never raised.
        """
        began = self._last_sign = time.monotonic()
        self._admit()
        with self._boundary:
            members = self._members() if not self._preempted else []
        for pack in self._packs(members):
            with self._boundary:
                if self._preempted:
                    break
                self._run_pack(pack)
            self._last_sign = time.monotonic()
        self._busy_seconds += time.monotonic() - began
        with self._boundary:
            if not self._preempted:
                self._saver.save_due(list(self._runs.values()))
                # With nothing to run, the disk is what there is to wait for.
                self._take_saved(self._saver.collect())
            told = self._told()
        if self._paused and not members:
            time.sleep(_IDLE_SECONDS)
        return told

    def _members(self) -> list[Member]:
        """What the jobs want to run in this round; those that want nothing more are finished."""
        members = []
        for run in list(self._runs.values()):
            if self._saver.is_held(run.job_id):
                continue
            with self._guard(run):
                work = run.next_work()
                if work is None:
                    self._finish(run)
                else:
                    members.append(Member(run, work))
        return members

    def _told(self) -> list[Report]:
        """The reports so far, stamped with the attempts that they are of."""
        reports, self._reports = self._reports, []
        return [
            one if isinstance(one, CheckpointReport) else replace(one, attempt=self._attempts[one.job_id])
            for one in reports
        ]

    def status(self) -> WorkerStatus:
        """Where the worker stands."""
        return WorkerStatus(
            worker_id=self.worker_id,
            base=self.key,
            base_loaded=self._base is not None,
            adapters=len(self._runs),
            waiting=len(self._waiting),
            evaluating=tuple(run.job_id for run in self._runs.values() if run.is_evaluating),
            busy_seconds=self._busy_seconds,
            wall_seconds=time.monotonic() - self._started if self._started is not None else 0.0,
            tokens=self._tokens,
        )

    def runs(self) -> dict[str, JobRun]:
        """Admitted jobs by id, in order of admission."""
        return dict(self._runs)

    def _admit(self) -> None:
        """Take in waiting jobs, strictly in order: a small job does not overtake a large one that waits for room."""
        while self._waiting:
            assignment = self._waiting[0]
            try:
                run = self._prepare(assignment)
                if not self._fits([run.demand]):
                    raise JobError("memory", self._too_large(run.demand))
                if not self._fits([run.demand, *(other.demand for other in self._runs.values())]):
                    return
                with self._boundary:
                    if self._preempted:
                        return
                    self._begin(run, assignment)
            except Exception as error:
                self._fail(assignment.job_id, error)

    def _begin(self, run: JobRun, assignment: Assignment) -> None:
        """Let a prepared job run: from its start, or from its newest good checkpoint."""
        initialise(run.adapter, run.spec.lora, run.spec.training.seed)
        resumed = self._saver.enrol(run, assignment)
        self._waiting.popleft()
        self._prepared.pop(run.job_id)
        self._runs[run.job_id] = run
        notes = [*run.data.notes]
        if run.spec.training.gradient_checkpointing and not self.base.can_checkpoint:
            notes.append(
                "gradient_checkpointing saves nothing here: this base has no layers that can be computed again"
            )
        self._reports += [LogReport(job_id=run.job_id, message=note) for note in notes]
        neighbours = len(self._runs) - 1
        said = (
            f"{run.adapter.num_parameters:,} trainable parameters on {len(run.adapter.targets)} linear layers of "
            f"{self.key}, {run.total_steps} steps; {neighbours} other {'job' if neighbours == 1 else 'jobs'} here"
        )
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
                self._reports.append(CheckpointReport(record=one.record))
            elif self._preempted:
                self._reports.append(LogReport(job_id=one.job_id, message=f"could not be saved: {one.error}"))
            elif one.error is not None:
                self._fail(one.job_id, one.error)
        for job_id in [one for one in self._paused if not self._saver.is_held(one)]:
            self._paused.discard(job_id)
            self._state(job_id, JobState.RUNNING, "room", "there is room on the disk again, the job goes on")

    def _prepare(self, assignment: Assignment) -> JobRun:
        """Tokenise and allocate; kept while the job waits for room, so that it is done once."""
        if prepared := self._prepared.get(assignment.job_id):
            return prepared
        spec = assignment.spec
        targets = resolve(spec.lora, self.base.shapes, other_modules=self.base.module_names)
        with self._preparing():
            data = self._load_data(spec, self.key)
        dtype = dtype_for(self.base.dtype)
        needs = demand(spec, data, targets, dtype.itemsize)
        adapter = self._stacks.allocate(targets) if self._stacks is not None else None
        if adapter is None:
            adapter = allocate(targets, dtype=dtype, device=self.device, groups=self.base.groups)
        run = JobRun(job_id=assignment.job_id, spec=spec, data=data, adapter=adapter, demand=needs)
        self._prepared[assignment.job_id] = run
        return run

    def _fits(self, demands: Sequence[Demand]) -> bool:
        return self._bytes_with(demands) <= self._capacity_bytes

    def _bytes_with(self, demands: Sequence[Demand]) -> int:
        assert self._shape is not None
        return worker_bytes(self._shape, demands, self.settings.token_budget, self._fit.bound)

    @staticmethod
    def _too_large_to_run(error: Exception) -> JobError:
        first = str(error).strip().splitlines()[0]
        return JobError(
            "memory",
            f"a micro-batch of this job does not fit even alone ({first}); lower "
            "training.per_device_train_batch_size or training.max_length, or set training.gradient_checkpointing",
        )

    def _too_large(self, needs: Demand) -> str:
        assert self._shape is not None
        predicted = self._bytes_with([needs])
        return (
            f"does not fit on {self.worker_id} even alone: needs about {predicted / 2**30:.2f} GiB "
            f"(base {self._shape.base_bytes / 2**30:.2f}, adapter {needs.adapter_bytes / 2**30:.2f}, a micro-batch of "
            f"{needs.worst_tokens} tokens) of {self._capacity_bytes / 2**30:.2f} GiB; lower "
            "training.per_device_train_batch_size, training.max_length or lora.r"
        )

    def _packs(self, members: Sequence[Member]) -> Iterator[list[Member]]:
        """A round's packs. Those of `exact` jobs hold one job; as many of them as there are lanes run side by side."""
        by_job = {member.run.job_id: member for member in members}
        candidates = [
            Candidate(
                job_id=member.run.job_id,
                tokens=member.work.batch.num_tokens,
                kind=member.work.kind,
                exclusive=member.is_exclusive,
                checkpointing=member.run.spec.training.gradient_checkpointing,
                priority=member.run.spec.scheduling.priority,
            )
            for member in members
        ]
        side_by_side: list[Member] = []
        for pack in self._batcher.round(candidates):
            if not pack[0].exclusive:
                yield [by_job[candidate.job_id] for candidate in pack]
                continue
            side_by_side.append(by_job[pack[0].job_id])
            if len(side_by_side) == self._runner.num_lanes:
                yield side_by_side
                side_by_side = []
        if side_by_side:
            yield side_by_side

    def _run_pack(self, pack: list[Member], *, on_one_lane: bool = False) -> None:
        """Run a pack; what breaks is run again in smaller parts, to find out whose fault it is."""
        wave = self._runner.arrange(pack, on_one_lane=on_one_lane)
        load = load_of(pack)
        measured = load is not None and self._is_worth_measuring(load) and self._meter.begin()
        held_bytes = self._meter.held_bytes() - _moment_bytes(pack) if measured else 0
        taken, failures = self._runner.run(wave, self._take_in)
        if measured and load is not None and not failures:
            # A job's first step makes its moments, which are the adapter's and not the pack's.
            self._fit.observe(load, self._meter.peak_bytes() - held_bytes - _moment_bytes(pack))
        self._tokens += sum(member.work.batch.num_tokens for member in pack if member.work.kind is Kind.TRAIN)
        for one in sorted(taken, key=lambda one: list(self._runs).index(one.member.run.job_id)):
            self._report(one)
        for failure in failures:
            alone = on_one_lane and len(pack) == 1
            self._run_again(failure, alone=alone)

    def _is_worth_measuring(self, load: PackLoad) -> bool:
        """The first packs, and any that is clearly larger than all before."""
        if self._fit.num_observed(checkpointing=load.checkpointing) < self.settings.num_measured_packs:
            return True
        largest = self._fit.largest_observed(checkpointing=load.checkpointing)
        return self.settings.num_measured_packs > 0 and load.tokens > 1.1 * largest

    def _run_again(self, failure: Failure, *, alone: bool) -> None:
        """Out of memory, half of them at a time; else each by itself. On one lane, so that nothing runs beside them.

        What a job had accumulated is thrown away, so it starts its optimizer batch over and runs here until it is past
        the micro-batch that broke: left to the next round, that one would meet the same pack again.
        """
        error, members = failure.error, failure.members
        for member in members:
            member.run.rewind()
        if alone:
            run = members[0].run
            self._fail(run.job_id, self._too_large_to_run(error) if is_out_of_memory(error) else error)
            return
        parts = [members[index : index + 1] for index in range(len(members))]
        if is_out_of_memory(error):
            free_cached_memory(self.device)
            middle = len(members) // 2
            parts = [part for part in (members[:middle], members[middle:]) if part]
        for part in parts:
            places = [(member, member.run.step) for member in part]
            while behind := [found for member, step in places if (found := self._still_behind(member, step))]:
                self._run_pack(behind, on_one_lane=True)

    def _still_behind(self, broken: Member, step: int) -> Member | None:
        """What a job is to run next, while that is not beyond the work that broke."""
        run = broken.run
        work = run.next_work() if run.job_id in self._runs and run.step == step else None
        if work is None or work.kind is not broken.work.kind or work.micro_batch > broken.work.micro_batch:
            return None
        return Member(run, work)

    def _report(self, taken: Taken) -> None:
        run = taken.member.run
        with self._guard(run):
            if taken.error is not None:
                raise taken.error
            if taken.report is not None:
                self._reports.append(taken.report)
            if isinstance(taken.report, StepReport):
                run.check_finite()

    @staticmethod
    def _take_in(member: Member, outcome: Outcome) -> StepReport | EvalReport | None:
        if member.work.kind is Kind.TRAIN:
            return member.run.trained(member.work, loss_sum=outcome.loss_sum, seconds=outcome.seconds)
        return member.run.evaluated(
            member.work, loss_sum=outcome.loss_sum, exact=outcome.exact, seconds=outcome.seconds
        )

    def _finish(self, run: JobRun) -> None:
        """Write the artifact and let the job go."""
        source = artifact.Provenance(
            job_id=run.job_id,
            spec=run.spec,
            base=self.key,
            base_fingerprint=self.base.fingerprint,
            train_fingerprint=run.data.train.fingerprint,
            eval_fingerprint=run.data.evaluation.fingerprint if run.data.evaluation is not None else None,
            num_threads=torch.get_num_threads(),
            last_step=run.last_step,
            first_eval=run.first_eval,
            last_eval=run.last_eval,
        )
        folder = self.settings.staging_dir / run.job_id
        artifact.export(run.adapter, self.base.shapes, source, folder)
        self._take_saved(self._saver.collect(run.job_id, wait=True))
        self.release(run.job_id)
        self._state(run.job_id, JobState.SUCCEEDED, "finished", f"all {run.total_steps} steps done", staged=str(folder))

    def _fail(self, job_id: str, error: BaseException) -> None:
        """End one job with a reason; its neighbours go on. For want of room on the disk it is only held."""
        if job_id in self._runs:
            self._take_saved(self._saver.collect(job_id, wait=True))
            if isinstance(error, DiskFullError) and self._saver.hold(job_id, error):
                if job_id not in self._paused:
                    self._paused.add(job_id)
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


def load_of(pack: Sequence[Member]) -> PackLoad | None:
    """What a training pack's memory depends on; an evaluation keeps little and says nothing of training."""
    if pack[0].work.kind is not Kind.TRAIN:
        return None
    lengths = [len(row.ids) for member in pack for row in member.work.batch.rows]
    return PackLoad(
        tokens=sum(lengths),
        labels=sum(member.work.batch.num_labels for member in pack),
        squares=sum(length**2 for length in lengths),
        checkpointing=pack[0].run.spec.training.gradient_checkpointing,
    )


def _moment_bytes(pack: Sequence[Member]) -> int:
    """Bytes of the moments that the optimizers of a pack's jobs hold now."""
    return sum(moment.nbytes for member in pack for moment in member.run.optimizer.state.moments.values())
