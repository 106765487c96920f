import pickle

import pytest
from pydantic import ValidationError

from jobs.frozen_dict import FrozenDict
from jobs.loading import load_text
from jobs.spec import JobSpec
from tests.jobs.texts import MINIMAL, problems_of, the_problem

# The table of the job spec, field by field.
DEFAULTS = {
    "labels": {},
    "model.revision": None,
    "model.dtype": "auto",
    "model.load_in_4bit": False,
    "model.load_in_8bit": False,
    "model.chat_template_path": None,
    "model.trust_remote_code": False,
    "lora.r": 16,
    "lora.lora_alpha": 32,
    "lora.lora_dropout": 0.0,
    "lora.target_modules": "all-linear",
    "lora.exclude_modules": None,
    "lora.rank_pattern": {},
    "lora.alpha_pattern": {},
    "lora.use_rslora": False,
    "lora.init_lora_weights": True,
    "lora.bias": "none",
    "lora.modules_to_save": None,
    "lora.use_dora": False,
    "lora.parent": None,
    "lora.init_from": None,
    "lora.loraplus_lr_ratio": None,
    "lora.layers_to_transform": None,
    "lora.target_parameters": None,
    "lora.trainable_token_indices": None,
    "lora.lora_bias": False,
    "task_type": "CAUSAL_LM",
    "eval_datasets": [],
    "val_size": 0,
    "training.max_length": 1024,
    "training.completion_only_loss": None,
    "training.assistant_only_loss": False,
    "training.per_device_train_batch_size": 8,
    "training.gradient_accumulation_steps": 1,
    "training.per_device_eval_batch_size": 8,
    "training.gradient_checkpointing": False,
    "training.num_train_epochs": 3,
    "training.max_steps": -1,
    "training.learning_rate": 1e-4,
    "training.lr_scheduler_type": "linear",
    "training.lr_scheduler_kwargs": {},
    "training.warmup_steps": 0,
    "training.optim": "adamw_torch",
    "training.adam_beta1": 0.9,
    "training.adam_beta2": 0.999,
    "training.adam_epsilon": 1e-8,
    "training.weight_decay": 0,
    "training.max_grad_norm": 1.0,
    "training.neftune_noise_alpha": None,
    "training.packing": False,
    "training.packing_strategy": "bfd",
    "training.group_by_length": False,
    "training.label_smoothing_factor": 0,
    "training.max_nonfinite_steps": 3,
    "training.max_skipped_rows": 0,
    "training.seed": 42,
    "training.logging_steps": 10,
    "training.eval_strategy": "no",
    "training.eval_steps": 100,
    "training.eval_on_start": True,
    "training.save_strategy": "steps",
    "training.save_steps": 100,
    "training.save_total_limit": 2,
    "training.load_best_model_at_end": False,
    "training.metric_for_best_model": "eval_loss",
    "training.greater_is_better": None,
    "training.early_stopping_patience": None,
    "training.early_stopping_threshold": 0,
    "training.chat_template_kwargs": {},
    "training.eos_token": None,
    "scheduling.queue": "default",
    "scheduling.priority": 0,
    "scheduling.max_execution_time": None,
    "scheduling.packing": "shared",
    "job_recovery.max_restarts_on_errors": 1,
    "output.uri": None,
    "output.push_to_hub": False,
    "output.hub_model_id": None,
    "report_to": "none",
}
DATASET_DEFAULTS = {
    "name": None,
    "split": "train",
    "data_files": None,
    "revision": None,
    "columns": {},
    "max_samples": None,
    "weight": None,
}


