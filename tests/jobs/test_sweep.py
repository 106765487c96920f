import time

import pytest

from jobs.loading import load_text
from tests.jobs.texts import BLOWS_UP_SECONDS, MINIMAL, problems_of, the_problem

GRID = """\
sweep:
  parameters:
    lora.r: {values: [4, 8]}
    training.learning_rate:
      values:
        - 1e-4
        - 2e-4
        - 3e-4
"""


def test_a_grid_is_every_combination_the_last_parameter_fastest() -> None:
    specs = [item.spec for item in load_text(MINIMAL + GRID)]
    assert [spec.name for spec in specs] == [f"first-00{i}" for i in range(1, 7)]
    assert [(spec.lora.r, spec.training.learning_rate) for spec in specs] == [
        (4, 1e-4),
        (4, 2e-4),
        (4, 3e-4),
        (8, 1e-4),
        (8, 2e-4),
        (8, 3e-4),
    ]
    assert all(spec.labels == {"sweep": "first"} for spec in specs)
    assert [spec.model_fields_set & {"sweep"} for spec in specs] == [set()] * 6


def test_what_the_sweep_does_not_set_stays() -> None:
    text = MINIMAL + "labels: {team: a}\nlora: {r: 2, lora_alpha: 5}\n" + GRID
    spec = load_text(text)[3].spec
    assert (spec.lora.r, spec.lora.lora_alpha, spec.labels) == (8, 5, {"team": "a", "sweep": "first"})


def test_problems_point_at_the_value_in_the_sweep_and_come_once() -> None:
    problem = the_problem(MINIMAL + GRID.replace("2e-4", "0"))
    assert (problem.field, problem.line, problem.value) == ("training.learning_rate", 11, "0")
    assert "greater than 0" in problem.message
    found = problems_of(MINIMAL + "lora: {lora_dropout: 2}\n" + GRID.replace("[4, 8]", "[0, -1, a]"))
    assert [(problem.field, problem.line, problem.value) for problem in found] == [
        ("lora.lora_dropout", 5, "2"),
        ("lora.r", 8, "0"),
        ("lora.r", 8, "-1"),
        ("lora.r", 8, "'a'"),
    ]


def test_places_of_swept_fields_are_in_the_sweep() -> None:
    loaded = load_text(MINIMAL + GRID, file="f")
    assert loaded[1].source.place("training.learning_rate") == ("f", 11)
    assert loaded[2].source.place("training.learning_rate") == ("f", 12)
    assert loaded[0].source.place("lora.r") == ("f", 7)
    assert loaded[0].source.place("datasets[0].path") == ("f", 4)


@pytest.mark.parametrize(
    "num_axes, shown", [(4, "10,000"), (6, "1,000,000"), (30, "about 10^30"), (400, "about 10^400")]
)
def test_a_large_grid_is_refused_at_once_naming_its_size(num_axes: int, shown: str) -> None:
    axes = "".join(
        f"    lora.rank_pattern.a{i}: {{values: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}}\n" for i in range(num_axes)
    )
    started = time.process_time()
    problem = the_problem(MINIMAL + "sweep:\n  parameters:\n" + axes)
    assert time.process_time() - started < BLOWS_UP_SECONDS
    assert (problem.field, problem.line) == ("sweep.parameters", 6)
    assert f"a grid of {shown} jobs is above sweep.run_cap, 256" in problem.message


def test_run_cap_is_the_most_a_grid_may_have() -> None:
    assert len(load_text(MINIMAL + GRID + "  run_cap: 6\n")) == 6
    assert "a grid of 6 jobs is above sweep.run_cap, 5" in the_problem(MINIMAL + GRID + "  run_cap: 5\n").message
    problem = the_problem(MINIMAL + GRID + "  run_cap: 100000\n")
    assert (problem.field, problem.line) == ("sweep.run_cap", 13)
    assert "at most 4096" in problem.message


def test_sweeps_of_one_file_share_a_limit() -> None:
    def document(name: str, end: str = "") -> str:
        return MINIMAL.replace("first", name) + (
            "sweep: {method: random, run_cap: 2500, parameters: {lora.r: {min: 1, max: 64}}}\n" + end
        )

    assert len(load_text(document("a"))) == 2500
    problem = the_problem(document("a", "---\n") + document("b"))
    assert (problem.field, problem.line) == ("sweep", 11)
    assert "4,096" in problem.message
    # A document of many fields may stand for fewer jobs.
    modules = ", ".join(f"m{i}" for i in range(900))
    assert "too many jobs" in the_problem(document("a", f"lora: {{target_modules: [{modules}]}}\n")).message


