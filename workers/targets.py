"""Which linears of a base a job puts its factors on, and with what rank and scale."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from jobs.errors import Problem, SpecError
from jobs.spec import LoraSpec


@dataclass(frozen=True, kw_only=True)
class LinearShape:
    """A linear of the base that can carry adapters."""

    in_features: int
    out_features: int
    is_conv1d: bool = False


@dataclass(frozen=True, kw_only=True)
class Target:
    """One job's factors on one linear."""

    in_features: int
    out_features: int
    r: int
    alpha: float
    scale: float
    """What BA is multiplied by: α/r, or α/√r with rsLoRA."""

    @property
    def num_parameters(self) -> int:
        """Scalars in A and B."""
        return self.r * (self.in_features + self.out_features)


def linears(model: PreTrainedModel) -> dict[str, LinearShape]:
    """Every linear of the model by full module name, the output head left out. Works on the meta device too."""
    head = model.get_output_embeddings()
    found = {}
    for name, module in model.named_modules():
        if module is head:
            continue
        if isinstance(module, nn.Linear):
            found[name] = LinearShape(in_features=module.in_features, out_features=module.out_features)
        elif isinstance(module, Conv1D):
            rows, columns = module.weight.shape
            found[name] = LinearShape(in_features=rows, out_features=columns, is_conv1d=True)
    return found


def resolve(
    lora: LoraSpec, shapes: Mapping[str, LinearShape], *, other_modules: Iterable[str] = ()
) -> dict[str, Target]:
    """The job's targets in the base's own module order.

    Args:
        lora: What the job asks for.
        shapes: The base's linears, from `linears`.
        other_modules: Names of modules that exist but cannot carry adapters, for a better message.

    Raises:
        SpecError: Entries that fit nothing (nearest names offered), all of them, or nothing is left to train.
    """
    others = [name for name in other_modules if name not in shapes]
    problems: list[Problem] = []

    def hits(entries: Iterable[str], field: str, among: Mapping[str, LinearShape]) -> set[str]:
        found: set[str] = set()
        for index, entry in enumerate(entries):
            fitting = {name for name in among if matches(name, entry)}
            if not fitting:
                where = f"{field}.{entry}" if field.endswith("pattern") else f"{field}[{index}]"
                problems.append(Problem(message=_no_such_target(entry, among, others), field=where, value=entry))
            found |= fitting
        return found

    everything = isinstance(lora.target_modules, str)
    chosen = set(shapes) if everything else hits(lora.target_modules, "lora.target_modules", shapes)
    chosen -= hits(lora.exclude_modules or (), "lora.exclude_modules", shapes)
    if not chosen and not problems:
        problems.append(Problem(message="leaves no module to train", field="lora.exclude_modules"))
    if not problems:
        kept = {name: shapes[name] for name in shapes if name in chosen}
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
        )
    return targets


def matches(module: str, entry: str) -> bool:
    """PEFT's rule for lists (the whole name, or its end at a dot), with `*`, `?` and `[...]` allowed in the entry."""
    return fnmatchcase(module, entry) or fnmatchcase(module, f"*.{entry}")


def _first_match(module: str, pattern: Mapping[str, float], default: float) -> float:
    return next((value for entry, value in pattern.items() if matches(module, entry)), default)


def _no_such_target(entry: str, shapes: Mapping[str, LinearShape], others: list[str]) -> str:
    if any(matches(name, entry) for name in others):
        if entry.rsplit(".", 1)[-1] in {"lm_head", "embed_tokens", "wte", "embed_out"}:
            return (
                "is the output head or an embedding: it is shared between input and output or between jobs, "
                "so adapters cannot be put on it; leave it out"
            )
        return "is a module of this base but not a linear layer, so it cannot carry an adapter"
    ends = sorted({name.rsplit(".", 1)[-1] for name in shapes})
    near = difflib.get_close_matches(entry.rsplit(".", 1)[-1], ends, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"no linear layer of this base has that name; {hint}its linear layers are called {', '.join(ends[:16])}"
