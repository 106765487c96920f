"""Fields that are right one by one and wrong together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.data_formats import BUILDERS, builder_of
from jobs.field_paths import FieldPath

if TYPE_CHECKING:
    from jobs.spec import DatasetSpec, JobSpec


@dataclass(frozen=True, kw_only=True)
class Clash:
    """Two or more fields that cannot stand together."""

    path: FieldPath
    """The field to point at."""
    value: object
    fields: tuple[str, ...]
    """Every field involved, `path` included: wrong values in one of them make the clash moot."""
    message: str


def clashes(spec: JobSpec) -> tuple[Clash, ...]:
    """Everything in a spec that contradicts something else in it."""
    return (*_evaluation(spec), *_task(spec), *_adapter(spec), *_training(spec), *_datasets(spec))


def _evaluation(spec: JobSpec) -> Iterator[Clash]:
    training = spec.training
    held_out = ("eval_datasets", "val_size")
    if spec.eval_datasets and spec.val_size:
        yield Clash(
            path=("val_size",),
            value=spec.val_size,
            fields=held_out,
            message="val_size and eval_datasets both say what to evaluate on: give one of them",
        )
    if training.eval_strategy != "no" and not spec.eval_datasets and not spec.val_size:
        yield Clash(
            path=("training", "eval_strategy"),
            value=training.eval_strategy,
            fields=("training.eval_strategy", *held_out),
            message="there are no rows to evaluate on: give eval_datasets or val_size, or write eval_strategy: no",
        )
    if training.load_best_model_at_end and training.eval_strategy == "no":
        yield Clash(
            path=("training", "load_best_model_at_end"),
            value=True,
            fields=("training.load_best_model_at_end", "training.eval_strategy"),
            message="the best adapter is found by evaluating: set training.eval_strategy to steps or epoch",
        )
    if training.early_stopping_patience is not None and training.eval_strategy == "no":
        yield Clash(
            path=("training", "early_stopping_patience"),
            value=training.early_stopping_patience,
            fields=("training.early_stopping_patience", "training.eval_strategy"),
            message="patience is counted in evaluations: set training.eval_strategy to steps or epoch",
        )


def _task(spec: JobSpec) -> Iterator[Clash]:
    if spec.task_type != "SEQ_CLS":
        return
    for name in ("completion_only_loss", "assistant_only_loss"):
        if getattr(spec.training, name):
            yield Clash(
                path=("training", name),
                value=True,
                fields=(f"training.{name}", "task_type"),
                message=f"task_type: SEQ_CLS learns from labels, not from tokens: leave {name} out",
            )


def _adapter(spec: JobSpec) -> Iterator[Clash]:
    lora = spec.lora
    if spec.model.load_in_4bit and spec.model.load_in_8bit:
        yield Clash(
            path=("model", "load_in_8bit"),
            value=True,
            fields=("model.load_in_4bit", "model.load_in_8bit"),
            message="load_in_4bit and load_in_8bit exclude each other: give one of them",
        )
    if lora.init_lora_weights != "orthogonal":
        return
    ranks: dict[FieldPath, int] = {("lora", "r"): lora.r}
    ranks |= {("lora", "rank_pattern", glob): rank for glob, rank in lora.rank_pattern.items()}
    for path, rank in ranks.items():
        if rank % 2:
            yield Clash(
                path=path,
                value=rank,
                fields=("lora.r", "lora.rank_pattern", "lora.init_lora_weights"),
                message="lora.init_lora_weights: orthogonal halves the rank, so it needs an even one",
            )


def _training(spec: JobSpec) -> Iterator[Clash]:
    training = spec.training
    if training.lr_scheduler_type == "constant" and training.warmup_steps:
        yield Clash(
            path=("training", "warmup_steps"),
            value=training.warmup_steps,
            fields=("training.warmup_steps", "training.lr_scheduler_type"),
            message="lr_scheduler_type: constant has no warm-up: write lr_scheduler_type: constant_with_warmup",
        )


def _datasets(spec: JobSpec) -> Iterator[Clash]:
    for block, datasets in (("datasets", spec.datasets), ("eval_datasets", spec.eval_datasets)):
        for index, dataset in enumerate(datasets):
            message = _source_clash(dataset)
            if message:
                yield Clash(
                    path=(block, index, "path"),
                    value=dataset.path,
                    fields=(f"{block}[{index}].path", f"{block}[{index}].data_files"),
                    message=message,
                )


def _source_clash(dataset: DatasetSpec) -> str | None:
    if dataset.path in BUILDERS and dataset.data_files is None:
        return f"the builder {dataset.path} reads files: name them in data_files, or write the file as path"
    if builder_of(dataset.path) is not None and dataset.data_files is not None:
        return "path is a file already, so data_files has no meaning: keep one of the two"
    return None