RANDOM = """\
sweep:
  method: random
  run_cap: 200
  parameters:
    lora.r: {min: 2, max: 32}
    lora.lora_alpha: {min: 1, max: 1000, log: true}
    training.learning_rate: {min: 1e-6, max: 1e-2, log: true}
    lora.lora_dropout: {min: 0.0, max: 0.5}
    training.lr_scheduler_type: {values: [linear, cosine]}
"""


def test_random_draws_lie_in_their_ranges() -> None:
    specs = [item.spec for item in load_text(MINIMAL + RANDOM)]
    assert len(specs) == 200
    assert {spec.lora.r for spec in specs} == set(range(2, 33))
    assert all(isinstance(spec.lora.lora_alpha, int) and 1 <= spec.lora.lora_alpha <= 1000 for spec in specs)
    assert all(1e-6 <= spec.training.learning_rate <= 1e-2 for spec in specs)
    # Half of the draws lie below the geometric mean, where an even draw would put one in a hundred.
    assert 70 < sum(spec.training.learning_rate < 1e-4 for spec in specs) < 130
    assert 70 < sum(spec.lora.lora_dropout < 0.25 for spec in specs) < 130
    assert 70 < sum(spec.training.lr_scheduler_type == "linear" for spec in specs) < 130


def test_random_draws_depend_on_seed_and_name_alone() -> None:
    def draws(text: str, **options: list[str]) -> list[int]:
        return [item.spec.lora.r for item in load_text(text, **options)]

    text = MINIMAL + RANDOM
    assert draws(text) == draws(text)
    assert draws(text) == draws(text, overrides=["training.seed=42"])
    assert draws(text) != draws(text, overrides=["training.seed=43"])
    assert draws(text) != draws(text.replace("name: first", "name: other"))


def test_names_stay_within_63_characters() -> None:
    name = "a" * 58 + "-bcde"[:5]
    for text, last in ((GRID, "-006"), (RANDOM, "-200")):
        names = [item.spec.name for item in load_text(MINIMAL.replace("first", name) + text)]
        assert names[-1] == "a" * 58 + last
        assert len(set(names)) == len(names)
    labels = load_text(MINIMAL.replace("first", name) + GRID)[0].spec.labels
    assert labels == {"sweep": name}
    wide = GRID + "    training.seed: {values: [" + ", ".join(map(str, range(200))) + "]}\n  run_cap: 4000\n"
    assert [item.spec.name for item in load_text(MINIMAL + wide)][:2] == ["first-0001", "first-0002"]


@pytest.mark.parametrize(
    "block, field, words",
    [
        ("{parameters: {lora.rr: {values: [1]}}}", "sweep.parameters.lora.rr", "did you mean `r`"),
        ("{parameters: {r: {values: [1]}}}", "sweep.parameters.r", "did you mean `lora.r`"),
        ("{parameters: {name: {values: [a]}}}", "sweep.parameters.name", "names its jobs itself"),
        ("{parameters: {sweep.run_cap: {values: [1]}}}", "sweep.parameters.sweep.run_cap", "no such field"),
        ("{parameters: {'datasets[3].path': {values: [a]}}}", "sweep.parameters.datasets[3].path", "the list has 1"),
        ("{parameters: {lora.r: {values: []}}}", "sweep.parameters.lora.r.values", "at least 1"),
        ("{parameters: {lora.r: {values: 3}}}", "sweep.parameters.lora.r.values", "list"),
        ("{parameters: {lora.r: [1, 2]}}", "sweep.parameters.lora.r", "block"),
        ("{parameters: {lora.r: {}}}", "sweep.parameters.lora.r", "values, or both min and max"),
        ("{parameters: {lora.r: {min: 1}}}", "sweep.parameters.lora.r", "values, or both min and max"),
        ("{parameters: {lora.r: {min: 1, max: 3}}}", "sweep.parameters.lora.r", "a grid needs values"),
        ("{parameters: {lora.r: {values: [1], max: 3}}}", "sweep.parameters.lora.r", "not both"),
        (
            "{method: random, run_cap: 3, parameters: {lora.r: {min: 3, max: 3}}}",
            "sweep.parameters.lora.r",
            "less than max",
        ),
        (
            "{method: random, run_cap: 3, parameters: {lora.r: {min: 0, max: 3, log: true}}}",
            "sweep.parameters.lora.r",
            "log",
        ),
        (
            "{method: random, run_cap: 3, parameters: {lora.r: {min: .nan, max: 3}}}",
            "sweep.parameters.lora.r.min",
            "finite",
        ),
        ("{method: random, parameters: {lora.r: {min: 1, max: 3}}}", "sweep.run_cap", "required with method: random"),
        ("{method: bayes, parameters: {lora.r: {values: [1]}}}", "sweep.method", "not supported yet"),
        ("{method: guess, parameters: {lora.r: {values: [1]}}}", "sweep.method", "'random'"),
        ("{parameters: {}}", "sweep.parameters", "at least 1"),
        ("{}", "sweep.parameters", "missing"),
        ("3", "sweep", "block"),
        ("{metric: {goal: up}, parameters: {lora.r: {values: [1]}}}", "sweep.metric.goal", "'maximize'"),
        ("{metric: {name: x}, parameters: {lora.r: {values: [1]}}}", "sweep.metric.name", "'eval_exact_match'"),
    ],
)
def test_a_faulty_sweep_is_answered_at_its_line(block: str, field: str, words: str) -> None:
    problem = the_problem(MINIMAL + f"sweep: {block}\n")
    assert (problem.field, problem.line) == (field, 5)
    assert words in problem.message


