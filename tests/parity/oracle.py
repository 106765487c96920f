"""The slow oracle: PEFT, torch.optim and transformers' schedules, one job at a time, on padded batches.

Nothing here comes from `workers` but the order of the rows, and the dropout masks where a job has dropout: masks are
random draws and not arithmetic, so they are given to PEFT, which applies them by its own formula.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel, get_scheduler
from transformers.pytorch_utils import Conv1D

from jobs.spec import JobSpec
from tests.models import Trained, Weights
from workers.cursor import Cursor
from workers.dataset import Row, TokenisedRows
from workers.lora import DropoutDraw


@dataclass(frozen=True, kw_only=True)
class OracleRun:
    """What PEFT makes of one job."""

    losses: list[float]
    grad_norms: list[float]
    learning_rates: list[float]
    final: Weights


def train_alone(
    model: PreTrainedModel,
    spec: JobSpec,
    rows: TokenisedRows,
    initial: Weights,
    *,
    num_steps: int,
    row_by_row: bool = False,
) -> OracleRun:
    """Train one job in PEFT.

    Args:
        model: A bare base; a copy of it is trained on.
        spec: The job.
        rows: Its rows.
        initial: The factors to start from.
        num_steps: The schedule's length, and the steps taken.
        row_by_row: Each row in a forward of its own, without padding: the same sums, rounded otherwise.
    """
    peft_model = get_peft_model(copy.deepcopy(model), _config(spec, model))
    layers = {name: one for name, one in peft_model.base_model.model.named_modules() if isinstance(one, LoraLayer)}
    assert set(layers) == set(initial), "the job's targets are not those that PEFT would choose"
    for name, (a_RI, b_OR) in initial.items():
        for factor, start in ((layers[name].lora_A, a_RI), (layers[name].lora_B, b_OR)):
            factor["default"].weight.data.copy_(start)
            assert factor["default"].weight.dtype == start.dtype
    peft_model.train()
    given = _give_masks(layers, spec.lora.lora_dropout) if spec.lora.lora_dropout else []
    parameters = [parameter for parameter in peft_model.parameters() if parameter.requires_grad]
    training = spec.training
    optimizer = _optimizer(parameters, spec)
    warmup = training.warmup_steps
    schedule = get_scheduler(
        training.lr_scheduler_type,
        optimizer,
        num_warmup_steps=math.ceil(warmup * num_steps) if warmup < 1 else int(warmup),
        num_training_steps=num_steps,
    )
    cursor = Cursor(num_rows=len(rows), training=training)
    losses, norms, rates = [], [], []
    for step in range(num_steps):
        batches = [[rows[position] for position in positions] for positions in cursor.next_batch()]
        num_labels = sum(int(row.labelled.sum()) for batch in batches for row in batch)
        total = 0.0
        for micro_batch, batch in enumerate(batches):
            for module in given:
                module.begin(
                    DropoutDraw(
                        probability=spec.lora.lora_dropout, seed=training.seed, step=step, micro_batch=micro_batch
                    ),
                    num_tokens=sum(len(row.ids) for row in batch),
                )
            for rows_together in [[row] for row in batch] if row_by_row else [batch]:
                loss_sum = _loss_sum(peft_model, rows_together, given)
                (loss_sum / num_labels).backward()
                total += float(loss_sum.detach())
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, training.max_grad_norm or math.inf)))
        rates.append(schedule.get_last_lr()[0])
        losses.append(total / num_labels)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return OracleRun(
        losses=losses,
        grad_norms=norms,
        learning_rates=rates,
        final={
            name: (layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach())
            for name, layer in layers.items()
        },
    )


def _config(spec: JobSpec, model: PreTrainedModel) -> LoraConfig:
    lora = spec.lora
    head = model.get_output_embeddings()
    tied = head is not None and head.weight is model.get_input_embeddings().weight
    names = [
        name
        for name, one in model.named_modules()
        if isinstance(one, nn.Linear | Conv1D) and not (tied and one is head)
    ]

    def hits(entry: str) -> list[str]:
        return [name for name in names if fnmatchcase(name, entry) or fnmatchcase(name, f"*.{entry}")]

    targets: str | list[str] = "all-linear"
    if not isinstance(lora.target_modules, str):
        excluded = {name for entry in lora.exclude_modules or () for name in hits(entry)}
        targets = [name for entry in lora.target_modules for name in hits(entry) if name not in excluded]
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=targets,
        rank_pattern={re.escape(name): rank for entry, rank in lora.rank_pattern.items() for name in hits(entry)},
        alpha_pattern={re.escape(name): alpha for entry, alpha in lora.alpha_pattern.items() for name in hits(entry)},
        use_rslora=lora.use_rslora,
        fan_in_fan_out=any(isinstance(one, Conv1D) for one in model.modules()),
        task_type="CAUSAL_LM",
    )


def _optimizer(parameters: Sequence[nn.Parameter], spec: JobSpec) -> torch.optim.Optimizer:
    training = spec.training
    if training.optim == "sgd":
        return torch.optim.SGD(parameters, lr=training.learning_rate, weight_decay=training.weight_decay)
    return torch.optim.AdamW(
        parameters,
        lr=training.learning_rate,
        betas=(training.adam_beta1, training.adam_beta2),
        eps=training.adam_epsilon,
        weight_decay=training.weight_decay,
    )


def _loss_sum(model: PeftModel, rows: Sequence[Row], given: Sequence[GivenDropout]) -> Tensor:
    """Summed loss of the label tokens of rows padded at their end."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for number, row in enumerate(rows):
        row_ids, labelled = torch.from_numpy(row.ids), torch.from_numpy(row.labelled)
        ids[number, : len(row_ids)] = row_ids
        mask[number, : len(row_ids)] = 1
        labels[number, : len(row_ids)] = torch.where(labelled, row_ids, -100)
    for module in given:
        module.real = mask.bool()
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    if logits.dtype == torch.bfloat16:
        logits = logits.float()
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")


