"""Keys of other tools about rows: those of a whole configuration, and those of one item of `datasets`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from jobs.hints.answers import OFF, Answer, Rule, lost, needless, same, switch

_READ = "rows are read and tokenised whole before training"
_SHAPE = "rows are recognised by their columns; `columns` maps the names, as in `columns: {prompt: question}`"
_TURNS = "turns are {role, content} under messages, or {from, value} under conversations"
_PROMPT = "prompts are taken from the rows as they stand; write them out in the rows"
_TURN_KEYS = {"role": "role", "content": "content"}
_SHAREGPT_KEYS = {"role": "from", "content": "value"}


def _paths(block: str) -> Rule:
    """A file, a hub name, or a list of them, to `[{path: ...}]`."""

    def rule(value: object, beside: Mapping[str, object]) -> Answer:
        names: object = value.split(",") if isinstance(value, str) else value
        if not isinstance(names, list):
            return Answer(fields=((block, [{"path": "FILE"}]),), note="a file, or a hub name")
        items = [
            cast("dict[str, object]", name) if isinstance(name, dict) else {"path": str(name).strip()}
            for name in cast("list[object]", names)
        ]
        configuration = beside.get("dataset_config") or beside.get("dataset_config_name")
        if len(items) == 1 and isinstance(configuration, str):
            items = [{**items[0], "name": configuration}]
        note = "for names out of a dataset_info.json, write the file or hub name that stands there"
        return Answer(fields=((block, items),), note=note if "dataset_name" not in beside else "")

    return rule


def _mixture(value: object, _beside: Mapping[str, object]) -> Answer:
    given: object = value
    if isinstance(value, Mapping):
        given = cast("Mapping[str, object]", value).get("datasets")
    ours = {"id": "path", "config": "name", "split": "split"}
    items = [
        {ours[key]: text for key, text in cast("dict[str, object]", item).items() if key in ours and text}
        for item in (cast("list[object]", given) if isinstance(given, list) else [])
        if isinstance(item, dict)
    ]
    return Answer(
        fields=(("datasets", items or [{"path": "FILE"}]),),
        note="in place of a weight, max_samples sets how many rows count",
    )


def _test_split(value: object, beside: Mapping[str, object]) -> Answer:
    path = beside.get("dataset_name")
    return Answer(fields=(("eval_datasets", [{"path": path if isinstance(path, str) else "FILE", "split": value}]),))


def _column(*ours: str) -> Rule:
    """A column's name: nothing where it has the name that rows are recognised by."""

    def rule(value: object, _beside: Mapping[str, object]) -> Answer:
        if value in ours or value is None:
            return Answer(needless=True, note=f"rows are recognised by their column {value or ours[0]}")
        return Answer(fields=(("datasets[].columns", {ours[0]: value}),))

    return rule


def _messages(value: object, beside: Mapping[str, object]) -> Answer:
    from_value = beside.get("message_property_mappings") == _SHAREGPT_KEYS or "sharegpt" in str(beside.get("type"))
    ours = "conversations" if from_value else "messages"
    if value in ("messages", "conversations"):
        return Answer(needless=True, note=f"rows are recognised by their column {value}")
    return Answer(fields=(("datasets[].columns", {ours: value}),))


def _turn_keys(value: object, _beside: Mapping[str, object]) -> Answer:
    known = value in (None, _TURN_KEYS, _SHAREGPT_KEYS, "role", "content", "from", "value", "human", "gpt", "user")
    return Answer(note=_TURNS if known else f"{_TURNS}; rename the keys in the rows", needless=known)


_TYPES = {
    "alpaca": "rows of instruction, input and output are recognised by their columns",
    "chat_template": "rows of messages are rendered with the base's chat template",
    "sharegpt": "rows of conversations are recognised by their column",
    "completion": "rows of text are recognised by their column text",
    "text": "rows of text are recognised by their column text",
    "openai": "rows of messages are recognised by their column",
}
_AXOLOTL_FIELDS = {
    "field_instruction": "instruction",
    "field_input": "input",
    "field_output": "output",
    "field": "text",
}


