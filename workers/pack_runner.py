"""Runs packs over the lanes of a base: forward, backward, and each job's own step, one thread a lane."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from jobs.records import EvalReport, StepReport
from workers.adapter import with_gradients_in
from workers.base_model import BaseModel
from workers.batcher import Kind
from workers.caught_error import CaughtError, catch
from workers.job_run import JobRun, Work
from workers.loss import exact_rows, job_sums
from workers.loss_scale import loss_scale
from workers.routing import AdapterFactors, TokenShare
from workers.shares import divide


@dataclass(frozen=True)
class Member:
    """One job's part of a pack."""

    run: JobRun
    work: Work

    @property
    def is_exclusive(self) -> bool:
        """Whether it runs in a forward of its own (`packing: exact`)."""
        return self.run.spec.scheduling.packing == "exact"


@dataclass(frozen=True)
class Slice:
    """Rows of a member that run on one lane."""

    member: Member
    rows: tuple[int, ...]
    """Positions in its micro-batch, ascending."""

    @property
    def is_whole(self) -> bool:
        """Whether no other lane has rows of the member."""
        return len(self.rows) == len(self.member.work.batch.rows)


def _whole(member: Member) -> Slice:
    """All rows of a member."""
    return Slice(member, tuple(range(len(member.work.batch.rows))))


Wave = list[list[Slice]]
"""What runs at one time: for each lane in use, its slices."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a member's rows gave."""

    loss_sum: float
    """Over its label tokens."""
    exact: list[bool]
    """For each row of an evaluation."""
    seconds: float
    """Its share of the device's time: that of its lane, by tokens, over the lanes in use."""


TakeIn = Callable[[Member, Outcome], StepReport | EvalReport | None]
"""Hands a member's results to its job, which may step, and returns what there is to report."""


@dataclass(frozen=True)
class Taken:
    """A member whose results were handed to its job."""

    member: Member
    report: StepReport | EvalReport | None = None
    error: CaughtError | None = None


@dataclass(frozen=True)
class Failure:
    """Members of a lane that broke; what they had accumulated is to be thrown away."""

    members: tuple[Member, ...]
    error: CaughtError


@dataclass
class _LaneRun:
    """What came of one lane."""

    error: CaughtError | None = None
    taken: list[Taken] | None = None
    cut: dict[str, Outcome] | None = None
    """Results of slices that are not whole, by job id."""


