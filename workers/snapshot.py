"""All that a job needs to go on from where it stands, held still in memory.

A snapshot shares no memory with the run that it was taken from: training goes on while another thread writes it.
Tensors and plain values are kept apart; the latter become JSON.

Shape suffixes: R rank, I input features, O output features of a linear.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from jobs.checkpoints import CheckpointIdentity, Surroundings
from jobs.records import EvalReport, StepReport


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """One tensor for A and one for B of a module: the factors, or what an optimizer keeps for them."""

    a_RI: Tensor
    b_OR: Tensor


Modules = Mapping[str, Pair]
"""By full module name. Independent of how a worker lays adapters out, which may change between two attempts."""


@dataclass(frozen=True, kw_only=True)
class Accumulation:
    """An optimizer batch that is half done; its gradients are in the snapshot too."""

    micro_batches_done: int
    """At least 1, and fewer than the batch has."""
    loss_sum: float
    """Over the label tokens of those micro-batches."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a job stands, tensors aside."""

    step: int
    """Optimizer steps taken or skipped."""
    total_steps: int
    cursor_epoch: int
    cursor_position: int
    """Rows of that epoch handed out before the optimizer batch in progress: the batch is drawn again on resume."""
    optimizer_steps: int
    """Steps that the optimizer has taken: those that were skipped as not finite do not count."""
    learning_rates: tuple[float, ...]
    """Of each parameter group, for the next step."""
    schedule: Mapping[str, Any]
    """State of the learning rate's schedule, as its `state_dict` gives it: plain values."""
    accumulation: Accumulation | None = None
    nonfinite_in_a_row: int = 0
    evaluated_at: int = -1
    """Step of the last finished evaluation. One that was under way starts over on resume: it changes nothing."""
    first_eval: EvalReport | None = None
    last_eval: EvalReport | None = None
    last_step: StepReport | None = None
    best_metric: float | None = None
    """Lowest loss of all evaluations so far."""
    best_step: int | None = None
    """Its step."""
    tokens: int = 0
    seconds: float = 0.0

    @property
    def micro_batch(self) -> int:
        """Micro-batches done of the next step; 0 between two steps."""
        return self.accumulation.micro_batches_done if self.accumulation is not None else 0


@dataclass(frozen=True, kw_only=True, eq=False)
class JobSnapshot:
    """One job at one instant."""

    identity: CheckpointIdentity
    surroundings: Surroundings
    peft_config: Mapping[str, Any]
    """The adapter's `adapter_config.json`: `workers.checkpoint.peft_config` makes it."""
    factors: Modules
    moments: Mapping[str, Modules]
    """By torch.optim's names, `exp_avg` and `exp_avg_sq`; empty for plain SGD."""
    gradients: Modules | None
    """Of the optimizer batch in progress, not yet clipped; `None` between two steps."""
    standing: Standing

    def __post_init__(self) -> None:
        """Refuse what could not be gone on from.

        Raises:
            ValueError: Parts that do not fit each other.
        """
        if (self.gradients is None) != (self.standing.accumulation is None):
            raise ValueError("gradients and standing.accumulation come together: both for a half-done batch, or none")

    def require_alike(self) -> None:
        """Refuse moments and gradients that are not of the factors' modules, shapes and dtypes.

        Raises:
            ValueError: They are not; says which.
        """
        for part, modules in self._companions():
            if modules.keys() != self.factors.keys():
                raise ValueError(f"{part} are of other modules than the factors")
            for name, pair in modules.items():
                mine = self.factors[name]
                for tensor, like in ((pair.a_RI, mine.a_RI), (pair.b_OR, mine.b_OR)):
                    if tensor.shape != like.shape or tensor.dtype != like.dtype:
                        raise ValueError(
                            f"{part} of {name} are {tuple(tensor.shape)} {tensor.dtype}, its factor is "
                            f"{tuple(like.shape)} {like.dtype}"
                        )

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors."""
        parts = [self.factors, *(modules for _, modules in self._companions())]
        return sum(tensor.nbytes for modules in parts for tensor in tensors(modules))

    def _companions(self) -> Iterator[tuple[str, Modules]]:
        yield from self.moments.items()
        if self.gradients is not None:
            yield "gradients", self.gradients


def tensors(modules: Modules) -> Iterator[Tensor]:
    """All tensors, A before B."""
    for pair in modules.values():
        yield pair.a_RI
        yield pair.b_OR


def to_json(standing: Standing) -> dict[str, Any]:
    """Plain values only. Floats come back bit for bit; those that JSON does not have are written as objects."""
    return _encoded(asdict(standing))


def from_json(content: Mapping[str, Any]) -> Standing:
    """The inverse of `to_json`.

    Raises:
        TypeError: Fields of another version.
    """
    values = _decoded(dict(content))
    for name, kind in (
        ("accumulation", Accumulation),
        ("first_eval", EvalReport),
        ("last_eval", EvalReport),
        ("last_step", StepReport),
    ):
        if values.get(name) is not None:
            values[name] = kind(**values[name])
    return Standing(**{**values, "learning_rates": tuple(values["learning_rates"])})


_NOT_FINITE = "not_finite"


def _encoded(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {_NOT_FINITE: str(value)}
    if isinstance(value, Mapping):
        return {key: _encoded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(item) for item in value]
    return value


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_NOT_FINITE}:
            return float(value[_NOT_FINITE])
        return {key: _decoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return value
