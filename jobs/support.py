"""Fields that the schema knows and the software does not act on yet: setting one is refused, never ignored.

When a feature lands, its line here goes; nothing else changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from jobs.errors import Problem
from jobs.field_paths import FieldPath, shown_path
from jobs.hints.model_keys import layer_globs
from jobs.shown import shown_value


@dataclass(frozen=True, kw_only=True)
class Unsupported:
    """A field, and which of its values ask for what is not there."""

    field: str
    """Dotted; `[]` stands for every item of a list."""
    asks: Callable[[object], bool]
    """True for values that would have to do something."""
    instead: str | Callable[[object], str]
    """What to write, for all values or by the value."""

    def message(self, value: object) -> str:
        """The sentence that refuses the value."""
        return f"not supported yet: {self.instead if isinstance(self.instead, str) else self.instead(value)}"


def _is_true(value: object) -> bool:
    return value is True


def _is_not(*inert: object) -> Callable[[object], bool]:
    return lambda value: value not in inert


_is_set = _is_not(None, [], ())


def _layers_by_glob(value: object) -> str:
    globs = ", ".join(layer_globs(value))
    return f"globs choose layers: write target_modules: [{globs}], with the modules that you train"


UNSUPPORTED: tuple[Unsupported, ...] = (
    Unsupported(field="model.load_in_4bit", asks=_is_true, instead="leave it out; model.dtype: bfloat16 halves memory"),
    Unsupported(field="model.load_in_8bit", asks=_is_true, instead="leave it out; model.dtype: bfloat16 halves memory"),
    Unsupported(field="model.trust_remote_code", asks=_is_true, instead="take a model that transformers knows itself"),
    Unsupported(field="lora.modules_to_save", asks=_is_set, instead="leave it out; only adapters are trained"),
    Unsupported(field="lora.use_dora", asks=_is_true, instead="leave it out; use_rslora is there"),
    Unsupported(field="lora.parent", asks=_is_set, instead="leave it out; adapters are not stacked"),
    Unsupported(field="lora.init_from", asks=_is_set, instead="leave it out; adapters start from init_lora_weights"),
    Unsupported(field="lora.loraplus_lr_ratio", asks=_is_set, instead="leave it out; A and B share learning_rate"),
    Unsupported(
        field="lora.layers_to_transform",
        asks=_is_set,
        instead=_layers_by_glob,
    ),
    Unsupported(
        field="lora.target_parameters",
        asks=_is_set,
        instead="leave it out; linear modules get adapters, experts that are one parameter do not",
    ),
    Unsupported(
        field="lora.trainable_token_indices", asks=_is_set, instead="leave it out; embeddings stay as they are"
    ),
    Unsupported(
        field="training.eval_on_start",
        asks=lambda value: value is False,
        instead="leave it out; a job is evaluated before its first step wherever there are rows for it",
    ),
    Unsupported(field="lora.lora_bias", asks=_is_true, instead="leave it out; adapters have no bias"),
    Unsupported(field="task_type", asks=_is_not("CAUSAL_LM"), instead="write CAUSAL_LM, with the label as completion"),
    *(
        Unsupported(field=f"{rows}[].columns.{column}", asks=_is_set, instead="write the label as completion")
        for rows in ("datasets", "eval_datasets")
        for column in ("label", "text_pair")
    ),
    Unsupported(field="datasets[].weight", asks=_is_set, instead="leave it out; max_samples sets how many rows count"),
    Unsupported(field="eval_datasets[].weight", asks=_is_set, instead="leave it out; every row counts the same"),
    Unsupported(field="training.neftune_noise_alpha", asks=_is_set, instead="leave it out"),
    Unsupported(
        field="training.lr_scheduler_kwargs",
        asks=_is_not(None, {}),
        instead="leave it out; schedules have their own settings and end at 0",
    ),
    Unsupported(
        field="training.packing",
        asks=_is_true,
        instead="leave it out; rows of all jobs run side by side without padding anyway, and "
        "per_device_train_batch_size says how many of them make a micro-batch",
    ),
    Unsupported(
        field="training.group_by_length",
        asks=_is_true,
        instead="leave it out; rows are not padded, so there is nothing to save",
    ),
    Unsupported(field="training.early_stopping_threshold", asks=_is_not(None, 0), instead="leave it out"),
    Unsupported(
        field="training.chat_template_kwargs",
        asks=_is_not(None, {}),
        instead="set the variable in a template file, and give it as model.chat_template_path",
    ),
    Unsupported(
        field="training.eos_token",
        asks=_is_set,
        instead="leave it out; what the chat template ends a turn with is learned, else the tokenizer's end token",
    ),
    Unsupported(field="training.label_smoothing_factor", asks=_is_not(None, 0), instead="leave it out"),
    Unsupported(field="training.load_best_model_at_end", asks=_is_true, instead="leave it out; the last step is kept"),
    Unsupported(field="training.early_stopping_patience", asks=_is_set, instead="leave it out; set max_steps"),
    Unsupported(field="training.metric_for_best_model", asks=_is_not("eval_loss"), instead="leave it out"),
    Unsupported(field="training.greater_is_better", asks=_is_set, instead="leave it out"),
    Unsupported(field="scheduling.max_execution_time", asks=_is_set, instead="leave it out; set training.max_steps"),
    Unsupported(field="output.uri", asks=_is_set, instead="leave it out; the output directory of the run is used"),
    Unsupported(field="output.push_to_hub", asks=_is_true, instead="upload the finished adapter yourself"),
    Unsupported(field="output.hub_model_id", asks=_is_set, instead="leave it out"),
)


def unsupported(explicit: Mapping[str, object]) -> list[Problem]:
    """What a document asks for that is not there yet.

    Args:
        explicit: the fields that were written, and only those, since defaults ask for nothing: a document as read, or
            `spec.model_dump(exclude_unset=True)`.
    """
    return [
        Problem(field=shown_path(path), value=shown_value(value), message=entry.message(value))
        for entry in UNSUPPORTED
        for path, value in _found(explicit, tuple(entry.field.replace("[]", ".[]").split(".")), ())
        if entry.asks(value)
    ]


def _found(data: object, steps: tuple[str, ...], path: FieldPath) -> Iterator[tuple[FieldPath, object]]:
    if not steps:
        yield path, data
    elif steps[0] == "[]":
        if isinstance(data, list | tuple):
            for index, item in enumerate(cast("list[object]", data)):
                yield from _found(item, steps[1:], (*path, index))
    elif isinstance(data, Mapping) and steps[0] in data:
        yield from _found(cast("Mapping[str, object]", data)[steps[0]], steps[1:], (*path, steps[0]))
