"""One round of a worker: its jobs' micro-batches in packs, and what becomes of a pack that breaks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import torch

from jobs.errors import DeviceLostError, JobError
from jobs.records import EvalReport, StepReport
from workers.batcher import Batcher, Candidate, Kind
from workers.caught_error import CaughtError, catch
from workers.job_table import JobTable
from workers.memory import PackLoad
from workers.memory_fit import MemoryFit
from workers.memory_meter import PeakMeter, free_memory
from workers.pack_accounts import PackAccounts
from workers.pack_runner import Failure, Member, Outcome, PackRunner, Taken


class Rounds:
    """Packs of the jobs that are here, run one after the other, the first ones measured."""

    def __init__(
        self,
        runner: PackRunner,
        fit: MemoryFit,
        device: torch.device,
        accounts: PackAccounts,
        *,
        token_budget: int,
        num_measured: int,
        jobs: JobTable,
        is_training: Callable[[str], bool],
        take_in: Callable[[Taken], None],
        fail: Callable[[str, CaughtError], None],
    ) -> None:
        """Run on the lanes of `runner`.

        Args:
            runner: The lanes.
            fit: Takes in what measured packs took.
            device: Whose memory is measured.
            accounts: Charged with what packs take.
            token_budget: Tokens that a pack of several jobs may hold.
            num_measured: First packs whose peak is measured.
            jobs: Those of the worker; never changed from here.
            is_training: Whether a job is still to run; not one that has ended, is about to end, or waits.
            take_in: Told of every micro-batch that was run.
            fail: Ends a job; at once, or as soon as a save of it is done. Either way it trains no more.
        """
        self.meter = PeakMeter(device)
        self._runner = runner
        self._fit = fit
        self._device = device
        self._accounts = accounts
        self._num_measured = num_measured
        self._batcher = Batcher(token_budget)
        self._jobs = jobs
        self._is_training = is_training
        self._take_in = take_in
        self._fail = fail

    def packs(self, members: Sequence[Member]) -> Iterator[list[Member]]:
        """A round's packs, each of one kind of work: training or evaluation, with or without checkpointing.

        Those of `exact` jobs hold one job; as many of them as there are lanes, and as the token budget has room for,
        run side by side.
        """
        by_job = {member.run.job_id: member for member in members}
        candidates = [
            Candidate(
                job_id=member.run.job_id,
                tokens=member.work.batch.num_tokens,
                kind=member.work.kind,
                exclusive=member.is_exclusive or member.run.job_id in self._jobs.isolated,
                checkpointing=member.run.spec.training.gradient_checkpointing,
                priority=self._jobs.priorities.get(member.run.job_id, member.run.spec.scheduling.priority),
            )
            for member in members
        ]
        waves: dict[tuple[Kind, bool], list[Member]] = {}
        for pack in self._batcher.round(candidates):
            members_of_pack = [by_job[candidate.job_id] for candidate in pack]
            if not members_of_pack[0].is_exclusive:
                yield members_of_pack
                continue
            wave = waves.setdefault((pack[0].kind, pack[0].checkpointing), [])
            if wave and _num_tokens([*wave, *members_of_pack]) > self._batcher.token_budget:
                yield list(wave)
                wave.clear()
            wave += members_of_pack
            if len(wave) == self._runner.num_lanes:
                yield list(wave)
                wave.clear()
        yield from (wave for wave in waves.values() if wave)

    def run(self, pack: list[Member], *, on_one_lane: bool = False) -> None:
        """Run a pack; what breaks is run again in smaller parts, to find out whose fault it is.

        Raises:
            DeviceLostError: The device is lost to this process.
        """
        wave = self._runner.arrange(pack, on_one_lane=on_one_lane)
        load = load_of(pack)
        measured = load is not None and self._is_worth_measuring(load) and self.meter.begin()
        held_bytes = self.meter.held_bytes() if measured else 0
        began = time.monotonic()
        taken, failures = self._runner.run(wave, _hand_over)
        seconds = time.monotonic() - began
        _require_device(pack, taken, failures)
        if measured and load is not None and not failures:
            self._fit.observe(load, self.meter.peak_bytes() - held_bytes)
        self._accounts.add(pack, wave, taken, seconds, disturbed=bool(measured or failures))
        for one in sorted(taken, key=lambda one: list(self._jobs.runs).index(one.member.run.job_id)):
            self._take_in(one)
        for failure in failures:
            self._run_again(failure, alone=on_one_lane and len(pack) == 1)

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
            self._fail(members[0].run.job_id, _too_large(error) if error.is_out_of_memory else error)
            return
        parts = [members[index : index + 1] for index in range(len(members))]
        if error.is_out_of_memory:
            free_memory(self._device)
            middle = len(members) // 2
            parts = [part for part in (members[:middle], members[middle:]) if part]
        for part in parts:
            places = [(member, member.run.step) for member in part]
            while behind := [found for member, step in places if (found := self._still_behind(member, step))]:
                self.run(behind, on_one_lane=True)

    def _still_behind(self, broken: Member, step: int) -> Member | None:
        """What a job is to run next, while that is not beyond the work that broke."""
        run = broken.run
        work = run.next_work() if self._is_training(run.job_id) and run.step == step else None
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


def _num_tokens(members: Sequence[Member]) -> int:
    return sum(member.work.batch.num_tokens for member in members)


def _require_device(pack: Sequence[Member], taken: Sequence[Taken], failures: Sequence[Failure]) -> None:
    """Run nothing again on a device that fails whatever is run on it: each member would seem to be at fault."""
    for one in [*failures, *taken]:
        if one.error is not None and one.error.is_sticky:
            raise DeviceLostError(one.error.summary, suspects=[member.run.job_id for member in pack])


def _hand_over(member: Member, outcome: Outcome) -> StepReport | EvalReport | None:
    if member.work.kind is Kind.TRAIN:
        return member.run.trained(member.work, loss_sum=outcome.loss_sum, seconds=outcome.seconds)
    return member.run.evaluated(member.work, loss_sum=outcome.loss_sum, exact=outcome.exact, seconds=outcome.seconds)


def _too_large(error: CaughtError) -> CaughtError:
    first = error.message.strip().partition("\n")[0]
    return catch(
        JobError(
            "memory",
            f"a micro-batch of this job does not fit even alone ({first}); lower "
            "training.per_device_train_batch_size or training.max_length, or set training.gradient_checkpointing",
        )
    )
