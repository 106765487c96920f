"""The job spec: what a user asks for, frozen. Field names are those of the libraries that users know them from.

The docstring under each field is its documentation: it reaches the published JSON Schema as it stands here.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from jobs import choice_types as choices
from jobs import field_types as types
from jobs.clashes import clashes
from jobs.frozen_dict import FrozenDict

_ADDED_LATER: dict[str, tuple[str, ...]] = {
    "lora": ("layers_to_transform", "target_parameters", "trainable_token_indices", "lora_bias"),
    "training": (
        "lr_scheduler_kwargs",
        "packing",
        "packing_strategy",
        "group_by_length",
        "eval_on_start",
        "save_strategy",
        "early_stopping_threshold",
        "chat_template_kwargs",
        "eos_token",
    ),
}
"""Fields that version 0.1.0 did not have, by block. Whoever adds a field enters it here."""


class Block(BaseModel):
    """A block of the spec: frozen, documented field by field, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def is_default(self, field: str) -> bool:
        """Whether a field has its default value."""
        return getattr(self, field) == type(self).model_fields[field].get_default(call_default_factory=True)


class ModelSpec(Block):
    """The frozen base model. Jobs that name the same base, revision and dtype share one copy of it."""

    model_name_or_path: types.Text
    """A directory with a model, or its name on the hub."""
    revision: types.Text | None = None
    """Commit, tag or branch of a hub model; `serve` trains the commit that it was when the job was looked into."""
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = "auto"
    """Type of the base's weights; `auto` takes the type they are stored in. `float64` is for testing."""
    load_in_4bit: types.Flag = False
    """Quantise the base to 4 bits."""
    load_in_8bit: types.Flag = False
    """Quantise the base to 8 bits."""
    chat_template_path: types.Text | None = None
    """A template file, or a directory or hub model to take the chat template from; null: the base's own."""
    trust_remote_code: types.Flag = False
    """Run Python code that comes with the model; needs the operator's allow-list as well."""


class LoraSpec(Block):
    """The adapter: which modules it changes, its rank and its scale."""

    r: types.Count = 16
    """Rank of the two factors."""
    lora_alpha: types.Scale = 32
    """The update is scaled by alpha / r, with `use_rslora` by alpha / sqrt(r)."""
    lora_dropout: types.BelowOne = 0.0
    """Probability of zeroing an input of the adapter's branch while training."""
    target_modules: types.TargetModules = "all-linear"
    """`all-linear` (every linear module but the output head), or a list of module names or globs."""
    exclude_modules: types.ModuleGlobs | None = None
    """Names or globs of modules to leave alone even where `target_modules` matches."""
    rank_pattern: types.RankPattern = Field(default_factory=FrozenDict[int])
    """Glob to rank, for modules whose rank differs from `r`."""
    alpha_pattern: types.AlphaPattern = Field(default_factory=FrozenDict[int | float])
    """Glob to alpha, for modules whose alpha differs from `lora_alpha`."""
    use_rslora: types.Flag = False
    """Scale by alpha / sqrt(r), which keeps the update's size steady as the rank grows (arXiv:2312.03732)."""
    init_lora_weights: types.InitLoraWeights = True
    """true: A Kaiming-uniform, B zero; gaussian: A normal, B zero; orthogonal: both orthogonal; false: both random."""
    bias: Literal["none"] = "none"
    """Biases belong to the frozen base and are not trained."""
    modules_to_save: types.Names | None = None
    """Modules to train in full beside the adapter."""
    use_dora: types.Flag = False
    """Decompose the weight into magnitude and direction (arXiv:2402.09353)."""
    parent: types.Text | None = None
    """An adapter, by path or job name, that stays frozen under this one."""
    init_from: types.Text | None = None
    """An adapter, by path or job name, whose weights this one starts from."""
    loraplus_lr_ratio: types.Positive | None = None
    """Learning rate of B over that of A (arXiv:2402.12354)."""
    layers_to_transform: choices.Layers | None = None
    """Layers to put the adapter on, by number; globs in `target_modules` do that."""
    target_parameters: types.Names | None = None
    """Parameters that are no linear module's, such as the experts of a mixture, to put the adapter on."""
    trainable_token_indices: choices.TokenRows | None = None
    """Tokens whose rows of the embedding are trained."""
    lora_bias: types.Flag = False
    """A bias in the adapter's own B."""