class GivenDropout(nn.Module):
    """Inverted dropout with a mask from outside, at the place in the formula where PEFT has its own."""

    def __init__(self, module: str, probability: float) -> None:
        super().__init__()
        self.module, self.probability = module, probability
        self.draw: DropoutDraw | None = None
        self.num_tokens = self.used = 0
        self.real: Tensor | None = None
        """(B, L): positions that are not padding; the mask covers these, in order."""

    def begin(self, draw: DropoutDraw, *, num_tokens: int) -> None:
        """Take the draw of the next micro-batch, which has so many tokens, in one forward or several."""
        self.draw, self.num_tokens, self.used = draw, num_tokens, 0

    def forward(self, x_BLI: Tensor) -> Tensor:
        assert self.draw is not None
        assert self.real is not None
        count = int(self.real.sum())
        keep = torch.ones(x_BLI.shape, dtype=x_BLI.dtype)
        kept_TI = self.draw.mask(self.module, (self.num_tokens, x_BLI.shape[-1]), x_BLI.device)
        keep[self.real] = kept_TI[self.used : self.used + count].to(x_BLI.dtype)
        self.used += count
        return x_BLI * keep / (1.0 - self.probability)


def _give_masks(layers: dict[str, LoraLayer], probability: float) -> list[GivenDropout]:
    given = []
    for name, layer in layers.items():
        given.append(GivenDropout(name, probability))
        layer.lora_dropout["default"] = given[-1]
    return given


@dataclass(frozen=True, kw_only=True)
class Errors:
    """How far two trainings of one job are apart, at their worst."""

    loss: float
    """|Δ| / |loss|, the worst step."""
    adapter: float
    """‖Δ‖ / ‖x‖, the worst tensor; element by element means nothing."""


def compare(losses: Sequence[float], final: Weights, oracle: OracleRun) -> Errors:
    """One job against its oracle. NaN anywhere counts as infinitely far."""
    assert len(losses) == len(oracle.losses)
    assert final.keys() == oracle.final.keys()
    loss = [abs(ours - theirs) / abs(theirs) for ours, theirs in zip(losses, oracle.losses, strict=True)]
    return Errors(loss=_worst(loss), adapter=distance(final, oracle.final))


def distance(ours: Weights, theirs: Weights) -> float:
    """The worst ‖Δ‖ / ‖x‖ over all factors."""
    return _worst(
        [
            float((mine.cpu() - other).norm() / other.norm())
            for name in theirs
            for mine, other in zip(ours[name], theirs[name], strict=True)
        ]
    )


def _worst(errors: Sequence[float]) -> float:
    return max(math.inf if math.isnan(error) else error for error in errors)


def noise_floor(padded: OracleRun, row_by_row: OracleRun) -> Errors:
    """How far PEFT is from itself, where the same sums are rounded otherwise (point 5 of the numbers contract)."""
    return compare(row_by_row.losses, row_by_row.final, padded)


def point_five(dtype: torch.dtype, floors: Sequence[Errors]) -> Errors:
    """What point 5 of the numbers contract allows: fixed in fp64; in fp32 three times PEFT's distance from itself."""
    if dtype == torch.float64:
        return Errors(loss=1e-9, adapter=1e-7)
    floor = worst(floors)
    return Errors(loss=3 * floor.loss, adapter=3 * floor.adapter)


def worst(errors: Sequence[Errors]) -> Errors:
    """The largest of each kind."""
    return Errors(loss=max(one.loss for one in errors), adapter=max(one.adapter for one in errors))


def compare_all(trained: Trained, oracles: dict[str, OracleRun]) -> Errors:
    """All jobs of a worker against their oracles, the worst of each kind."""
    return worst([compare(trained.losses(name), trained.final(name), oracle) for name, oracle in oracles.items()])
