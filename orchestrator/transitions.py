"""Which states a job may go to from where it is."""

from __future__ import annotations

from jobs.errors import LoraloomError
from jobs.records import ALLOWED_TRANSITIONS, Job, JobState


class TransitionError(LoraloomError):
    """A job was to change to a state that does not follow from the one it is in. It concerns that job alone."""


def require_transition(job: Job, state: JobState) -> None:
    """Refuse a change of state that cannot be.

    Raises:
        TransitionError: It does not follow; nothing has changed.
    """
    if state not in ALLOWED_TRANSITIONS[job.state]:
        raise TransitionError(f"job {job.id} is {job.state} and cannot become {state}")
