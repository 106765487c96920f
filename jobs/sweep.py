"""The sweep block: one document that stands for many jobs, and its expansion."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BeforeValidator, Field, model_validator

from jobs import field_types as types
from jobs.errors import Problem
from jobs.field_names import resolve
from jobs.field_paths import FieldPath, extended, replaced, shown_path
from jobs.spec import Block, JobSpec

MAX_RUNS = 4096
"""Most jobs that one document, or one file, may stand for."""

SWEEP_LABEL = "sweep"
"""Label with the name of the sweep that a job is of."""
METRIC_LABEL, GOAL_LABEL = "sweep-metric", "sweep-goal"
"""Labels with what its jobs are compared by, and whether to minimize or maximize it; none where it was not stated."""

_MAX_NAME_CHARACTERS = 63
_MAX_BOUND = 1e300
"""Keeps the distance of two bounds, and exp(log(bound)), within the range of a double."""


def _bound(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_MAX_BOUND <= value <= _MAX_BOUND:
        raise ValueError("should be a finite number")
    return value


Bound = Annotated[int | float, BeforeValidator(_bound)]


def _method(value: object) -> object:
    if value == "bayes":
        raise ValueError("not supported yet: write grid or random")
    return value


class SweepMetric(Block):
    """What the runs of a sweep are compared by. Each bears it as labels, `METRIC_LABEL` and `GOAL_LABEL`."""

    name: Literal["eval_loss", "eval_exact_match", "train_loss"] = "eval_loss"
    """Name of the metric."""
    goal: Literal["minimize", "maximize"] | None = None
    """Which way is better; as is natural for the metric where it is not given."""

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """The goal, given or not: a loss is to be low, a share of rows that are right is to be high."""
        return self.goal or ("maximize" if self.name == "eval_exact_match" else "minimize")


class SweepParameter(Block):
    """The values that one field takes: a list of them, or a range to draw from."""

    values: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None
    """The values, in the order they are tried."""
    min: Bound | None = None
    """Least value of a range."""
    max: Bound | None = None
    """Largest value of a range; where both bounds are whole, so are the draws."""
    log: types.Flag = False
    """Draw evenly over the logarithm of the range."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        low, high = self.min, self.max
        if self.values is not None:
            if low is not None or high is not None or self.log:
                raise ValueError("give either values, or min and max (with log if wanted), not both")
            return self
        if low is None or high is None:
            raise ValueError("give values, or both min and max")
        if low >= high:
            raise ValueError("min should be less than max")
        if self.log and low <= 0:
            raise ValueError("log needs a min greater than 0")
        return self

    def draw(self, generator: random.Random) -> Any:
        """One value, each as likely as the others (or, with `log`, each order of magnitude)."""
        if self.values is not None:
            return generator.choice(self.values)
        low, high = self.min, self.max
        assert low is not None
        assert high is not None
        if isinstance(low, int) and isinstance(high, int) and not self.log:
            return generator.randint(low, high)
        if not self.log:
            return generator.uniform(low, high)
        drawn = min(max(math.exp(generator.uniform(math.log(low), math.log(high))), low), high)
        return round(drawn) if isinstance(low, int) and isinstance(high, int) else drawn


class SweepSpec(Block):
    """Many jobs from one document: the fields under `parameters` vary, the rest is the same."""

    method: Annotated[Literal["grid", "random"], BeforeValidator(_method)] = "grid"
    """grid: every combination of values; random: `run_cap` draws, seeded by training.seed and the name."""
    metric: SweepMetric | None = None
    """What the runs are compared by; eval_loss, or train_loss without rows to evaluate on, where it is not given."""
    parameters: Annotated[Mapping[str, SweepParameter], Field(min_length=1)]
    """Dotted field, such as `lora.r`, to the values it takes."""
    run_cap: Annotated[int, Field(strict=True, ge=1, le=MAX_RUNS)] = 256
    """Most jobs that the sweep may become; with random, how many it becomes."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One job of a sweep, as a document that is still to be checked."""

    document: dict[str, Any]
    origins: Mapping[str, str]
    """Field that the sweep has set, to the field of the sweep block that its value comes from."""


