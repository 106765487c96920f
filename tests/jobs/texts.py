"""Small specs that the tests start from, and the problems that a text is answered with."""

import pytest

from jobs.errors import Problem, SpecError
from jobs.loading import load_text

MINIMAL = """\
name: first
model: {model_name_or_path: some/model}
datasets:
  - path: rows.jsonl
"""
"""Four lines; whatever is appended begins on line 5."""

BLOWS_UP_SECONDS = 30.0
"""Of processor time. A text of this size takes well under a second, or, where the work grows as its square, minutes."""


def problems_of(text: str, **options: object) -> list[Problem]:
    with pytest.raises(SpecError) as caught:
        load_text(text, file="job.yaml", **options)  # type: ignore[arg-type]
    return list(caught.value.problems)


def the_problem(text: str, **options: object) -> Problem:
    found = problems_of(text, **options)
    assert len(found) == 1, "\n".join(map(str, found))
    return found[0]