def flat(data: dict[str, object]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in data.items():
        if (
            isinstance(value, dict)
            and key not in ("labels", "rank_pattern", "alpha_pattern")
            and not key.endswith("_kwargs")
        ):
            found |= {f"{key}.{inner}": item for inner, item in flat(value).items()}
        else:
            found[key] = value
    return found


def minimal() -> JobSpec:
    return load_text(MINIMAL)[0].spec


def full() -> JobSpec:
    return load_text(
        MINIMAL
        + """\
labels: {team: search, "example.org/stage": trial}
eval_datasets: [{path: held.csv, columns: {prompt: question}, split: "test[:10]"}, {path: json, data_files: [a, b]}]
lora:
  r: 6
  lora_alpha: 7.5
  target_modules: [q_proj, "*.mlp.*_proj"]
  exclude_modules: [layers.0.*]
  rank_pattern: {model.layers.1.q_proj: 4, "*v_proj": 2}
  alpha_pattern: {"*v_proj": 3}
  init_lora_weights: orthogonal
training: {eval_strategy: steps, warmup_steps: 0.1, optim: adamw_torch_fused, max_steps: 7, lr_scheduler_type: cosine}
scheduling: {packing: exact, priority: -3}
"""
    )[0].spec


def test_every_default_is_the_one_of_the_table() -> None:
    dumped = minimal().model_dump(mode="json")
    assert dumped.pop("datasets") == [{"path": "rows.jsonl", **DATASET_DEFAULTS}]
    assert dumped.pop("name") == "first"
    assert dumped["model"].pop("model_name_or_path") == "some/model"
    assert flat(dumped) == DEFAULTS


@pytest.mark.parametrize("make", [minimal, full])
def test_a_spec_survives_json_and_pickle(make) -> None:
    spec = make()
    assert JobSpec.model_validate(spec.model_dump(mode="json")) == spec
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec
    copy = pickle.loads(pickle.dumps(spec))
    assert copy == spec
    assert hash(copy) == hash(spec)
    assert copy.model_fields_set == spec.model_fields_set


def test_a_spec_cannot_be_changed() -> None:
    spec = full()
    with pytest.raises(ValidationError):
        spec.name = "other"
    with pytest.raises(ValidationError):
        spec.lora.r = 3
    assert isinstance(spec.lora.rank_pattern, FrozenDict)
    for change in (
        lambda: spec.lora.rank_pattern.__setitem__("a", 1),
        lambda: spec.lora.rank_pattern.update(a=1),
        lambda: spec.lora.rank_pattern.pop("*v_proj"),
        lambda: spec.labels.__delitem__("team"),
        lambda: spec.labels.setdefault("a", "b"),
        lambda: spec.labels.clear(),
    ):
        with pytest.raises(TypeError):
            change()
    assert isinstance(spec.datasets, tuple)
    assert isinstance(spec.lora.target_modules, tuple)


def test_values_are_taken_as_written() -> None:
    spec = full()
    assert spec.lora.lora_alpha == 7.5
    assert spec.lora.rank_pattern == {"model.layers.1.q_proj": 4, "*v_proj": 2}
    assert list(spec.lora.rank_pattern) == ["model.layers.1.q_proj", "*v_proj"]
    assert spec.training.optim == "adamw_torch"
    assert spec.training.warmup_steps == 0.1
    assert spec.eval_datasets[0].columns == {"prompt": "question"}
    assert spec.eval_datasets[1].data_files == ("a", "b")


def test_the_hash_is_of_the_meaning() -> None:
    spec = minimal()
    spelled_out = JobSpec.model_validate(spec.model_dump(mode="json"))
    assert spec.spec_sha256() == spelled_out.spec_sha256()
    assert len(spec.spec_sha256()) == 64

    def of(block: str) -> str:
        return load_text(MINIMAL + block)[0].spec.spec_sha256()

    assert of("lora: {r: 16, lora_alpha: 32.0}") == spec.spec_sha256()
    assert of("val_size: 0.0") == of("training: {optim: adamw_torch_fused}") == of("training: {num_train_epochs: 3}")
    assert of("lora: {r: 17}") != spec.spec_sha256()
    # The first matching glob decides, so the order of patterns is part of the meaning; that of labels is not.
    assert of("lora: {rank_pattern: {a: 1, b: 2}}") != of("lora: {rank_pattern: {b: 2, a: 1}}")
    assert of("labels: {a: x, b: y}") == of("labels: {b: y, a: x}")


@pytest.mark.parametrize(
    "block, field, words",
    [
        ("lora: {r: 0}", "lora.r", "at least 1"),
        ("lora: {r: 4.0}", "lora.r", "whole number"),
        ('lora: {r: "four"}', "lora.r", "whole number"),
        ("lora: {r: true}", "lora.r", "whole number"),
        ("lora: {r: 99999999999999999999}", "lora.r", "at most"),
        ("lora: {lora_alpha: 0}", "lora.lora_alpha", "greater than 0"),
        ("lora: {lora_alpha: .inf}", "lora.lora_alpha", "finite"),
        ("lora: {lora_dropout: 1}", "lora.lora_dropout", "less than 1"),
        ("lora: {lora_dropout: -0.1}", "lora.lora_dropout", "at least 0"),
        ("lora: {lora_dropout: .nan}", "lora.lora_dropout", "finite"),
        ("lora: {bias: all}", "lora.bias", "'none'"),
        ("lora: {target_modules: q_proj}", "lora.target_modules", "all-linear"),
        ("lora: {target_modules: []}", "lora.target_modules", "at least 1"),
        ("lora: {target_modules: 3}", "lora.target_modules", "all-linear"),
        ("lora: {target_modules: [all-linear]}", "lora.target_modules[0]", "stands alone"),
        ("lora: {target_modules: [a, '.*q_proj']}", "lora.target_modules[1]", "regular expression"),
        ("lora: {exclude_modules: ['(a|b)']}", "lora.exclude_modules[0]", "regular expression"),
        ("lora: {exclude_modules: lm_head}", "lora.exclude_modules", "list"),
        ("lora: {rank_pattern: {a: 0}}", "lora.rank_pattern.a", "at least 1"),
        ("lora: {rank_pattern: {'^a': 1}}", "lora.rank_pattern.^a", "regular expression"),
        ("lora: {rank_pattern: [a]}", "lora.rank_pattern", "block"),
        ("lora: {alpha_pattern: {a: x}}", "lora.alpha_pattern.a", "greater than 0"),
        ("lora: {use_rslora: y}", "lora.use_rslora", "true or false"),
        ("lora: {use_rslora: 1}", "lora.use_rslora", "true or false"),
        ("lora: 16", "lora", "block"),
        ("lora:", "lora", "is empty"),
        ("val_size: 1.0", "val_size", "share"),
        ("val_size: -1", "val_size", "whole number of rows"),
        ("val_size: .nan", "val_size", "share"),
        ("val_size: true", "val_size", "whole number of rows"),
        ("training: {warmup_steps: 1.5}", "training.warmup_steps", "share"),
        ("training: {warmup_steps: -1}", "training.warmup_steps", "whole number of steps"),
        ("training: {max_steps: 0}", "training.max_steps", "-1"),
        ("training: {max_steps: -2}", "training.max_steps", "at least -1"),
        ("training: {num_train_epochs: 0}", "training.num_train_epochs", "greater than 0"),
        ("training: {learning_rate: 0}", "training.learning_rate", "greater than 0"),
        ("training: {learning_rate: .inf}", "training.learning_rate", "finite"),
        ("training: {learning_rate: 1e999}", "training.learning_rate", "finite"),
        ("training: {learning_rate: fast}", "training.learning_rate", "should be a number"),
        ("training: {adam_beta1: 1.0}", "training.adam_beta1", "less than 1"),
        ("training: {adam_beta2: -1}", "training.adam_beta2", "at least 0"),
        ("training: {adam_epsilon: 0}", "training.adam_epsilon", "greater than 0"),
        ("training: {weight_decay: -1}", "training.weight_decay", "at least 0"),
        ("training: {seed: -1}", "training.seed", "at least 0"),
        ("training: {optim: adafactor}", "training.optim", "'sgd'"),
        ("training: {lr_scheduler_type: staircase}", "training.lr_scheduler_type", "'inverse_sqrt'"),
        ("training: {eval_strategy: never}", "training.eval_strategy", "'epoch'"),
        ("model: {model_name_or_path: ''}", "model.model_name_or_path", "empty"),
        ("scheduling: {packing: tight}", "scheduling.packing", "'exact'"),
        ("scheduling: {priority: 1.5}", "scheduling.priority", "whole number"),
        ("report_to: stdout", "report_to", "'wandb'"),
        ("task_type: SEQ2SEQ", "task_type", "'CAUSAL_LM'"),
        ("labels: {a: 1}", "labels.a", "quotes"),
        ("labels: {a: 'b c'}", "labels", "label"),
        ("eval_datasets: [{path: 3}]", "eval_datasets[0].path", "text"),
        ("eval_datasets: [{path: a, max_samples: 0}]", "eval_datasets[0].max_samples", "at least 1"),
        ("eval_datasets: [{path: a, columns: {promt: b}}]", "eval_datasets[0].columns", "'promt'"),
        ('eval_datasets: [{path: "a\\0b"}]', "eval_datasets[0].path", "NUL"),
        ("eval_datasets: {path: a}", "eval_datasets", "list"),
    ],
)
def test_a_wrong_value_is_answered_at_its_field(block: str, field: str, words: str) -> None:
    text = MINIMAL.replace("model: {model_name_or_path: some/model}\n", "#\n") if "model:" in block else MINIMAL
    problem = the_problem(text + block)
    assert (problem.field, problem.line, problem.file) == (field, 5, "job.yaml")
    assert words in problem.message
    assert "pydantic" not in str(problem)
    assert "Input" not in str(problem)


@pytest.mark.parametrize("name", ["A", "a_b", "-a", "a-", "a" * 64, "", "a.b", "ä", "../x", "a\\n"])
def test_names_are_labels_of_a_host(name: str) -> None:
    problem = the_problem(MINIMAL.replace("name: first", f'name: "{name}"'))
    assert (problem.field, problem.line) == ("name", 1)
    assert "63 lowercase letters" in problem.message


@pytest.mark.parametrize("name", ["a", "0", "a-b", "a" * 63])
def test_good_names(name: str) -> None:
    assert load_text(MINIMAL.replace("name: first", f'name: "{name}"'))[0].spec.name == name


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga"])
def test_initialisations_that_overwrite_the_base_are_refused_saying_so(init: str) -> None:
    problem = the_problem(MINIMAL + f"lora: {{init_lora_weights: {init}}}")
    assert problem.field == "lora.init_lora_weights"
    assert "overwrites the base weight" in problem.message
    assert "share" in problem.message
    assert problem.value == repr(init)


@pytest.mark.parametrize("init", ["eva", "xavier", "1", "yes"])
def test_other_initialisations_are_refused(init: str) -> None:
    problem = the_problem(MINIMAL + f"lora: {{init_lora_weights: {init}}}")
    assert "true, false, gaussian or orthogonal" in problem.message


@pytest.mark.parametrize(
    "block, field, words",
    [
        ("training: {eval_strategy: epoch}", "training.eval_strategy", ("eval_datasets", "val_size")),
        ("val_size: 3\neval_datasets: [{path: a}]", "val_size", ("val_size", "eval_datasets")),
        ("lora: {init_lora_weights: orthogonal, r: 5}", "lora.r", ("orthogonal", "even")),
        ("lora: {init_lora_weights: orthogonal, rank_pattern: {a: 3}}", "lora.rank_pattern.a", ("orthogonal", "even")),
        (
            "training: {lr_scheduler_type: constant, warmup_steps: 5}",
            "training.warmup_steps",
            ("lr_scheduler_type: constant", "constant_with_warmup"),
        ),
        ("eval_datasets: [{path: csv}]", "eval_datasets[0].path", ("data_files",)),
        ("eval_datasets: [{path: a.csv, data_files: b.csv}]", "eval_datasets[0].path", ("data_files",)),
    ],
)
def test_clashes_name_both_fields(block: str, field: str, words: tuple[str, ...]) -> None:
    problem = the_problem(MINIMAL + block)
    assert problem.field == field
    assert problem.line == 5
    assert all(word in problem.message for word in words)


def test_clashes_come_with_the_other_problems() -> None:
    found = problems_of(
        "name: Bad\nmodel: {revision: 3}\ndatasets: [{path: ''}]\n"
        "lora: {init_lora_weights: orthogonal, r: 5, lora_dropout: 2}\ntraining: {eval_strategy: steps, unknown: 1}\n"
    )
    assert [problem.field for problem in found] == [
        "name",
        "model.model_name_or_path",
        "model.revision",
        "datasets[0].path",
        "lora.lora_dropout",
        "lora.r",
        "training.unknown",
        "training.eval_strategy",
    ]


def test_a_clash_with_a_field_that_is_wrong_itself_is_not_told() -> None:
    assert the_problem(MINIMAL + "training: {eval_strategy: steps}\nval_size: 1.5").field == "val_size"
    assert the_problem(MINIMAL + "training: {eval_strategy: steps}\neval_datasets: [{}]").field == (
        "eval_datasets[0].path"
    )
    assert the_problem(MINIMAL + "lora: {init_lora_weights: orthogonal, r: 0}").field == "lora.r"


def test_float64_is_there_for_tests() -> None:
    spec = load_text(MINIMAL.replace("some/model", "some/model, dtype: float64"))[0].spec
    assert spec.model.dtype == "float64"


def test_a_spec_that_sets_nothing_new_has_the_hash_that_version_0_1_0_gave_it() -> None:
    """A job that was begun before an upgrade goes on after it."""
    short = {"name": "a", "model": {"model_name_or_path": "m"}, "datasets": [{"path": "d.jsonl"}]}
    assert JobSpec.model_validate(short).spec_sha256().startswith("bcba0a9dc207a45db0528a6cc08d7292")
    longer = {
        "name": "b",
        "model": {"model_name_or_path": "m", "dtype": "bfloat16"},
        "datasets": [{"path": "d.jsonl", "columns": {"prompt": "q", "completion": "a"}}],
        "val_size": 3,
        "lora": {"r": 4, "rank_pattern": {"q_proj": 8}},
        "training": {"learning_rate": 1e-3, "save_steps": 7, "optim": "sgd"},
        "scheduling": {"packing": "exact", "priority": 3},
        "report_to": ["tensorboard"],
    }
    assert JobSpec.model_validate(longer).spec_sha256().startswith("e71d91c5ff80344ff401512fa60c8276")
    longer["training"]["save_strategy"] = "epoch"
    assert not JobSpec.model_validate(longer).spec_sha256().startswith("e71d91c5ff80344ff401512fa60c8276")