def test_the_rest_of_a_document_with_a_faulty_sweep_is_checked_too() -> None:
    text = "name: a\ndatasets: [{path: b}]\nlora: {r: 0}\nsweep: {run_cap: 1, parameters: {%s: {values: [a, b]}}}\n"
    found = problems_of(text % "model.model_name_or_path")
    assert [problem.field for problem in found] == ["lora.r", "sweep.parameters"]
    both = "model.model_name_or_path: {values: [a, b]}, lora.x"
    assert "model" not in [problem.field for problem in problems_of(text % both)]
    found = problems_of(text % "lora.x")
    assert [problem.field for problem in found] == ["model", "lora.r", "sweep.parameters", "sweep.parameters.lora.x"]


def test_a_sweep_and_the_command_line_cannot_set_the_same_field() -> None:
    problem = the_problem(MINIMAL + GRID, overrides=["lora.r=4"])
    assert (problem.field, problem.file) == ("lora.r", None)
    assert "sweep.parameters.lora.r" in problem.message
    assert len(load_text(MINIMAL + GRID, overrides=["sweep.parameters.lora.r={values: [1, 2, 3]}"])) == 9


@pytest.mark.parametrize("label", ["sweep", "sweep-metric", "sweep-goal"])
def test_the_labels_of_the_sweep_are_its_own(label: str) -> None:
    problem = the_problem(MINIMAL + f"labels:\n  {label}: mine\n" + GRID)
    assert (problem.field, problem.line) == (f"labels.{label}", 6)


def test_each_job_bears_what_the_sweep_compares_by() -> None:
    def labels(metric: str) -> dict[str, str]:
        [one, *_] = load_text(MINIMAL + f"sweep: {{{metric} parameters: {{lora.r: {{values: [1, 2]}}}}}}\n")
        return dict(one.spec.labels)

    assert labels("") == {"sweep": "first"}
    assert labels("metric: {},") == {"sweep": "first", "sweep-metric": "eval_loss", "sweep-goal": "minimize"}
    exact = {"sweep": "first", "sweep-metric": "eval_exact_match", "sweep-goal": "maximize"}
    assert labels("metric: {name: eval_exact_match},") == exact
    assert labels("metric: {goal: maximize},") == {**exact, "sweep-metric": "eval_loss"}


def test_a_bad_name_of_a_sweep_is_told_once() -> None:
    problem = the_problem(MINIMAL.replace("first", "First") + GRID)
    assert (problem.field, problem.line, problem.value) == ("name", 1, "'First'")


def test_two_sweeps_of_one_name_are_told_once() -> None:
    problem = the_problem(MINIMAL + GRID + "---\n" + MINIMAL + GRID)
    assert (problem.field, problem.line, problem.value) == ("name", 14, "'first-001'")
    assert "job.yaml:1 " in problem.message


def test_an_empty_sweep_is_none() -> None:
    assert [item.spec.name for item in load_text(MINIMAL + "sweep:\n")] == ["first"]