def _type(value: object, _beside: Mapping[str, object]) -> Answer:
    if isinstance(value, Mapping):
        block = cast("Mapping[str, object]", value)
        found = {ours: block[key] for key, ours in _AXOLOTL_FIELDS.items() if isinstance(block.get(key), str)}
        columns = {ours: name for ours, name in found.items() if ours != name}
        return Answer(fields=(("datasets[].columns", columns),) if columns else (), note=_PROMPT)
    note = _TYPES.get(str(value).partition(".")[0].lower())
    return Answer(note=note, needless=True) if note else Answer(note=_SHAPE)


def _file_type(value: object, beside: Mapping[str, object]) -> Answer:
    path = beside.get("path")
    note = "the ending of a file tells its type"
    if not isinstance(path, str) or str(value) in path.rsplit(".", 1)[-1] or "data_files" in beside:
        return Answer(needless=True, note=note)
    return Answer(fields=(("datasets[].path", value), ("datasets[].data_files", path)), note=note)


def _data_dir(value: object, _beside: Mapping[str, object]) -> Answer:
    return Answer(fields=(("datasets[].data_files", f"{str(value).rstrip('/')}/*"),))


DATA_KEYS: dict[str, Rule] = {
    "dataset": _paths("datasets"),
    "dataset_name": _paths("datasets"),
    "dataset_name_or_path": _paths("datasets"),
    "dataset_id": _paths("datasets"),
    "dataset_path": _paths("datasets"),
    "data_path": _paths("datasets"),
    "data": _paths("datasets"),
    "train_file": _paths("datasets"),
    "train_files": _paths("datasets"),
    "train_dataset": _paths("datasets"),
    "train_data": _paths("datasets"),
    "training_file": _paths("datasets"),
    "eval_dataset": _paths("eval_datasets"),
    "eval_file": _paths("eval_datasets"),
    "eval_data": _paths("eval_datasets"),
    "validation_file": _paths("eval_datasets"),
    "valid_file": _paths("eval_datasets"),
    "test_file": _paths("eval_datasets"),
    "test_datasets": _paths("eval_datasets"),
    "validation_datasets": _paths("eval_datasets"),
    "dataset_mixture": _mixture,
    "dataset_mixer": _mixture,
    "dataset_config": same("datasets[].name"),
    "dataset_config_name": same("datasets[].name"),
    "dataset_train_split": same("datasets[].split"),
    "train_split": same("datasets[].split"),
    "dataset_test_split": _test_split,
    "eval_split": _test_split,
    "test_split": _test_split,
    "dataset_dir": needless("a path in datasets is written whole"),
    "dataset_info": lost("write each data set as an item of datasets: `- path: FILE`"),
    "dataset_text_field": _column("text"),
    "text_column": _column("text"),
    "text_field": _column("text"),
    "prompt_column": _column("prompt"),
    "response_column": _column("completion"),
    "max_samples": same("datasets[].max_samples"),
    "max_train_samples": same("datasets[].max_samples"),
    "max_eval_samples": same("eval_datasets[].max_samples"),
    "val_set_size": same("val_size"),
    "test_size": same("val_size"),
    "eval_size": same("val_size"),
    "test_split_size": same("val_size"),
    "validation_split_percentage": lost("write the share as val_size: 0.05 for 5 %"),
    "validation_size": same("val_size"),
    "eval_on_each_dataset": switch(lost("held-out rows are evaluated together"), OFF),
    "mix_strategy": lost("data sets are joined, and their rows drawn at random"),
    "interleave_probs": lost("data sets are joined; max_samples sets how many rows of each count"),
    "streaming": needless(_READ),
    "formatting_func": lost(_SHAPE),
    "shuffle_buffer_size": needless(_READ),
    "ignore_pad_token_for_loss": needless("rows are not padded with a token that could be learned"),
    "dataset_processes": needless(_READ),
    "push_dataset_to_hub": switch(lost("no rows are uploaded"), OFF),
    "excess_length_strategy": lost("a row that is too long is cut at its end"),
    "min_sample_len": switch(lost("short rows are learned as well; take them out of the file"), OFF),
}
"""Anywhere but in an item of `datasets` or `eval_datasets`."""

