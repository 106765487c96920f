"""What people write for other tools is answered with the field that does it, or with why nothing does."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import pytest

from jobs.catalogue import blocks
from jobs.checking import check
from jobs.errors import Problem
from jobs.field_paths import replaced
from jobs.hints.answers import Answer, Rule
from jobs.hints.data_keys import DATASET_KEYS
from jobs.hints.spelling import distance, nearest
from jobs.hints.yaml_text import yaml_text
from jobs.loading import load_text
from jobs.regex_globs import globs
from jobs.schema import JobDocument, json_schema
from jobs.spec import JobSpec
from jobs.support import UNSUPPORTED
from jobs.unknown_keys import KEYS, accepts, unknown_key
from jobs.yaml_source import read_documents
from tests.jobs.texts import MINIMAL, problems_of, the_problem

VALUES = [None, True, False, 0, 1, 4, 0.03, 2e-4, 0.0, "words", "auto", "none", "cosine", "a,b", ".*q_proj", [], {}]
VALUES += [["q_proj"], {"a": 1}, [{"path": "a"}], "float16", "sft", "qlora", -1, "steps"]
FIELDS = {f"{block}.{name}".lstrip(".") for block, names in blocks(JobSpec).items() for name in names}


def every_answer() -> list[tuple[str, object, Answer]]:
    tables: tuple[Mapping[str, Rule], ...] = (KEYS, DATASET_KEYS)
    return [(key, value, rule(value, {})) for table in tables for key, rule in table.items() for value in VALUES]


def test_every_answer_names_fields_that_are_there_or_says_why_not() -> None:
    always_refused = {entry.field for entry in UNSUPPORTED if not entry.field.startswith("model.")}
    for key, value, answer in every_answer():
        assert answer.fields or answer.note, (key, value)
        for field, _ in answer.fields:
            assert field in FIELDS, (key, field)
            assert field not in always_refused, (key, field)


def test_every_field_of_the_tables_takes_one_of_the_values_that_are_written_there() -> None:
    taken: dict[tuple[str, str], bool] = {}
    for key, _, answer in every_answer():
        for field, value in answer.fields:
            taken[key, field] = taken.get((key, field), False) or value in (None, {}) or accepts(field, value)
    blocks_of_their_own = {"lora", "training", "model"}
    assert [key for (key, field), well in taken.items() if not well and field not in blocks_of_their_own] == []


PIECE = re.compile(r"`(\w+: [^`]*)`((?: under \w+| at the top level| in each item of \w+)?)")


def with_advice(message: str, parent: tuple[str | int, ...]) -> list[Problem]:
    """What is wrong with a job after the lines that a message says to write have been written."""
    document: dict[str, Any] = {
        "name": "a",
        "model": {"model_name_or_path": "b"},
        "datasets": [{"path": "c"}],
        "val_size": 3,
    }
    pieces = PIECE.findall(message[message.index(" Write `") :].partition("; ")[0])
    assert pieces, message
    for line, place in pieces:
        # One place for several lines comes after the last of them.
        where = place or pieces[-1][1]
        (read,), problems = read_documents(line, file="x")
        assert problems == []
        ((name, value),) = read.value.items()
        block = where.rpartition(" ")[2]
        base: tuple[str | int, ...] = parent
        if where:
            base = () if "top level" in where else (block, 0) if "item" in where else (block,)
        if "eval_datasets" in (name, *base):
            document = {key: item for key, item in document.items() if key != "val_size"}
            document.setdefault("eval_datasets", [{"path": "d"}])
        document = replaced(document, (*base, name), value)
    return check(document)[1]


@pytest.mark.parametrize("parent", [(), ("training",), ("lora",), ("model",), ("datasets", 0)], ids=str)
def test_every_advice_validates_once_it_is_followed(parent: tuple[str | int, ...]) -> None:
    advised = 0
    for key, rule in (DATASET_KEYS if parent[:1] == ("datasets",) else KEYS).items():
        for value in [*VALUES, *(advice for _, advice in rule("words", {}).fields)]:
            message = unknown_key(parent, key, root=JobDocument, value=value)
            if " Write `" in message:
                assert with_advice(message, parent) == [], (key, value, message)
                advised += 1
    assert advised > 20


def test_no_key_of_the_tables_is_a_field_of_its_block() -> None:
    ours = {name for names in blocks(JobSpec).values() for name in names}
    assert {key for key in KEYS if key in ours} <= {"max_samples"}
    assert not set(DATASET_KEYS) & set(blocks(JobSpec)["datasets[]"])


@pytest.mark.parametrize(
    "line, words",
    [
        ("warmup_ratio: 0.03", "Write `warmup_steps: 0.03`"),
        ("micro_batch_size: 2", "Write `per_device_train_batch_size: 2`"),
        ("lora_r: 16", "Write `r: 16` under lora"),
        ("sequence_len: 2048", "Write `max_length: 2048`"),
        ("max_seq_length: 2048", "Write `max_length: 2048`"),
        ("val_set_size: 0.05", "Write `val_size: 0.05` at the top level"),
        ("bf16: true", "Write `dtype: bfloat16` under model"),
        ("adapter: qlora", "`model.dtype`? Write `dtype: bfloat16` under model"),
        ("num_epochs: 4", "Write `num_train_epochs: 4`"),
        ("saves_per_epoch: 1", "Write `save_strategy: epoch`"),
        ("evals_per_epoch: 1", "Write `eval_strategy: epoch`"),
        ("dataset_text_field: text", "nothing has to be written: rows are recognised by their column text"),
        ("dataset_text_field: body", "Write `columns: {text: body}` in each item of datasets"),
        ("train_on_inputs: true", "Write `completion_only_loss: false`"),
        ("train_on_inputs: false", "nothing has to be written"),
        ("sample_packing: true", "without padding anyway"),
        ("gradient_checkpointing_kwargs: {use_reentrant: false}", "nothing has to be written"),
        ("lora_target: all", "Write `target_modules: all-linear` under lora"),
        (r"lora_target_modules: '.*\.(q|v)_proj'", "Write `target_modules: [q_proj, v_proj]` under lora"),
        ("lr: 2e-4", "Write `learning_rate: 0.0002`"),
        ("optimizer: adamw_bnb_8bit", "Write `optim: adamw_bnb_8bit`"),
        ("chat_template: chatml", "chat_template_path"),
        ("loftq_config: {loftq_bits: 4}", "stays as it is"),
        ("loftq_config: {}", "off here anyway"),
        ("wandb_name: ", "it is empty: delete the line"),
        ("wandb_project: mine", "Write `report_to: wandb` at the top level"),
        ("resume_from_checkpoint: true", "run the same command again"),
        ("save_minutes: 5", "not supported yet"),
        ("dataset_name: trl-lib/Capybara", "Write `datasets: [{path: trl-lib/Capybara}]` at the top level"),
        ("lora_dropout: 0.1", "`lora.lora_dropout`? Write `lora_dropout: 0.1` under lora"),
    ],
)
def test_keys_of_other_tools(line: str, words: str) -> None:
    problem = the_problem(MINIMAL + f"training: {{{line}}}")
    assert words in problem.message


@pytest.mark.parametrize(
    "line, words",
    [
        ("type: alpaca", "nothing has to be written: rows of instruction"),
        ("field_messages: turns", "Write `columns: {messages: turns}`"),
        ("subset: en", "Write `name: en`"),
        ("config_name: en", "Write `name: en`"),
        ("data_dir: part", '`datasets[0].data_files`? Write `data_files: "part/*"`'),
        ("chat_template: chatml", "chat_template_path under model"),
        ("ds_type: json", "nothing has to be written: the ending of a file tells its type"),
    ],
)
def test_keys_of_data_sets(line: str, words: str) -> None:
    problem = the_problem(MINIMAL + f"    {line}\n")
    assert words in problem.message


def test_the_first_things_that_people_type() -> None:
    text = MINIMAL + (
        "training: {optim: adamw_8bit, save_strategy: epoch, packing: true, eval_steps: 0.25, save_steps: 0.25,"
        " lr_scheduler_type: cosine_with_min_lr, lr_scheduler_kwargs: {min_lr_rate: 0.1}}\nreport_to: [none]\n"
    )
    found = {problem.field: problem.message for problem in problems_of(text)}
    assert set(found) == {"training.packing", "training.lr_scheduler_type", "training.lr_scheduler_kwargs"}
    assert all(message.startswith("not supported yet: ") for message in found.values())


@pytest.mark.parametrize(
    "line, field, value",
    [
        ("report_to: [none]", "report_to", "none"),
        ("training: {optim: paged_adamw_32bit}", "training.optim", "adamw_torch"),
        ("training: {optim: adamw_8bit}", "training.optim", "adamw_8bit"),
        ("training: {save_steps: 0.25}", "training.save_steps", 0.25),
        ("training: {save_steps: 100.0}", "training.save_steps", 100),
        ('training: {learning_rate: "1e-4"}', "training.learning_rate", 1e-4),
        ("training: {max_steps: 1_000}", "training.max_steps", 1000),
        ('lora: {r: "4"}', "lora.r", 4),
        ("training: {gradient_checkpointing: yes}", "training.gradient_checkpointing", True),
        ("lora: {use_rslora: 'False'}", "lora.use_rslora", False),
        ("training: {eval_on_start: true}", "training.eval_on_start", True),
    ],
)
def test_spellings_with_the_same_meaning_are_accepted_and_in_the_schema(line: str, field: str, value: object) -> None:
    spec = load_text(MINIMAL + line)[0].spec
    found: object = spec
    for name in field.split("."):
        found = getattr(found, name)
    assert (found, type(found)) == (value, type(value))
    jsonschema = pytest.importorskip("jsonschema")
    (document,), _ = read_documents(MINIMAL + line, file="x")
    jsonschema.Draft202012Validator(json_schema()).validate(document.value)


@pytest.mark.parametrize("value", ["[wandb, none]", "all"])
def test_reporters_that_mean_something_else_are_refused(value: str) -> None:
    assert the_problem(MINIMAL + f"report_to: {value}").field.startswith("report_to")


def test_an_empty_field_says_what_its_default_is() -> None:
    assert "the default is 1024" in the_problem(MINIMAL + "training:\n  max_length:\n").message


def test_a_value_of_another_field_of_that_name_is_answered_with_it() -> None:
    assert "did you mean `scheduling.packing`?" in the_problem(MINIMAL + "training: {packing: exact}").message


def test_no_argument_of_transformers_or_peft_is_taken_for_a_slip() -> None:
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    known = {name for names in blocks(JobSpec).values() for name in names}
    for arguments in (transformers.TrainingArguments, peft.LoraConfig):
        for field in dataclasses.fields(arguments):
            if field.name in known:
                continue
            assert field.name in KEYS, field.name


def test_guesses_stay_within_slips_of_the_fingers() -> None:
    names = blocks(JobSpec)["training"]
    assert nearest("save_stratgy", names) == "save_strategy"
    assert nearest("learning-rate", names) == "learning_rate"
    assert nearest("adam_beta3", names) is None
    assert nearest("eval_batches", names) is None
    assert nearest("x", names) is None
    assert distance("nmae", "name") == 1
    assert distance("", "abc") == 3


AXOLOTL = """\
base_model: a/b
load_in_4bit: true
datasets: [{path: a/c, type: alpaca}]
adapter: qlora
sequence_len: 2048
sample_packing: true
lora_r: 16
micro_batch_size: 2
num_epochs: 4
wandb_name:
evals_per_epoch: 4
"""
LLAMA_FACTORY = """\
model_name_or_path: a/b
stage: sft
finetuning_type: lora
lora_target: all
dataset: identity
template: qwen3
cutoff_len: 2048
bf16: true
"""
TRL = """\
model_name_or_path: a/b
dataset_name: a/c
use_peft: true
lora_r: 16
torch_dtype: bfloat16
learning_rate: 2.0e-4
attn_implementation: flash_attention_2
"""


@pytest.mark.parametrize(
    "text, tool, gone",
    [
        (AXOLOTL, "an Axolotl configuration", "sample_packing, wandb_name"),
        (LLAMA_FACTORY, "a LLaMA-Factory configuration", "stage, finetuning_type"),
        (TRL, "a TRL configuration", "use_peft, attn_implementation"),
    ],
)
def test_a_whole_configuration_of_another_tool_is_recognised(text: str, tool: str, gone: str) -> None:
    first, name, deleted, *rest = problems_of(text)
    assert first.message.startswith(f"this looks like {tool}: ")
    assert name.field == "name"
    assert deleted.message.endswith(gone)
    assert not any("there is no such field" in problem.message for problem in rest)
    assert len(rest) < len(text.splitlines())


def test_a_job_with_keys_of_other_tools_is_no_configuration_of_theirs() -> None:
    found = problems_of(MINIMAL + "base_model: a\nsequence_len: 1\nlora_r: 1\nadapter: lora\n")
    assert "looks like" not in found[0].message


@pytest.mark.parametrize(
    "pattern, expected",
    [
        (r".*\.(q|v)_proj", ["q_proj", "v_proj"]),
        (r".*(q_proj|k_proj)$", ["*q_proj", "*k_proj"]),
        (r".*_proj", ["*_proj"]),
        (r"model.layers.[01].*\.q_proj", ["model.layers.[01]*.q_proj"]),
        (
            r"model.language_model.layers.[\d]+.(mlp|self_attn).(up|q)_proj",
            [f"model.language_model.layers.*.{block}.{name}_proj" for block in ("mlp", "self_attn") for name in "uq"],
        ),
        (r"^(?!.*vision).*q_proj$", None),
        (r"q{2,3}_proj", None),
        (r"((((", None),
    ],
)
def test_regular_expressions_become_globs(pattern: str, expected: list[str] | None) -> None:
    if expected is not None:
        expected = [glob.replace("u_proj", "up_proj") for glob in expected]
    assert globs(pattern) == expected


@pytest.mark.parametrize("value", [True, 3, 2e-05, "a b", "yes: no", "1e-4", "", "#x", [1, "a"], {"a": {"b": [None]}}])
def test_values_read_back_as_they_were(value: object) -> None:
    (document,), problems = read_documents(f"a: {yaml_text(value)}", file="x")
    assert problems == []
    assert document.value == {"a": value}