def expand(document: Mapping[str, Any], sweep: SweepSpec) -> tuple[Iterator[Variant], list[Problem]]:
    """The documents that a sweep stands for, made one at a time as they are asked for, and what is wrong with it.

    The number of runs is computed, not counted, so a grid of any size is answered at once. Where something is wrong,
    ask for one document at most; it leaves out what cannot be set.

    Args:
        document: the document without its sweep block; its own values are used where the sweep sets none.
        sweep: the validated block.
    """
    paths: dict[str, FieldPath] = {}
    problems = list(_method_problems(sweep))
    for name, parameter in sweep.parameters.items():
        field = extended("sweep.parameters", name)
        try:
            path = resolve(name, JobSpec)
            if path == ("name",):
                raise ValueError("the sweep names its jobs itself: <name>-001 and so on")
            replaced(document, path, None)
            paths[name] = path
        except ValueError as error:
            problems.append(Problem(field=field, message=str(error)))
        if sweep.method == "grid" and parameter.values is None:
            problems.append(Problem(field=field, message="a grid needs values; min and max are for method: random"))
    labels: object = document.get("labels")
    for label in (SWEEP_LABEL, METRIC_LABEL, GOAL_LABEL):
        if isinstance(labels, Mapping) and label in labels:
            message = "this label is set by the sweep itself: leave it out"
            problems.append(Problem(field=f"labels.{label}", message=message))
    return _variants(document, sweep, paths), problems


def num_runs(sweep: SweepSpec) -> int:
    """How many jobs a sweep without problems becomes."""
    if sweep.method == "random":
        return sweep.run_cap
    return math.prod(len(parameter.values or ()) for parameter in sweep.parameters.values())


def _method_problems(sweep: SweepSpec) -> Iterator[Problem]:
    if sweep.method == "random" and "run_cap" not in sweep.model_fields_set:
        yield Problem(field="sweep.run_cap", message="required with method: random: it says how many jobs to draw")
    size = num_runs(sweep)
    if size > sweep.run_cap:
        shown = f"{size:,}" if size < 10**15 else f"about 10^{int(math.log10(size))}"
        yield Problem(
            field="sweep.parameters",
            message=f"a grid of {shown} jobs is above sweep.run_cap, {sweep.run_cap}: take fewer values, raise "
            f"run_cap (at most {MAX_RUNS:,}), or write method: random with the number of jobs as run_cap",
        )


def _variants(document: Mapping[str, Any], sweep: SweepSpec, paths: Mapping[str, FieldPath]) -> Iterator[Variant]:
    name: object = document.get("name")
    num_digits = max(3, len(str(min(num_runs(sweep), MAX_RUNS))))
    for number, chosen in enumerate(_choices(document, sweep), start=1):
        variant = dict(document)
        origins: dict[str, str] = {}
        for parameter, path in paths.items():
            value, origin = chosen[parameter]
            variant = replaced(variant, path, value)
            origins[shown_path(path)] = origin
        # A name that is none is left as it is, for the check of the document to answer it.
        if isinstance(name, str) and re.fullmatch(types.NAME_PATTERN, name):
            suffix = f"-{number:0{num_digits}d}"
            variant["name"] = name[: _MAX_NAME_CHARACTERS - len(suffix)].rstrip("-") + suffix
            variant = replaced(variant, ("labels", SWEEP_LABEL), name)
            if sweep.metric is not None:
                variant = replaced(variant, ("labels", METRIC_LABEL), sweep.metric.name)
                variant = replaced(variant, ("labels", GOAL_LABEL), sweep.metric.direction)
        yield Variant(document=variant, origins=origins)


def _choices(document: Mapping[str, Any], sweep: SweepSpec) -> Iterator[dict[str, tuple[Any, str]]]:
    names = list(sweep.parameters)
    fields = {name: extended("sweep.parameters", name) for name in names}
    if sweep.method == "grid":
        axes = [
            [(value, f"{fields[name]}.values[{index}]") for index, value in enumerate(parameter.values or ())]
            for name, parameter in sweep.parameters.items()
        ]
        for combination in itertools.product(*axes):
            yield dict(zip(names, combination, strict=True))
        return
    training = document.get("training")
    given_seed = cast("Mapping[str, object]", training).get("seed") if isinstance(training, Mapping) else None
    seed = JobSpec.model_fields["training"].get_default().seed if given_seed is None else given_seed
    generator = random.Random(f"{seed}:{document.get('name')}")
    for _ in range(sweep.run_cap):
        yield {name: (parameter.draw(generator), fields[name]) for name, parameter in sweep.parameters.items()}