DATASET_KEYS: dict[str, Rule] = {
    "type": _type,
    "formatting": _type,
    "ds_type": _file_type,
    "subset": same("datasets[].name"),
    "config": same("datasets[].name"),
    "config_name": same("datasets[].name"),
    "dataset_config": same("datasets[].name"),
    "id": same("datasets[].path"),
    "dataset": same("datasets[].path"),
    "dataset_name": same("datasets[].path"),
    "file": same("datasets[].path"),
    "filename": same("datasets[].path"),
    "file_name": same("datasets[].path"),
    "hf_hub_url": same("datasets[].path"),
    "url": same("datasets[].path"),
    "train_on_split": same("datasets[].split"),
    "dataset_split": same("datasets[].split"),
    "data_file": same("datasets[].data_files"),
    "files": same("datasets[].data_files"),
    "data_dir": _data_dir,
    "folder": _data_dir,
    "num_samples": same("datasets[].max_samples"),
    "samples": same("datasets[].max_samples"),
    "max_rows": same("datasets[].max_samples"),
    "limit": same("datasets[].max_samples"),
    "field": _column("text"),
    "text_field": _column("text"),
    "text_column": _column("text"),
    "dataset_text_field": _column("text"),
    "field_messages": _messages,
    "messages_field": _messages,
    "field_instruction": _column("instruction"),
    "field_input": _column("input"),
    "field_output": _column("output"),
    "field_human": _column("prompt"),
    "field_model": _column("completion"),
    "prompt_column": _column("prompt"),
    "response_column": _column("completion"),
    "completion_column": _column("completion"),
    "field_system": lost("write the system text as the first turn of messages"),
    "field_tools": lost("write the tools into the column tools of the rows"),
    "system_prompt": lost("write the system text as the first turn of messages"),
    "system_format": lost(_PROMPT),
    "format": lost(_PROMPT),
    "no_input_format": lost(_PROMPT),
    "prompt_style": needless(_PROMPT),
    "chat_template": lost(
        "the base's own chat template is used; another one is a file, as chat_template_path under model"
    ),
    "chat_template_jinja": lost("another chat template is a file, as chat_template_path under model"),
    "conversation": needless("the base's own chat template is used"),
    "message_property_mappings": _turn_keys,
    "message_field_role": _turn_keys,
    "message_field_content": _turn_keys,
    "role_tag": _turn_keys,
    "content_tag": _turn_keys,
    "user_tag": _turn_keys,
    "assistant_tag": _turn_keys,
    "tags": lost(_TURNS),
    "roles": lost(_TURNS),
    "message_field_training": lost("what is learned is set by assistant_only_loss under training"),
    "message_field_training_detail": lost("what is learned is set by assistant_only_loss under training"),
    "roles_to_train": lost("the assistant's turns are what can be learned: `assistant_only_loss: true` under training"),
    "train_on_inputs": lost("write `completion_only_loss: false` under training to learn the prompt as well"),
    "train_on_eos": needless("the end of each learned turn is learned"),
    "train_on_eot": needless("the end of each learned turn is learned"),
    "shards": lost("max_samples takes the first rows"),
    "shards_idx": lost("max_samples takes the first rows"),
    "preprocess_shards": needless(_READ),
    "streaming": needless(_READ),
    "keep_in_memory": needless(_READ),
    "cache_dir": needless("HF_DATASETS_CACHE in the environment says where hub files are kept"),
    "num_proc": needless(_READ),
    "trust_remote_code": switch(lost("data sets that are programs are not run"), OFF),
    "token": lost("keep tokens out of specs; HF_TOKEN in the environment is read"),
    "ranking": switch(lost("only supervised fine-tuning is done here"), OFF),
    "probability": lost("max_samples sets how many rows count"),
    "proportion": lost("max_samples sets how many rows count"),
}
"""In an item of `datasets` or `eval_datasets`."""