class DatasetSpec(Block):
    """Where rows come from, in the words of `datasets.load_dataset`."""

    path: types.Text
    """A file (jsonl, json, csv, tsv, parquet, arrow, txt; also .gz, .bz2, .xz, .zst), a pattern such as `data/*.jsonl`,
    a folder of such files or of `save_to_disk`, a builder's name with `data_files`, or a hub dataset."""
    name: types.Text | None = None
    """Configuration of a hub dataset, or of a folder whose README.md has some."""
    split: types.Text = "train"
    """Split to read; slices such as `train[:100]` as well. A file is one split, whatever it is called here."""
    data_files: types.DataFiles | None = None
    """Files or patterns for a builder (json, csv, parquet, arrow, text), or within a folder or hub dataset."""
    revision: types.Text | None = None
    """Commit, tag or branch of a hub dataset."""
    columns: types.Columns = Field(default_factory=FrozenDict[str])
    """Our column name to theirs: `{prompt: question, completion: answer}`."""
    max_samples: types.Count | None = None
    """Take only this many rows, from the first; null: all."""
    weight: types.Positive | None = None
    """Share of this dataset when there are several."""


class TrainingSpec(Block):
    """How the adapter is trained."""

    max_length: types.Count = 1024
    """Longest row in tokens; longer ones are cut at their end."""
    completion_only_loss: types.Flag | None = None
    """Loss on the completion alone; null: wherever rows have prompt and completion."""
    assistant_only_loss: types.Flag = False
    """Loss on the assistant's turns alone, for rows of messages."""
    per_device_train_batch_size: types.Count = 8
    """Rows of one micro-batch: the unit that must fit in memory."""
    gradient_accumulation_steps: types.Count = 1
    """Micro-batches per optimizer step."""
    per_device_eval_batch_size: types.Count = 8
    """Rows evaluated at a time."""
    gradient_checkpointing: types.Flag = False
    """Recompute activations in the backward pass instead of keeping them."""
    num_train_epochs: types.Positive = 3.0
    """Passes over the training rows, fractions allowed; `max_steps` overrides it."""
    max_steps: types.StepsOrAll = -1
    """Optimizer steps; -1: as many as `num_train_epochs` gives."""
    learning_rate: types.Positive = 1e-4
    """Peak learning rate."""
    lr_scheduler_type: choices.Schedule = "linear"
    """Shape of the learning rate over the steps."""
    lr_scheduler_kwargs: choices.Settings = Field(default_factory=FrozenDict[Any])
    """Further settings of the schedule."""
    warmup_steps: types.StepsOrShare = 0
    """Steps of linear warm-up; a decimal in [0, 1) is a share of all steps."""
    optim: choices.Optimizer = "adamw_torch"
    """The optimizer. AdamW's fused and paged forms mean `adamw_torch`; of 8-bit ones the states stay fp32."""
    adam_beta1: types.BelowOne = 0.9
    """Decay of AdamW's first moment."""
    adam_beta2: types.BelowOne = 0.999
    """Decay of AdamW's second moment."""
    adam_epsilon: types.Positive = 1e-8
    """Added to AdamW's denominator."""
    weight_decay: types.PositiveOrZero = 0.0
    """Decoupled weight decay with AdamW, L2 penalty with SGD."""
    max_grad_norm: types.PositiveOrZero = 1.0
    """The adapter's gradient is clipped to this L2 norm; 0: never clipped."""
    neftune_noise_alpha: types.PositiveOrZero | None = None
    """Size of the noise added to embeddings (arXiv:2310.05914)."""
    packing: types.Flag = False
    """Join short rows of the job to rows of `max_length`."""
    packing_strategy: Literal["bfd", "bfd_split", "wrapped"] = "bfd"
    """How `packing` joins rows."""
    group_by_length: types.Flag = False
    """Draw rows of one length together."""
    label_smoothing_factor: types.BelowOne = 0.0
    """Share of the label's probability spread over the vocabulary."""
    max_nonfinite_steps: types.Count = 3
    """The job fails once so many steps in a row had a loss or gradient that is not finite."""
    max_skipped_rows: types.CountOrZero = 0
    """Rows that cannot be used to pass over, counted and named in the log; one more and the job is refused."""
    seed: types.Seed = 42
    """Seeds the adapter's weights, the order of rows and dropout."""
    logging_steps: types.Every = 10
    """Optimizer steps between two logged losses; a decimal below 1 is a share of all steps."""
    eval_strategy: Literal["no", "steps", "epoch"] = "no"
    """When to evaluate during training; before and after, it is done wherever there are rows for it."""
    eval_steps: types.Every = 100
    """Optimizer steps between evaluations with `eval_strategy: steps`; a decimal below 1 is a share of all steps."""
    eval_on_start: types.Flag = True
    """Evaluate before the first step, wherever there are rows for it."""
    save_strategy: Literal["no", "steps", "epoch"] = "steps"
    """When to take checkpoints: every `save_steps`, at the end of each epoch, or only when the job is interrupted."""
    save_steps: types.Every = 100
    """Optimizer steps between checkpoints with `save_strategy: steps`; a decimal below 1 is a share of all steps."""
    save_total_limit: types.Count = 2
    """Checkpoints to keep."""
    load_best_model_at_end: types.Flag = False
    """Publish the adapter of the best evaluation, not of the last step."""
    metric_for_best_model: types.Text = "eval_loss"
    """What "best" is measured by."""
    greater_is_better: types.Flag | None = None
    """Whether a larger metric is better; null: true unless its name ends in `loss`."""
    early_stopping_patience: types.Count | None = None
    """Evaluations without improvement before training ends."""
    early_stopping_threshold: types.PositiveOrZero = 0.0
    """Least improvement that counts as one."""
    chat_template_kwargs: choices.Settings = Field(default_factory=FrozenDict[Any])
    """Variables given to the chat template."""
    eos_token: types.Text | None = None
    """The token that ends a turn or completion; null: the tokenizer's own."""


