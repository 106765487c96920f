"""Queues, resources and labels as an operator names them on the command line."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import suppress

import typer

from jobs.field_types import NAME_PATTERN
from orchestrator.snapshot import Queue

_QUEUE = re.compile(rf"(?P<name>{NAME_PATTERN})=(?P<weight>[0-9]+(\.[0-9]+)?)(:(?P<most>[0-9]+))?")


def parse_queues(texts: Sequence[str]) -> tuple[Queue, ...]:
    """`NAME=WEIGHT` or `NAME=WEIGHT:MAX_JOBS`, each name once.

    Raises:
        typer.BadParameter: One is neither.
    """
    queues: dict[str, Queue] = {}
    for text in texts:
        found = _QUEUE.fullmatch(text)
        if found is None or float(found["weight"]) <= 0:
            what = "NAME=WEIGHT or NAME=WEIGHT:MAX_JOBS with a weight above 0, such as research=2:8"
            raise typer.BadParameter(f"{text!r} is not {what}", param_hint="--queue")
        most = found["most"]
        queue = Queue(name=found["name"], weight=float(found["weight"]), max_jobs=int(most) if most else None)
        if queue.name in queues:
            raise typer.BadParameter(f"{queue.name!r} is named twice", param_hint="--queue")
        queues[queue.name] = queue
    return tuple(queues.values())


def parse_resources(texts: Sequence[str]) -> dict[str, float]:
    """`NAME=AMOUNT` of Ray's own names, each once; CPUs and GPUs have options of their own.

    Raises:
        typer.BadParameter: One is not, or is of no amount.
    """
    resources: dict[str, float] = {}
    for name, value in _pairs(texts, option="--worker-resource", example="disk=1").items():
        amount = math.nan
        with suppress(ValueError):
            amount = float(value)
        if not 0 < amount < math.inf:
            raise typer.BadParameter(f"{name}={value}: the amount is not above 0", param_hint="--worker-resource")
        if name in ("CPU", "GPU"):
            raise typer.BadParameter(f"{name} is what --worker-{name.lower()}s says", param_hint="--worker-resource")
        resources[name] = amount
    return resources


def parse_labels(texts: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE`, each key once.

    Raises:
        typer.BadParameter: One is not.
    """
    return _pairs(texts, option="--node-label", example="market-type=spot")


def _pairs(texts: Sequence[str], *, option: str, example: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise typer.BadParameter(f"{text!r} is not like {example}", param_hint=option)
        if name in pairs:
            raise typer.BadParameter(f"{name!r} is named twice", param_hint=option)
        pairs[name] = value
    return pairs
