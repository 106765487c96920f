"""Which linears of a base a job puts its factors on, and with what rank and scale."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jobs.errors import Problem, SpecError
from jobs.spec import LoraSpec
from workers.structure import Structure
from workers.target_names import matches, no_such_target, not_excluded


@dataclass(frozen=True, kw_only=True)
class Target:
    """One job's factors on one linear."""

    in_features: int
    out_features: int
    r: int
    alpha: float
    scale: float
    """What BA is multiplied by: α/r, or α/√r with rsLoRA."""
    is_head: bool = False
    """The output head, which runs over label tokens only and outside the model's layers."""

    @property
    def num_parameters(self) -> int:
        """Scalars in A and B."""
        return self.r * (self.in_features + self.out_features)


def resolve(lora: LoraSpec, structure: Structure) -> dict[str, Target]:
    """The job's targets in the base's own module order, the output head last; `all-linear` leaves the head out.

    Raises:
        SpecError: Entries that fit nothing (nearest names offered), all of them, or nothing is left to train.
    """
    shapes = structure.adaptable
    problems: list[Problem] = []

    def hits(entries: Iterable[str], field: str, among: Iterable[str]) -> set[str]:
        found: set[str] = set()
        names = list(among)
        for index, entry in enumerate(entries):
            fitting = {name for name in names if matches(name, entry)}
            if not fitting:
                where = f"{field}.{entry}" if field.endswith("pattern") else f"{field}[{index}]"
                message = no_such_target(entry, structure)
                problems.append(Problem(message=message, field=where, value=entry))
            found |= fitting
        return found

    everything = isinstance(lora.target_modules, str)
    chosen = set(structure.shapes) if everything else hits(lora.target_modules, "lora.target_modules", shapes)
    for index, entry in enumerate(lora.exclude_modules or ()):
        fitting = {name for name in shapes if matches(name, entry)}
        chosen -= fitting
        if not fitting and (message := not_excluded(entry, structure)):
            problems.append(Problem(message=message, field=f"lora.exclude_modules[{index}]", value=entry))
    if not chosen and not problems:
        problems.append(Problem(message="leaves no module to train", field="lora.exclude_modules"))
    if not problems:
        kept = [name for name in shapes if name in chosen]
        hits(lora.rank_pattern, "lora.rank_pattern", kept)
        hits(lora.alpha_pattern, "lora.alpha_pattern", kept)
    if problems:
        raise SpecError(problems)
    targets = {}
    for name, shape in shapes.items():
        if name not in chosen:
            continue
        r = _first_match(name, lora.rank_pattern, lora.r)
        alpha = _first_match(name, lora.alpha_pattern, lora.lora_alpha)
        targets[name] = Target(
            in_features=shape.in_features,
            out_features=shape.out_features,
            r=int(r),
            alpha=float(alpha),
            scale=alpha / math.sqrt(r) if lora.use_rslora else alpha / r,
            is_head=name == structure.head,
        )
    return targets


def _first_match(module: str, pattern: Mapping[str, float], default: float) -> float:
    return next((value for entry, value in pattern.items() if matches(module, entry)), default)