class SchedulingSpec(Block):
    """When and beside whom the job runs."""

    queue: types.Name = "default"
    """Queue that the job waits in."""
    priority: Annotated[int, Field(strict=True, ge=-(2**31), le=2**31 - 1)] = 0
    """Jobs of higher priority are placed first."""
    max_execution_time: types.Count | None = None
    """Seconds that the job may run for."""
    packing: Literal["shared", "exact"] = "shared"
    """shared: in one forward with other jobs' rows; exact: numbers independent, to the bit, of what else runs."""


class JobRecoverySpec(Block):
    """What happens after a failure."""

    max_restarts_on_errors: types.CountOrZero = 1
    """Restarts after errors of the job's own; lost machines are never charged."""


class OutputSpec(Block):
    """Where the adapter goes."""

    uri: types.Text | None = None
    """Place to publish to; null: the output directory of the run or server."""
    push_to_hub: types.Flag = False
    """Upload the adapter to the hub."""
    hub_model_id: types.Text | None = None
    """Name on the hub."""


class JobSpec(Block):
    """A job: one adapter, trained on one base with one set of data."""

    name: types.Name
    """Name of the job, unique among those submitted together."""
    labels: types.Labels = Field(default_factory=FrozenDict[str])
    """Free labels to find jobs by."""
    model: ModelSpec
    lora: LoraSpec = LoraSpec()
    task_type: Literal["CAUSAL_LM", "SEQ_CLS"] = "CAUSAL_LM"
    """What the adapter is for: generating text, or classifying it with a head of its own."""
    datasets: Annotated[tuple[DatasetSpec, ...], Field(min_length=1, max_length=100)]
    """Training rows; several datasets are joined."""
    eval_datasets: Annotated[tuple[DatasetSpec, ...], Field(max_length=100)] = ()
    """Held-out rows to evaluate on."""
    val_size: types.RowsOrShare = 0
    """Rows to hold out from `datasets`: a whole number of rows, or a decimal as a share of them."""
    training: TrainingSpec = TrainingSpec()
    scheduling: SchedulingSpec = SchedulingSpec()
    job_recovery: JobRecoverySpec = JobRecoverySpec()
    output: OutputSpec = OutputSpec()
    report_to: choices.ReportTo = "none"
    """Experiment trackers to report to."""

    @model_validator(mode="after")
    def _without_clashes(self) -> Self:
        found = clashes(self)
        if found:
            raise ValidationError.from_exception_data(
                type(self).__name__,
                [
                    InitErrorDetails(
                        type=PydanticCustomError("clash", "{message}", {"message": c.message, "fields": c.fields}),
                        loc=c.path,
                        input=c.value,
                    )
                    for c in found
                ],
            )
        return self

    def spec_sha256(self) -> str:
        """SHA-256, in hex, of the spec with its defaults filled in.

        Two spellings of one spec (order of keys, defaults written out) have one hash. The order within `rank_pattern`
        and `alpha_pattern` counts, because the first glob that matches decides. Fields that came later count only where
        they are set, so that a job goes on that an earlier version began.
        """
        content: dict[str, Any] = self.model_dump(mode="json")
        for pattern in ("rank_pattern", "alpha_pattern"):
            content["lora"][pattern] = list(content["lora"][pattern].items())
        for block, fields in _ADDED_LATER.items():
            for field in fields:
                if getattr(self, block).is_default(field):
                    del content[block][field]
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
