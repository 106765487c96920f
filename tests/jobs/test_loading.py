import time
from pathlib import Path

import pytest

from jobs.errors import Problem, SpecError
from jobs.loading import load_files, load_text, locate
from tests.jobs.texts import BLOWS_UP_SECONDS, MINIMAL, problems_of, the_problem


def test_the_traps_of_yaml_are_disarmed() -> None:
    loaded = load_text(MINIMAL + "training:\n  learning_rate: 1e-4\n  eval_strategy: no\n  adam_epsilon: 1E-9\n")
    training = loaded[0].spec.training
    assert (training.learning_rate, training.eval_strategy, training.adam_epsilon) == (1e-4, "no", 1e-9)


def test_every_problem_of_a_file_comes_at_once_in_the_order_of_lines() -> None:
    found = problems_of(
        """\
name: Bad_Name
model: {revision: main, dtypo: float32}
r: 8
lora:
  r: 0
  rank: 3
  target_modules:
    - q_proj
    - (a|b)
lr: 1e-3
datasets:
  - path: 3
  - pth: a
training:
  learning_rate: quick
  warmup_ratio: 0.03
  eval_strategy: no
  eval_strategy: epoch
  seed:
---
- not a job
---
name: second
"""
    )
    assert [(problem.line, problem.field) for problem in found] == [
        (1, "name"),
        (2, "model.model_name_or_path"),
        (2, "model.dtypo"),
        (3, "r"),
        (5, "lora.r"),
        (6, "lora.rank"),
        (9, "lora.target_modules[1]"),
        (10, "lr"),
        (12, "datasets[0].path"),
        (13, "datasets[1].path"),
        (13, "datasets[1].pth"),
        (15, "training.learning_rate"),
        (16, "training.warmup_ratio"),
        (18, "training.eval_strategy"),
        (19, "training.seed"),
        (21, ""),
        (23, "model"),
        (23, "datasets"),
    ]
    assert all(problem.file == "job.yaml" for problem in found)
    assert str(found[4]) == "job.yaml:5: lora.r: should be at least 1 (got 0)"
    assert str(found[1]) == "job.yaml:2: model.model_name_or_path: required, but missing"


@pytest.mark.parametrize(
    "text, field, words",
    [
        ("r: 8", "r", "`lora.r`"),
        ("learning_rate: 1", "learning_rate", "`training.learning_rate`"),
        ("lora: {rr: 8}", "lora.rr", "`r`"),
        ("lora: {lora_alhpa: 8}", "lora.lora_alhpa", "`lora_alpha`"),
        ("lora: {learning_rate: 8}", "lora.learning_rate", "`training.learning_rate`"),
        ("trainng: {}", "trainng", "`training`"),
        ("training: {lr: 1}", "training.lr", "`training.learning_rate`"),
        ("training: {max_seq_length: 1}", "training.max_seq_length", "`training.max_length`"),
        ("training: {evaluation_strategy: no}", "training.evaluation_strategy", "`training.eval_strategy`"),
        ("training: {pakcing: exact}", "training.pakcing", "`scheduling.packing`"),
        ("eval_datasets: [{path: a, colums: {}}]", "eval_datasets[0].colums", "`columns`"),
        ("training: {zzz: 1}", "training.zzz", "here are max_length, completion_only_loss"),
        ("'': 1", "", "here are name, labels"),
        ("'lora.r': 1", "lora.r", "`lora.r`"),
        (
            "training: {warmup_ratio: 0.03}",
            "training.warmup_ratio",
            "`training.warmup_steps`? Write `warmup_steps: 0.03`; `warmup_ratio` is gone from",
        ),
        ("training: {warmup_ratio: x}", "training.warmup_ratio", "`training.warmup_steps`? Write `warmup_steps: 0.1`"),
        ("sweep: {parameters: {lora.r: {values: [1]}}, cap: 3}", "sweep.cap", "run_cap"),
        ("sweep: {parameters: {lora.r: {value: [1]}}}", "sweep.parameters.lora.r.value", "`values`"),
    ],
)
def test_unknown_keys_are_answered_with_what_was_meant(text: str, field: str, words: str) -> None:
    found = [problem for problem in problems_of(MINIMAL + text) if problem.field == field]
    assert found[0].line == 5
    assert words in found[0].message


def test_missing_fields_point_at_their_block() -> None:
    found = problems_of("# a comment\n\nlabels: {}\nmodel:\n  dtype: auto\n")
    assert [(problem.line, problem.field) for problem in found] == [
        (3, "name"),
        (3, "datasets"),
        (4, "model.model_name_or_path"),
    ]


@pytest.mark.parametrize(
    "text, line, words",
    [
        ("", 1, "there is no job in it"),
        ("# nothing\n---\n---\n", 1, "there is no job in it"),
        ("- a\n", 1, "block of `key: value` lines"),
        ("\njust words\n", 2, "block of `key: value` lines"),
        ("42", 1, "(got 42)"),
    ],
)
def test_texts_that_are_no_jobs(text: str, line: int, words: str) -> None:
    problem = the_problem(text)
    assert problem.line == line
    assert words in str(problem)


