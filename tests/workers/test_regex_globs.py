"""The globs that are advised for a regular expression choose the modules that PEFT chooses by it."""

import re

import pytest

from jobs.regex_globs import globs
from workers.targets import matches

NAMES = [
    f"model.layers.{layer}.{block}.{name}_proj"
    for layer in (0, 1, 2, 11)
    for block, names in (("self_attn", "q k v o"), ("mlp", "gate up down"))
    for name in names.split()
]


@pytest.mark.parametrize(
    "pattern",
    [
        r".*\.(q|v)_proj",
        r".*(q_proj|k_proj)$",
        r".*_proj",
        r"model.layers.[01].*\.q_proj",
        r"model\.layers\.\d+\.mlp\.(up|down)_proj",
        r"model.layers.[\d]+.(mlp|self_attn).(up|down|gate|q|k|v|o)_proj",
        r".*self_attn.*",
        r"^.*\.layers\.(0|11)\..*$",
    ],
)
def test_the_globs_choose_what_the_regular_expression_chooses(pattern: str) -> None:
    found = globs(pattern)
    assert found is not None
    chosen = {name for name in NAMES if any(matches(name, glob) for glob in found)}
    # PEFT holds a pattern against the whole name.
    assert chosen == {name for name in NAMES if re.fullmatch(pattern, name)}
    assert chosen
