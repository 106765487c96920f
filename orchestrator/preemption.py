"""Whom to stop so that a job of higher priority can run.

Only jobs of strictly lower priority stop; the fewest that make room; of as few, those that lose the least work since
their last checkpoints. They are checkpointed and requeued, and never charged.

Nobody is stopped again and again: a job that has made room n times is left alone for the first 10 · 2ⁿ⁻¹ minutes of its
next attempt (a day at most), so that every attempt gets further than the one before. For a job of another queue one
makes room only if its own queue is at least as far ahead of its fair share, for its weight: priority takes from whom
has more, not from whom has less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import comb

from orchestrator.bins import Bin, fits
from orchestrator.decision import (
    Preemption,
    duration,
)
from orchestrator.room import Room
from orchestrator.snapshot import (
    RunningJob,
    WaitingJob,
)

_FIRST_RESPITE_SECONDS = 600.0
_LONGEST_RESPITE_SECONDS = 86_400.0
_MOST_COMBINATIONS = 300
"""Sets of victims that are tried on a worker; beyond, the largest adapters go."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What holds for all preemptions of a decision."""

    now_seconds: float
    token_budget: int
    most_tokens: float
    """Of the micro-batches of a worker's jobs together."""
    ahead: Mapping[str, float] = field(default_factory=dict)
    """Queue -> how far it is ahead of its fair share for its weight (`queueing.Turns.ahead`)."""


def respite_seconds(num_preemptions: int) -> float:
    """How long a job that made room so many times is left alone after it was placed again."""
    if not num_preemptions:
        return 0.0
    return min(_FIRST_RESPITE_SECONDS * 2 ** min(num_preemptions - 1, 30), _LONGEST_RESPITE_SECONDS)


def may_stop(victim: RunningJob, job: WaitingJob, terms: Terms) -> bool:
    """Whether one job may be stopped for another."""
    return (
        victim.priority < job.priority
        and not victim.stopping
        and (victim.queue == job.queue or terms.ahead.get(victim.queue, 0.0) >= terms.ahead.get(job.queue, 0.0))
        and terms.now_seconds - victim.placed_seconds >= respite_seconds(victim.num_preemptions)
    )


def choose(job: WaitingJob, bins: Iterable[Bin], terms: Terms) -> tuple[Bin, Preemption] | None:
    """The victims on one worker, or `None` where stopping nobody would help.

    On a worker with the job's base some jobs make room; one with another base must lose all its jobs, and its device
    gets the job's base.

    Args:
        job: That fits nowhere.
        bins: All workers, as far as the decision has come.
        terms: Of the decision.
    """
    needs = Room().bytes_with(job.base_shape, job.demand, terms.token_budget)
    best: tuple[tuple[int, float, bool, int], Bin, Sequence[RunningJob]] | None = None
    for one in bins:
        worker = one.worker
        if worker is None or one.closed or needs > one.device.memory_bytes:
            continue
        lowest = worker.lowest_priority
        if lowest is None or lowest >= job.priority:
            continue
        same_base = one.base == job.base
        most = best[0][0] if best else len(worker.jobs)
        if same_base:
            victims = _on_worker(job, one, terms, most)
        else:
            victims = _whole_worker(job, one, terms, most)
        if victims:
            key = (len(victims), sum(victim.unsaved_seconds for victim in victims), not same_base, one.index)
            if best is None or key < best[0]:
                best = (key, one, victims)
    if best is None:
        return None
    (_, unsaved, other_base, _), one, victims = best
    who = ", ".join(f"{victim.id} (priority {victim.priority})" for victim in victims[:3])
    more = f" and {len(victims) - 3} more" if len(victims) > 3 else ""
    whose = f"{one.id}'s device gets {job.base}" if other_base else f"{one.id} has the base"
    return one, Preemption(
        job_id=job.id,
        worker_id=one.id,
        victims=tuple(victim.id for victim in victims),
        unsaved_seconds=unsaved,
        reason=(
            f"job {job.id} (priority {job.priority}) needs the place of {who}{more}: {whose}; "
            f"fewest victims, at most {duration(unsaved)} of unsaved work"
        ),
    )


def _on_worker(job: WaitingJob, one: Bin, terms: Terms, most: int) -> Sequence[RunningJob] | None:
    """The fewest victims, at most so many, after which the job fits on this worker."""
    assert one.worker is not None
    eligible = [victim for victim in one.worker.jobs if victim.id not in one.victims and may_stop(victim, job, terms)]
    eligible.sort(key=_loss)

    def enough(victims: Iterable[RunningJob]) -> bool:
        room = one.without({victim.id for victim in victims})
        return fits(room, one.device, job, terms.most_tokens, terms.token_budget)

    if not eligible or not enough(eligible):
        return None
    for number in range(1, min(most, len(eligible)) + 1):
        found = _least(eligible, number, enough)
        if found is not None:
            return found
    return None


def _least(
    eligible: Sequence[RunningJob], number: int, enough: Callable[[Iterable[RunningJob]], bool]
) -> Sequence[RunningJob] | None:
    """So many victims that are enough and lose the least; where there are too many sets to try, the largest."""
    if comb(len(eligible), number) <= _MOST_COMBINATIONS:
        sets = sorted(combinations(eligible, number), key=lambda some: sum(one.unsaved_seconds for one in some))
        return next((some for some in sets if enough(some)), None)
    largest = sorted(eligible, key=lambda one: (-one.demand.adapter_bytes, -one.demand.worst_tokens, _loss(one)))
    some = largest[:number]
    if not enough(some):
        return None
    # Each is replaced by one that loses less, as long as that is still enough.
    for place in range(number):
        for other in eligible:
            if other not in some and other.unsaved_seconds < some[place].unsaved_seconds:
                changed = [*some[:place], other, *some[place + 1 :]]
                if enough(changed):
                    some = changed
                    break
    return some


def _whole_worker(job: WaitingJob, one: Bin, terms: Terms, most: int) -> Sequence[RunningJob] | None:
    """All jobs of a worker with another base."""
    assert one.worker is not None
    left = [victim for victim in one.worker.jobs if not victim.stopping and victim.id not in one.victims]
    if one.kept or not left or len(left) > most:
        return None
    return sorted(left, key=_loss) if all(may_stop(victim, job, terms) for victim in left) else None


def _loss(victim: RunningJob) -> tuple[float, int, float, str]:
    """Least work lost first, then lowest priority, then last come."""
    return (victim.unsaved_seconds, victim.priority, -victim.placed_seconds, victim.id)