class PackRunner:
    """The lanes of one base, and the threads that run them."""

    def __init__(self, base: BaseModel, num_lanes: int, threads_per_lane: int) -> None:
        """One lane runs in the caller's thread; several in threads of their own.

        Args:
            base: Loaded.
            num_lanes: How many packs can run at one time.
            threads_per_lane: That torch uses inside an operation; only set where there are several lanes.
        """
        self._base = base
        self._lanes = base.lanes(num_lanes)
        self._pool = (
            ThreadPoolExecutor(num_lanes, "lane", initializer=torch.set_num_threads, initargs=(threads_per_lane,))
            if num_lanes > 1
            else None
        )
        self._spares: list[Tensor] = []
        """Gradients of slices that run beside their job's main one, all zero between waves."""
        self._spare_factors: dict[tuple[str, int], AdapterFactors] = {}

    @property
    def num_lanes(self) -> int:
        """How many packs can run at one time."""
        return len(self._lanes)

    def arrange(self, members: Sequence[Member], *, on_one_lane: bool = False) -> Wave:
        """Who runs on which lane.

        Members of a shared pack are spread evenly by tokens, some of them cut between their rows. An `exact` member has
        a lane to itself: its numbers do not depend on who runs beside it, nor on how many lanes there are.
        """
        if on_one_lane:
            return [[_whole(member) for member in members]]
        if members[0].is_exclusive:
            return [[_whole(member)] for member in members]
        tokens = [[len(row.ids) for row in member.work.batch.rows] for member in members]
        return [[Slice(members[piece.member], piece.rows) for piece in lane] for lane in divide(tokens, self.num_lanes)]

    def forget(self, job_id: str) -> None:
        """Drop what is kept for a job."""
        for key in [key for key in self._spare_factors if key[0] == job_id]:
            del self._spare_factors[key]

    def run(self, wave: Wave, take_in: TakeIn) -> tuple[list[Taken], list[Failure]]:
        """Run a wave.

        Args:
            wave: Slices by lane.
            take_in: Hands a member's results to its job, which may step. Called on the member's lane, so that jobs of
                different lanes step at the same time.

        Returns:
            What was taken in, in the order of the wave, and the lanes that broke. A member that ran on two lanes, one
            of which broke, is among the failures.
        """
        spares = self._spares_of(wave)
        runs: list[_LaneRun]
        # A lone slice may have all threads for itself; an `exact` one may not, since the bits of sums depend on them.
        alone = len(wave) == 1 and not wave[0][0].member.is_exclusive
        if self._pool is None or alone:
            runs = [self._run_lane(number, wave, spares, take_in) for number in range(len(wave))]
        else:
            lanes = [self._pool.submit(self._run_lane, number, wave, spares, take_in) for number in range(len(wave))]
            runs = [lane.result() for lane in lanes]
        failed = {piece.member.run.job_id for run, lane in zip(runs, wave, strict=True) if run.error for piece in lane}
        taken = [one for run in runs for one in run.taken or ()]
        cut = {member.run.job_id: member for member in _cut_members(wave)}
        for (_, job_id), index in spares.items():
            grads = cut[job_id].run.adapter.grads
            spare = self._spares[index][: grads.numel()]
            if job_id not in failed:
                grads.add_(spare)
            spare.zero_()
        for member in cut.values():
            if member.run.job_id not in failed:
                taken.append(_take(member, _joined(member, wave, runs), take_in))
        failures = [
            Failure(tuple(piece.member for piece in lane), run.error)
            for run, lane in zip(runs, wave, strict=True)
            if run.error
        ]
        return taken, failures

    def _spares_of(self, wave: Wave) -> dict[tuple[int, str], int]:
        """(lane, job id) → which spare takes the gradients of that slice: all but the first slice of a cut member."""
        spares: dict[tuple[int, str], int] = {}
        seen: set[str] = set()
        for number, lane in enumerate(wave):
            for piece in lane:
                if piece.is_whole or piece.member.work.kind is not Kind.TRAIN:
                    continue
                job_id, grads = piece.member.run.job_id, piece.member.run.adapter.grads
                if job_id not in seen:
                    seen.add(job_id)
                    continue
                index = len(spares)
                if index == len(self._spares):
                    self._spares.append(torch.zeros_like(grads))
                elif self._spares[index].numel() < grads.numel():
                    self._spares[index] = torch.zeros_like(grads)
                    self._spare_factors = {key: one for key, one in self._spare_factors.items() if key[1] != index}
                spares[number, job_id] = index
        return spares

    def _run_lane(
        self,
        number: int,
        wave: Wave,
        spares: dict[tuple[int, str], int],
        take_in: TakeIn,
    ) -> _LaneRun:
        pieces = wave[number]
        began = time.monotonic()
        try:
            outcomes = self._forward_backward(number, pieces, spares, began, len(wave))
        except Exception as error:
            return _LaneRun(error=catch(error))
        taken, cut = [], {}
        for piece, outcome in zip(pieces, outcomes, strict=True):
            if piece.is_whole:
                taken.append(_take(piece.member, outcome, take_in))
            else:
                cut[piece.member.run.job_id] = outcome
        return _LaneRun(taken=taken, cut=cut)

    def _forward_backward(
        self, number: int, pieces: Sequence[Slice], spares: dict[tuple[int, str], int], began: float, lanes_in_use: int
    ) -> list[Outcome]:
        lane, lay_out = self._lanes[number], self._base.lay_out
        kind = pieces[0].member.work.kind
        rows, segments, weights, counts = [], [], [], []
        scaled: list[tuple[Tensor, float]] = []
        position = 0
        for piece in pieces:
            run, work = piece.member.run, piece.member.work
            own = [work.batch.rows[index] for index in piece.rows]
            spare = spares.get((number, run.job_id))
            segment = run.segment(
                work,
                position,
                share=None if piece.is_whole else _token_share(piece),
                factors=None if spare is None else self._factors_into(run, spare),
            )
            segments.append(segment)
            position = segment.stop
            rows += own
            weight = 1.0
            if kind is Kind.TRAIN:
                scale = loss_scale(self._base.dtype, run.loss_denominator)
                weight = scale / run.loss_denominator
                if scale != 1.0:
                    grads = run.adapter.grads
                    scaled.append((grads if spare is None else self._spares[spare][: grads.numel()], scale))
            weights += [weight] * len(own)
            counts.append(sum(row.num_labels for row in own))
        if kind is Kind.TRAIN:
            checkpointing = pieces[0].member.run.spec.training.gradient_checkpointing
            # What earlier micro-batches left there is scaled as this one's gradient is; powers of two lose nothing.
            for grads, scale in scaled:
                grads.mul_(scale)
            losses = lane.train(
                rows,
                segments,
                weights,
                lay_out=lay_out,
                checkpointing=checkpointing,
                deterministic=pieces[0].member.is_exclusive,
            )
            for grads, scale in scaled:
                grads.mul_(1.0 / scale)
            exact = iter(())
        else:
            losses = lane.evaluate(rows, segments, lay_out=lay_out)
            exact = iter(exact_rows(losses.hits_N, [row.num_labels for row in rows]))
        sums: list[float] = torch.stack(job_sums(losses.losses_N, counts)).tolist()
        seconds = (time.monotonic() - began) / lanes_in_use
        return [
            Outcome(
                loss_sum=loss_sum,
                exact=[next(exact) for _ in piece.rows] if kind is Kind.EVALUATE else [],
                seconds=seconds * (segment.stop - segment.start) / position,
            )
            for piece, segment, loss_sum in zip(pieces, segments, sums, strict=True)
        ]

    def _factors_into(self, run: JobRun, spare: int) -> AdapterFactors:
        found = self._spare_factors.get((run.job_id, spare))
        if found is None:
            found = with_gradients_in(run.adapter, self._spares[spare])
            self._spare_factors[run.job_id, spare] = found
        return found


