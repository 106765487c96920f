"""Whatever the text, the loader answers with specs or with a `SpecError`, soon and in little memory."""

import pickle
import time
import tracemalloc

import pytest
import yaml
from hypothesis import given, settings

from jobs.errors import SpecError
from jobs.loading import load_text
from tests.jobs.corpus import ANY_TEXT, BOMBS, DOCUMENTS, PUNCTUATION
from tests.jobs.texts import BLOWS_UP_SECONDS, MINIMAL

QUICK = settings(max_examples=150, derandomize=True)


def answer(text: str, **options: list[str]) -> list[str] | None:
    """The problems' texts, or None where the text is accepted; any other outcome raises."""
    started, caught = time.process_time(), None
    try:
        load_text(text, **options)
    except SpecError as error:
        caught = error
    assert time.process_time() - started < BLOWS_UP_SECONDS
    if caught is None:
        return None
    assert caught.problems
    assert pickle.loads(pickle.dumps(caught)).problems == caught.problems
    told = [str(problem) for problem in caught.problems]
    assert all(len(line) < 2000 and line.isprintable() for line in told)
    return told


@QUICK
@given(ANY_TEXT)
def test_any_text(text: str) -> None:
    answer(text)


@QUICK
@given(PUNCTUATION)
def test_any_punctuation(text: str) -> None:
    answer(text)
    answer(MINIMAL + text)
    answer(MINIMAL, overrides=[f"lora.r={text}"])
    answer(MINIMAL, overrides=[text])


@QUICK
@given(DOCUMENTS)
def test_any_document(document: dict[str, object]) -> None:
    good = yaml.safe_load(MINIMAL)
    for content in (document, good | document):
        answer(yaml.safe_dump(content, sort_keys=False))


@pytest.mark.parametrize(
    "text",
    BOMBS.items(),
    ids=lambda item: item[0],
)
def test_bombs_are_refused_at_once_in_little_memory(text: tuple[str, str]) -> None:
    assert len(text[1]) <= 256 * 1024
    started = time.process_time()
    told = answer(text[1])
    assert told
    assert time.process_time() - started < BLOWS_UP_SECONDS
    assert len(told) <= 101


@pytest.mark.parametrize(
    "text", ["a: &a [x, x]\nb: [*a, *a]\n", "[" * 200_000, "".join(f"k{i}: 1\n" for i in range(25_000))]
)
def test_memory_stays_low(text: str) -> None:
    tracemalloc.start()
    try:
        answer(text)
        assert tracemalloc.get_traced_memory()[1] < 60 * 1024 * 1024
    finally:
        tracemalloc.stop()