def test_several_documents_are_several_jobs() -> None:
    loaded = load_text(MINIMAL + "---\n" + MINIMAL.replace("first", "second"))
    assert [item.spec.name for item in loaded] == ["first", "second"]
    assert [item.source.place("name")[1] for item in loaded] == [1, 6]


def test_names_used_twice_are_told_with_both_places(tmp_path: Path) -> None:
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    a.write_text("labels: {}\n" + MINIMAL)
    # The second is faulty otherwise as well: its name counts all the same.
    b.write_text(MINIMAL.replace("first", "other") + "---\n\n" + MINIMAL + "lora: {r: 0}\n")
    with pytest.raises(SpecError) as caught:
        load_files([a, b])
    repeated, rank = sorted(caught.value.problems, key=lambda problem: problem.field, reverse=True)
    assert (repeated.file, repeated.line, repeated.field, repeated.value) == (str(b), 7, "name", "'first'")
    assert f"{a}:2" in repeated.message
    assert (rank.file, rank.line, rank.field) == (str(b), 11, "lora.r")


def test_problems_of_all_files_come_at_once(tmp_path: Path) -> None:
    texts = {
        "good.yaml": MINIMAL.encode(),
        "bad.yaml": MINIMAL.replace("first", "bad").encode() + b"lora: {r: 0}",
        "latin.yaml": b"name: a\nmodel: \xe9",
        "nul.yaml": b"a\n\0",
        "large.yaml": b"# " + b"x" * 256 * 1024,
        "syntax.yaml": b"a: [",
    }
    for name, content in texts.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    paths = [tmp_path / name for name in [*texts, "goood.yaml", "folder", "no/such.yaml"]]
    with pytest.raises(SpecError) as caught:
        load_files([*paths, Path("a\0b")])
    told = {Path(problem.file or "").name: problem for problem in caught.value.problems}
    assert len(told) == len(caught.value.problems) == 9
    assert "good.yaml" not in told
    assert (told["bad.yaml"].line, told["bad.yaml"].field) == (5, "lora.r")
    assert told["latin.yaml"].line == 2
    assert "not UTF-8: byte 0xE9" in told["latin.yaml"].message
    assert (told["nul.yaml"].line, "NUL" in told["nul.yaml"].message) == (2, True)
    assert "256 KiB" in told["large.yaml"].message
    assert "YAML" in told["syntax.yaml"].message
    assert "no such file; near it:" in told["goood.yaml"].message
    assert str(tmp_path / "good.yaml") in told["goood.yaml"].message
    assert "directory" in told["folder"].message
    assert "no such file; its directory" in told["such.yaml"].message
    assert "null byte" in told["a\\x00b"].message


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(SpecError, match=r"a\.yaml: cannot be read: Permission denied"):
        load_files([tmp_path / "a.yaml"])


