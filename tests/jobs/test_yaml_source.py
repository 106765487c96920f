import math

import pytest

from jobs.yaml_source import MAX_DEPTH, plain_value, read_documents


def read(text: str) -> object:
    documents, problems = read_documents(text, file="f.yaml")
    assert problems == []
    assert len(documents) == 1
    return documents[0].value


def refused(text: str, file: str = "f.yaml") -> tuple[int | None, str]:
    _, problems = read_documents(text, file=file)
    assert len(problems) == 1
    assert problems[0].file == file
    return problems[0].line, str(problems[0])


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("1.e3", 1e3),
        (".5", 0.5),
        ("5.", 5.0),
        ("-0.0", -0.0),
        ("1", 1),
        ("+1", 1),
        ("-12", -12),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
    ],
)
def test_scalars_that_are_not_text(text: str, value: object) -> None:
    assert plain_value(text) == value
    assert type(plain_value(text)) is type(value)
    assert read(f"a: {text}") == {"a": value}


TEXTS = "no yes on off y N 2020-01-01 12:30:45 1_000 0b1 1e e5 . - + nan inf 0x tRUE 1.2.3 = " + "1" * 65


@pytest.mark.parametrize("text", TEXTS.split())
def test_scalars_that_are_text(text: str) -> None:
    assert plain_value(text) == text


@pytest.mark.parametrize("text", ["'1'", '"true"', "!!str 1", "|-\n 1", ">-\n null"])
def test_what_is_quoted_is_text(text: str) -> None:
    value = read(f"a: {text}")
    assert isinstance(value, dict)
    assert isinstance(value["a"], str)


def test_nan_is_a_number() -> None:
    assert math.isnan(plain_value(".nan"))


def test_keys_are_text_as_written() -> None:
    assert read("1: a\ntrue: b\nno: c\n1e-4: d\n? e\n: f\n") == {
        "1": "a",
        "true": "b",
        "no": "c",
        "1e-4": "d",
        "e": "f",
    }


def test_lines_of_every_field() -> None:
    documents, problems = read_documents(
        "# comment\n\na: 1\nb:\n  c:\n    - x\n    - y: {z: 1,\n          w: 2}\n---\n\nd: 4\n", file="f"
    )
    assert problems == []
    assert documents[0].line == 3
    assert documents[0].lines == {
        "a": 3,
        "b": 4,
        "b.c": 5,
        "b.c[0]": 6,
        "b.c[1]": 7,
        "b.c[1].y": 7,
        "b.c[1].y.z": 7,
        "b.c[1].y.w": 8,
    }
    assert (documents[1].line, documents[1].lines) == (11, {"d": 11})


def test_documents_without_content_are_passed_over() -> None:
    documents, problems = read_documents("---\n# nothing\n---\na: 1\n---\n---\nb: 2\n...\n", file="f")
    assert problems == []
    assert [document.value for document in documents] == [{"a": 1}, {"b": 2}]


def test_duplicate_keys_are_told_with_both_lines_and_the_first_kept() -> None:
    documents, problems = read_documents("a:\n  x: 1\n  y: 2\n  x: {z: 3}\na: 5\n", file="f")
    assert [(problem.field, problem.line) for problem in problems] == [("a.x", 4), ("a", 5)]
    assert "on line 2 already" in problems[0].message
    assert "on line 1 already" in problems[1].message
    assert documents[0].value == {"a": {"x": 1, "y": 2}}
    assert documents[0].lines["a.x"] == 2


@pytest.mark.parametrize(
    "text, line, words",
    [
        ("x: 1\na: &b 2\n", 2, "a: `&b`: anchors and aliases"),
        ("x: 1\na:\n  *b\n", 3, "a: `*b`: anchors and aliases"),
        ("a:\n  <<: *b\n", 2, "anchors and aliases"),
        ("a: !!python/object/apply:os.system [x]\n", 1, "tags are not used"),
        ("a: 1\nb: !thing {c: 1}\n", 2, "`!thing`: tags"),
        ("a: !!float 1\n", 1, "`!!float`: tags"),
        ("a: 1\n? [b]\n: c\n", 2, "a key should be a name"),
        ("a: 1\n{b: 2}: c\n", 2, "a key should be a name"),
        ("a:\n\tb: 1\n", 2, "spaces, not with tabs"),
        ("a: b: c\n", 1, "quotes"),
        ("a: [1, 2\nb: 3\n", 2, "cannot be read as YAML"),
        ("a: 'x\n", 2, "a quote is not closed"),
        ("a: 1\n  b: 2\n", 2, "cannot be read as YAML"),
        ("a: @b\n", 1, "quotes"),
        ("a: 1\nb: \0\n", 2, "NUL"),
        ("a: \x1b[31m\n", 1, "U+001B"),
        ("a: \ud800\n", 1, "U+D800"),
        ("%YAML 9.0\n---\na: 1\n", 1, "cannot be read as YAML"),
    ],
)
def test_what_is_refused_is_told_with_its_line(text: str, line: int, words: str) -> None:
    assert refused(text)[0] == line
    assert words in refused(text)[1]


def test_documents_before_an_error_of_syntax_are_read() -> None:
    documents, problems = read_documents("a: 1\n---\nb: [\n", file="f")
    assert [document.value for document in documents] == [{"a": 1}]
    assert len(problems) == 1


def test_depth_is_counted_exactly() -> None:
    assert read("a: " + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1))
    line, message = refused("x: 1\na: " + "[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert line == 2
    assert "more than 20 deep" in message


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 50_000, "- " * 100_000, "? " * 100_000, "[\n" * 100_000])
def test_endless_nesting_is_refused_without_recursion(text: str) -> None:
    assert "more than 20 deep" in refused(text)[1] or "a key should be a name" in refused(text)[1]


def test_json_may_be_indented_with_tabs() -> None:
    documents, problems = read_documents('{\n\t"a": [1,\n\t\t2e-1, "x\\ty"]\n}\n', file="f.JSON")
    assert problems == []
    assert documents[0].value == {"a": [1, 0.2, "x\ty"]}
    assert documents[0].lines["a[1]"] == 3


def test_the_events_are_the_same_without_libyaml(monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    text = "a: 1e-4\nb: {c: [no, 'x', \"y\"]}\nd: |\n  text\n---\n- 1\n"
    fast = read_documents(text, file="f")
    monkeypatch.setattr("jobs.yaml_source._LOADER", yaml.SafeLoader)
    assert read_documents(text, file="f") == fast
    assert "anchors" in refused("a: &b 1")[1]
    assert "more than 20 deep" in refused("[" * 5000)[1]
    assert "cannot be read as YAML" in refused('a: "\\UFFFFFFFF"')[1]
