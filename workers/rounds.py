"""One round of a worker: its jobs' micro-batches in packs, and what becomes of a pack that breaks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from jobs.errors import JobError
from jobs.records import EvalReport, StepReport
from workers.batcher import Batcher, Candidate, Kind
from workers.flops import AdapterCost, FlopCount, FlopLoad
from workers.job_run import JobRun
from workers.memory import PackLoad
from workers.memory_fit import MemoryFit
from workers.memory_meter import PeakMeter, free_cached_memory, is_out_of_memory
from workers.pack_runner import Failure, Member, Outcome, PackRunner, Slice, Taken, Wave
from workers.usage import Accounts, Ran


@dataclass
class Totals:
    """What all packs of a worker came to."""

    tokens: int = 0
    """Trained on."""
    label_tokens: int = 0
    """Those among them that have a loss."""
    padding_tokens: int = 0
    steps: int = 0
    pack_tokens: int = 0
    """Of shared packs, also of evaluations."""
    pack_room: int = 0
    """That those packs had."""
    flops: float = 0.0


class Rounds:
    """Packs of the jobs that are here, run one after the other, the first ones measured."""

    def __init__(
        self,
        runner: PackRunner,
        fit: MemoryFit,
        device: torch.device,
        *,
        token_budget: int,
        num_measured: int,
        flops: FlopCount,
        accounts: Accounts,
        is_padded: bool,
        here: Mapping[str, JobRun],
        priorities: Mapping[str, int],
        take_in: Callable[[Taken], None],
        fail: Callable[[str, BaseException], None],
    ) -> None:
        """Run on the lanes of `runner`.

        Args:
            runner: The lanes.
            fit: Takes in what measured packs took.
            device: Whose memory is measured.
            token_budget: Tokens that a pack of several jobs may hold.
            num_measured: First packs whose peak is measured.
            flops: Counts what packs need.
            accounts: Charged with what they take.
            is_padded: Whether rows are brought to one length.
            here: The jobs of the worker by id, in order of admission; a view, never changed from here.
            priorities: Of jobs, where they are not as in their specs; likewise a view.
            take_in: Told of every micro-batch that was run.
            fail: Ends a job, which then is not in `here` any more.
        """
        self.meter = PeakMeter(device)
        self.totals = Totals()
        self._runner = runner
        self._fit = fit
        self._device = device
        self._num_measured = num_measured
        self._flops = flops
        self._accounts = accounts
        self._is_padded = is_padded
        self._costs: dict[str, AdapterCost] = {}
        self._batcher = Batcher(token_budget)
        self._here = here
        self._priorities = priorities
        self._take_in = take_in
        self._fail = fail

    def packs(self, members: Sequence[Member]) -> Iterator[list[Member]]:
        """A round's packs. Those of `exact` jobs hold one job; as many of them as there are lanes run side by side."""
        by_job = {member.run.job_id: member for member in members}
        candidates = [
            Candidate(
                job_id=member.run.job_id,
                tokens=member.work.batch.num_tokens,
                kind=member.work.kind,
                exclusive=member.is_exclusive,
                checkpointing=member.run.spec.training.gradient_checkpointing,
                priority=self._priorities.get(member.run.job_id, member.run.spec.scheduling.priority),
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

    def run(self, pack: list[Member], *, on_one_lane: bool = False) -> None:
        """Run a pack; what breaks is run again in smaller parts, to find out whose fault it is."""
        wave = self._runner.arrange(pack, on_one_lane=on_one_lane)
        load = load_of(pack)
        measured = load is not None and self._is_worth_measuring(load) and self.meter.begin()
        held_bytes = self.meter.held_bytes() if measured else 0
        began = time.monotonic()
        taken, failures = self._runner.run(wave, _hand_over)
        seconds = time.monotonic() - began
        if measured and load is not None and not failures:
            self._fit.observe(load, self.meter.peak_bytes() - held_bytes)
        self._account(pack, wave, taken, seconds, disturbed=bool(measured or failures))
        for one in sorted(taken, key=lambda one: list(self._here).index(one.member.run.job_id)):
            self._take_in(one)
        for failure in failures:
            self._run_again(failure, alone=on_one_lane and len(pack) == 1)

    def _account(
        self, pack: Sequence[Member], wave: Wave, taken: Sequence[Taken], seconds: float, *, disturbed: bool
    ) -> None:
        """Count a pack, and charge its jobs with it; who broke has had the device as well."""
        kind, totals = pack[0].work.kind, self.totals
        padding = _padding(wave) if self._is_padded else {}
        done = [
            Ran(
                job_id=one.member.run.job_id,
                kind=kind,
                tokens=one.member.work.batch.num_tokens,
                labels=one.member.work.batch.num_labels,
                padding=padding.get(one.member.run.job_id, 0),
            )
            for one in taken
        ]
        tokens = {member.run.job_id: member.work.batch.num_tokens for member in pack}
        self._accounts.charge(tokens)
        self._accounts.ran(done)
        self._accounts.times.add(kind, sum(tokens.values()), seconds, disturbed=disturbed)
        if not pack[0].is_exclusive:
            totals.pack_tokens += sum(tokens.values())
            # A micro-batch that is larger than the budget runs by itself, and fills its pack.
            totals.pack_room += max(self._batcher.token_budget, sum(tokens.values()))
        if kind is Kind.TRAIN:
            totals.tokens += sum(one.tokens for one in done)
            totals.label_tokens += sum(one.labels for one in done)
            totals.padding_tokens += sum(one.padding for one in done)
            totals.steps += sum(isinstance(one.report, StepReport) for one in taken)
        if not disturbed or len(taken) == len(pack):
            totals.flops += sum(self._flops.pack(kind, [self._flop_load(piece) for piece in lane]) for lane in wave)

    def _flop_load(self, piece: Slice) -> FlopLoad:
        run, lengths, rows = piece.member.run, _lengths(piece), piece.member.work.batch.rows
        if run.job_id not in self._costs:
            self._costs[run.job_id] = self._flops.adapter(run.adapter.targets)
        return FlopLoad(
            adapter=self._costs[run.job_id],
            tokens=sum(lengths),
            labels=sum(rows[index].num_labels for index in piece.rows),
            squares=sum(length**2 for length in lengths),
        )

    def forget(self, job_id: str) -> None:
        """Drop what is kept for a job."""
        self._costs.pop(job_id, None)

    def _is_worth_measuring(self, load: PackLoad) -> bool:
        """The first packs, and any that is clearly larger than all before."""
        if self._fit.num_observed(checkpointing=load.checkpointing) < self._num_measured:
            return True
        return self._num_measured > 0 and load.tokens > 1.1 * self._fit.largest_observed(
            checkpointing=load.checkpointing
        )

    def _run_again(self, failure: Failure, *, alone: bool) -> None:
        """Out of memory, half of them at a time; else each by itself. On one lane, so that nothing runs beside them.

        What a job had accumulated is thrown away, so it starts its optimizer batch over and runs here until it is past
        the micro-batch that broke: left to the next round, that one would meet the same pack again.
        """
        error, members = failure.error, failure.members
        for member in members:
            member.run.rewind()
        if alone:
            self._fail(members[0].run.job_id, _too_large(error) if is_out_of_memory(error) else error)
            return
        parts = [members[index : index + 1] for index in range(len(members))]
        if is_out_of_memory(error):
            free_cached_memory(self._device)
            middle = len(members) // 2
            parts = [part for part in (members[:middle], members[middle:]) if part]
        for part in parts:
            places = [(member, member.run.step) for member in part]
            while behind := [found for member, step in places if (found := self._still_behind(member, step))]:
                self.run(behind, on_one_lane=True)

    def _still_behind(self, broken: Member, step: int) -> Member | None:
        """What a job is to run next, while that is not beyond the work that broke."""
        run = broken.run
        work = run.next_work() if run.job_id in self._here and run.step == step else None
        if work is None or work.kind is not broken.work.kind or work.micro_batch > broken.work.micro_batch:
            return None
        return Member(run, work)


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


def _padding(wave: Wave) -> dict[str, int]:
    """Positions beyond the ends of each job's rows, which are as long as the longest on their lane."""
    padding: dict[str, int] = {}
    for lane in wave:
        lengths = {piece.member.run.job_id: _lengths(piece) for piece in lane}
        longest = max(max(own) for own in lengths.values())
        for job_id, own in lengths.items():
            padding[job_id] = padding.get(job_id, 0) + len(own) * longest - sum(own)
    return padding


def _lengths(piece: Slice) -> list[int]:
    return [len(piece.member.work.batch.rows[index].ids) for index in piece.rows]


def _hand_over(member: Member, outcome: Outcome) -> StepReport | EvalReport | None:
    if member.work.kind is Kind.TRAIN:
        return member.run.trained(member.work, loss_sum=outcome.loss_sum, seconds=outcome.seconds)
    return member.run.evaluated(member.work, loss_sum=outcome.loss_sum, exact=outcome.exact, seconds=outcome.seconds)


def _too_large(error: BaseException) -> JobError:
    first = str(error).strip().splitlines()[0]
    return JobError(
        "memory",
        f"a micro-batch of this job does not fit even alone ({first}); lower "
        "training.per_device_train_batch_size or training.max_length, or set training.gradient_checkpointing",
    )