def test_size_is_counted_in_bytes() -> None:
    head = MINIMAL + "# "
    room = 256 * 1024 - len(head)
    assert len(load_text(head + "é" * (room // 2))) == 1
    assert "256 KiB" in the_problem(head + "é" * (room // 2 + 1)).message


def test_byte_order_marks_and_windows_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + (MINIMAL + "lora: {r: 3}").replace("\n", "\r\n").encode())
    (loaded,) = load_files([path])
    assert loaded.spec.lora.r == 3
    assert loaded.source.place("lora.r") == (str(path), 5)
    assert len(load_text("\ufeff" + MINIMAL)) == 1


def test_json_files(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{\n\t"name": "a",\n\t"model": {"model_name_or_path": "m"},\n\t"datasets": [{"path": "d"}]\n}')
    (loaded,) = load_files([path])
    assert loaded.source.place("datasets[0].path") == (str(path), 4)


def test_places_fall_back_to_what_encloses_a_field() -> None:
    text = MINIMAL + "lora:\n  rank_pattern:\n    model.layers.0.q_proj: 4\n"
    (loaded,) = load_text("\n" + text, file="f")
    assert loaded.source.place("lora.rank_pattern.model.layers.0.q_proj") == ("f", 8)
    assert loaded.source.place("lora.rank_pattern.model.other") == ("f", 7)
    assert loaded.source.place("lora.r") == ("f", 6)
    assert loaded.source.place("datasets[0].columns.prompt") == ("f", 5)
    assert loaded.source.place("datasets[7]") == ("f", 4)
    assert loaded.source.place("training.seed") == ("f", 2)
    assert loaded.source.place("") == ("f", 2)


def test_locate_fills_in_the_place() -> None:
    (loaded,) = load_text(MINIMAL, file="f", overrides=["lora.target_modules=[nothing]"])
    found = locate(Problem(field="datasets[0].path", message="not there", value="'rows.jsonl'"), loaded)
    assert str(found) == "f:4: datasets[0].path: not there (got 'rows.jsonl')"
    found = locate(Problem(field="lora.target_modules", message="no such module"), loaded)
    assert str(found) == "lora.target_modules: --set: no such module"


def test_overrides_are_set_in_every_document() -> None:
    text = MINIMAL + "lora: {r: 4, lora_alpha: 8}\n---\n" + MINIMAL.replace("first", "second")
    loaded = load_text(
        text,
        overrides=[
            "lora.r=2",
            "training.learning_rate=1e-3",
            "training.eval_strategy=no",
            "datasets[0].path=other=1.csv",
            "labels.team=x",
            "lora.rank_pattern.model.layers.0.q_proj=3",
            "lora.target_modules=[a, b]",
            "lora.exclude_modules=",
        ],
    )
    for item in loaded:
        spec = item.spec
        assert spec.lora.r == 2
        assert spec.training.learning_rate == 1e-3
        assert spec.training.eval_strategy == "no"
        assert spec.datasets[0].path == "other=1.csv"
        assert spec.labels == {"team": "x"}
        assert spec.lora.rank_pattern == {"model.layers.0.q_proj": 3}
        assert spec.lora.target_modules == ("a", "b")
        assert spec.lora.exclude_modules is None
    assert [item.spec.lora.lora_alpha for item in loaded] == [8, 32]
    assert loaded[0].source.place("lora.r") == ("--set", None)
    assert loaded[0].source.place("lora.lora_alpha") == ("<text>", 5)


@pytest.mark.parametrize(
    "override, field, words",
    [
        ("lora.r=0", "lora.r", "at least 1"),
        ("lora.rr=4", "lora.rr", "did you mean `r`"),
        ("r=4", "r", "did you mean `lora.r`"),
        ("lora.r", "lora.r", "has no value"),
        ("=3", "", "missing"),
        ("lora.=3", "lora.", "not the name of a field"),
        ("lora..r=3", "lora..r", "not the name of a field"),
        ("lora.r.x=3", "lora.r.x", "not the name of a field"),
        ("lora[0]=3", "lora[0]", "not the name of a field"),
        ("datasets.path=3", "datasets.path", "datasets[0]"),
        ("datasets[0]path=3", "datasets[0]path", "not the name of a field"),
        ("datasets[4].path=3", "datasets[4].path", "the list has 1"),
        ("training.eval_strategy=[", "training.eval_strategy", "YAML"),
        ("lora.r=*a", "lora.r", "aliases"),
        ("lora.r=1\n---\n2", "lora.r", "one value"),
        ("lora={r: 4, dropout: 1}", "lora.dropout", "lora_dropout"),
        ("lora.use_dora=true", "lora.use_dora", "not supported yet"),
        ("name=", "name", "required, but empty"),
    ],
)
def test_a_bad_override_is_told_without_a_file(override: str, field: str, words: str) -> None:
    problem = the_problem(MINIMAL + "---\n" + MINIMAL.replace("first", "second"), overrides=[override])
    assert (problem.field, problem.file, problem.line) == (field, None, None)
    assert problem.message.startswith("--set: ")
    assert words in problem.message


def test_one_name_for_all_by_override_is_a_name_used_twice() -> None:
    text = MINIMAL + "---\n" + MINIMAL.replace("first", "second")
    problem = the_problem(text, overrides=["name=same"])
    assert (problem.field, problem.value) == ("name", "'same'")
    assert "job.yaml:1" in problem.message


def test_an_override_inside_something_that_is_no_block() -> None:
    found = problems_of(MINIMAL + "lora: 3\n", overrides=["lora.r=4"])
    assert [(problem.field, problem.file) for problem in found] == [("lora.r", None), ("lora", "job.yaml")]


def test_values_and_keys_are_shown_short_and_printable() -> None:
    long, found = "x" * 5000, problems_of
    assert len(found(MINIMAL + f"lora: {{r: {long}}}")[0].value or "") == 80
    assert len(found(MINIMAL + f"lora: {{r: [{', '.join(['1'] * 5000)}]}}")[0].value or "") == 80
    problem = the_problem(MINIMAL + f"? {long}\n: 1\n")
    assert len(problem.field) == 80
    problem = the_problem(MINIMAL + '"a\\e[31m\\u202E": "\\e[31m"')
    assert str(problem).isprintable()
    assert problem.field == "a\\x1b[31m\\u202e"


def test_a_file_of_mistakes_is_answered_with_the_first_hundred() -> None:
    started = time.process_time()
    for text in ("".join(f"a{i}: 1\n" for i in range(20_000)), "a: 1\n---\n" * 25_000):
        found = problems_of(text)
        assert len(found) == 101
        assert "first 100 problems" in found[-1].message
    assert time.process_time() - started < BLOWS_UP_SECONDS