def _take(member: Member, outcome: Outcome, take_in: TakeIn) -> Taken:
    try:
        return Taken(member, report=take_in(member, outcome))
    except Exception as error:
        return Taken(member, error=catch(error))


def _cut_members(wave: Wave) -> Iterable[Member]:
    """Each member that runs on several lanes, once."""
    return {piece.member.run.job_id: piece.member for lane in wave for piece in lane if not piece.is_whole}.values()


def _joined(member: Member, wave: Wave, runs: Sequence[_LaneRun]) -> Outcome:
    """One outcome of all slices of a member, its rows back in their order."""
    exact: dict[int, bool] = {}
    loss_sum = seconds = 0.0
    for lane, run in zip(wave, runs, strict=True):
        for piece in lane:
            if piece.member is member:
                outcome = (run.cut or {})[member.run.job_id]
                loss_sum += outcome.loss_sum
                seconds += outcome.seconds
                exact.update(zip(piece.rows, outcome.exact, strict=False))
    return Outcome(loss_sum=loss_sum, exact=[exact[row] for row in sorted(exact)], seconds=seconds)


def _token_share(piece: Slice) -> TokenShare:
    """Which tokens of its micro-batch a slice holds."""
    lengths = [len(row.ids) for row in piece.member.work.batch.rows]
    borders = list(pairwise(np.cumsum([0, *lengths]).tolist()))
    selected = np.concatenate([np.arange(*borders[row]) for row in piece.rows])
    return TokenShare(num_tokens=sum(lengths), selected_t=torch.from_numpy(selected))
