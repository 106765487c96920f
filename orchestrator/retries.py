"""Whether a job that ended badly is tried again, and when. Pure: what happened in, a decision with its reason out.

Attempts that were lost with their machine are never charged; those that ended by an error of the job's own are, and
`job_recovery.max_restarts_on_errors` says how many of them are borne.
"""

from __future__ import annotations

from dataclasses import dataclass

_SURE_TO_REPEAT = frozenset({"nonfinite", "data", "memory", "invalid", "checkpoint"})
"""Reasons that would be the same the next time: the job, its data or its base has to change first."""

MOST_LOST_ALONE = 2
"""Devices that may be lost while a job ran there alone, before it is charged: one may be the device's own fault."""

MOST_FRUITLESS = 5
"""Workers that a job may lose one after the other without a step: after that it is taken to be what kills them."""

LEASE_SECONDS = 60.0
"""A worker that gives no sign of life for so long is taken for lost."""

_FIRST_DELAY_SECONDS = 2.0
_LONGEST_DELAY_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do with the job."""

    again: bool
    delay_seconds: float
    """Before the next try."""
    reason: str
    """A clause for the message."""


def after_error(reason: str, *, num_charged: int, max_restarts: int) -> Decision:
    """After an error of the job's own.

    Args:
        reason: Code of it.
        num_charged: Attempts that ended so, this one included.
        max_restarts: `job_recovery.max_restarts_on_errors`.
    """
    if reason in _SURE_TO_REPEAT:
        return Decision(again=False, delay_seconds=0.0, reason="it would end so again")
    if num_charged > max_restarts:
        return Decision(
            again=False, delay_seconds=0.0, reason=f"job_recovery.max_restarts_on_errors = {max_restarts} are used up"
        )
    delay = delay_seconds(num_charged)
    return Decision(
        again=True, delay_seconds=delay, reason=f"restart {num_charged} of {max_restarts} in {delay:g} seconds"
    )


def after_unavailable(num_tries: int) -> Decision:
    """After a base or data could not be had for a reason that passes: always, for it is nobody's fault.

    Args:
        num_tries: In a row that ended so.
    """
    delay = delay_seconds(num_tries)
    return Decision(again=True, delay_seconds=delay, reason=f"tried again in {delay:g} seconds, uncharged")


def after_loss(num_fruitless: int) -> Decision:
    """After the worker was lost or preempted.

    Args:
        num_fruitless: Losses in a row before which the job took no step; 0 if it did.
    """
    if num_fruitless >= MOST_FRUITLESS:
        return Decision(
            again=False, delay_seconds=0.0, reason=f"{num_fruitless} workers in a row died of it before its first step"
        )
    return Decision(
        again=True,
        delay_seconds=delay_seconds(num_fruitless) if num_fruitless > 1 else 0.0,
        reason="goes on elsewhere from its last checkpoint",
    )


def delay_seconds(number: int) -> float:
    """Before the next try after so many that failed."""
    return min(_FIRST_DELAY_SECONDS * 2 ** (number - 1), _LONGEST_DELAY_SECONDS)
