"""Queues as an operator names them on the command line."""

from __future__ import annotations

import re

from jobs.errors import LoraloomError
from jobs.field_types import NAME_PATTERN
from orchestrator.snapshot import Queue

_FORM = re.compile(rf"(?P<name>{NAME_PATTERN})=(?P<weight>[0-9]+(\.[0-9]+)?)(:(?P<most>[0-9]+))?")


def parse_queue(text: str) -> Queue:
    """`NAME=WEIGHT` or `NAME=WEIGHT:MAX_JOBS`.

    Raises:
        LoraloomError: It is neither.
    """
    found = _FORM.fullmatch(text)
    if found is None or float(found["weight"]) <= 0:
        raise LoraloomError(
            f"--queue {text!r} is not NAME=WEIGHT or NAME=WEIGHT:MAX_JOBS with a weight above 0, such as research=2:8"
        )
    most = found["most"]
    return Queue(name=found["name"], weight=float(found["weight"]), max_jobs=int(most) if most is not None else None)
