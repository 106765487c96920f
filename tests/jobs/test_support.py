import pytest

from jobs.loading import load_text
from jobs.spec import JobSpec
from jobs.support import UNSUPPORTED, unsupported
from tests.jobs.texts import MINIMAL, problems_of, the_problem

ASKING = {
    "model.load_in_4bit": ["true"],
    "model.load_in_8bit": ["true"],
    "model.trust_remote_code": ["true"],
    "lora.modules_to_save": ["[lm_head]"],
    "lora.use_dora": ["true"],
    "lora.parent": ["other"],
    "lora.init_from": ["other"],
    "lora.loraplus_lr_ratio": ["16"],
    "lora.layers_to_transform": ["[0, 1]", "3"],
    "lora.target_parameters": ["[experts.gate_up_proj]"],
    "lora.trainable_token_indices": ["[1, 2]", "{embed_tokens: [3]}"],
    "training.eval_on_start": ["false"],
    "lora.lora_bias": ["true"],
    "task_type": ["SEQ_CLS"],
    "datasets[].columns.label": ["verdict"],
    "datasets[].columns.text_pair": ["other"],
    "eval_datasets[].columns.label": ["verdict"],
    "eval_datasets[].columns.text_pair": ["other"],
    "datasets[].weight": ["0.5"],
    "eval_datasets[].weight": ["0.5"],
    "training.neftune_noise_alpha": ["5"],
    "training.lr_scheduler_kwargs": ["{min_lr_rate: 0.1}"],
    "training.packing": ["true"],
    "training.group_by_length": ["true"],
    "training.early_stopping_threshold": ["0.1"],
    "training.chat_template_kwargs": ["{enable_thinking: false}"],
    "training.eos_token": ['"<|im_end|>"'],
    "training.label_smoothing_factor": ["0.1"],
    "training.load_best_model_at_end": ["true"],
    "training.early_stopping_patience": ["3"],
    "training.metric_for_best_model": ["eval_exact_match"],
    "training.greater_is_better": ["true", "false"],
    "scheduling.max_execution_time": ["3600"],
    "output.uri": ["s3://bucket/key"],
    "output.push_to_hub": ["true"],
    "output.hub_model_id": ["me/mine"],
}
INERT = {
    "lora.lora_bias": ["false"],
    "lora.layers_to_transform": ["null"],
    "training.packing": ["false"],
    "training.group_by_length": ["false"],
    "training.lr_scheduler_kwargs": ["{}"],
    "model.load_in_4bit": ["false"],
    "lora.modules_to_save": ["null"],
    "lora.use_dora": ["false"],
    "lora.parent": ["null"],
    "task_type": ["CAUSAL_LM"],
    "datasets[].weight": ["null"],
    "training.neftune_noise_alpha": ["null"],
    "training.label_smoothing_factor": ["0", "0.0"],
    "training.load_best_model_at_end": ["false"],
    "training.metric_for_best_model": ["eval_loss"],
    "scheduling.max_execution_time": ["null"],
    "output.push_to_hub": ["false"],
}


def document(field: str, value: str) -> tuple[str, str]:
    """A text that sets a field on its line 5, and the field as it is reported."""
    rows, _, key = field.partition("[].")
    inner, _, column = key.rpartition(".")
    entry = f"{inner}: {{{column}: {value}}}" if inner else f"{key}: {value}"
    if rows == "datasets":
        return MINIMAL + f"    {entry}\nval_size: 3\n", field.replace("[]", "[0]")
    if rows == "eval_datasets":
        return MINIMAL + f"eval_datasets: [{{path: a, {entry}}}]\n", field.replace("[]", "[0]")
    block, _, key = field.rpartition(".")
    # With rows to evaluate on, so that nothing clashes with the fields that need them.
    end = "val_size: 3\n"
    if block == "model":
        text = MINIMAL.replace("model: {model_name_or_path: some/model}\n", "")
        return text + f"#\nmodel: {{{key}: {value}, model_name_or_path: x}}\n" + end, field
    if block == "training":
        return MINIMAL + f"training: {{{key}: {value}, eval_strategy: epoch}}\n" + end, field
    return MINIMAL + (f"{block}: {{{key}: {value}}}\n" if block else f"{key}: {value}\n") + end, field


def test_the_table_of_this_test_is_that_of_the_code() -> None:
    assert list(ASKING) == [entry.field for entry in UNSUPPORTED]


@pytest.mark.parametrize("field, value", [(field, value) for field, values in ASKING.items() for value in values])
def test_what_is_not_there_is_refused_where_it_is_asked_for(field: str, value: str) -> None:
    text, reported = document(field, value)
    problem = the_problem(text)
    assert problem.field == reported
    assert problem.line == 5
    assert problem.message.startswith("not supported yet: ")


@pytest.mark.parametrize("field, value", [(field, value) for field, values in INERT.items() for value in values])
def test_values_that_ask_for_nothing_are_accepted(field: str, value: str) -> None:
    text, _ = document(field, value)
    assert len(load_text(text)) == 1


def test_defaults_ask_for_nothing_however_the_spec_was_made() -> None:
    spec = JobSpec.model_validate({"name": "a", "model": {"model_name_or_path": "b"}, "datasets": [{"path": "c"}]})
    assert unsupported(spec.model_dump(exclude_unset=True)) == []
    asking = spec.model_copy(update={"task_type": "SEQ_CLS"})
    assert [problem.field for problem in unsupported(asking.model_dump(exclude_unset=True))] == ["task_type"]


def test_they_come_with_the_other_problems() -> None:
    found = problems_of(MINIMAL + "lora:\n  use_dora: true\n  r: 0\ntask_type: SEQ_CLS\n")
    assert [(problem.field, problem.line) for problem in found] == [
        ("lora.use_dora", 6),
        ("lora.r", 7),
        ("task_type", 8),
    ]
