"""Texts that are sent by mistake or in malice: what the loader, and whoever uses it, has to answer soon and calmly."""

from __future__ import annotations

import string

from hypothesis import strategies as st

from tests.jobs.texts import MINIMAL

ANY_TEXT = st.text(st.characters(codec=None), max_size=200)
PUNCTUATION = st.text("[]{}:,-?&*!|>'\"%@`#\n\t ab~<0.e", max_size=60)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**70), 10**70),
    st.floats(),
    st.text(string.printable, max_size=10),
    st.sampled_from(["all-linear", "no", "1e-4", "json", "", "\0", "orthogonal", "pissa"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abr.[0]", max_size=5), inner, max_size=3),
    max_leaves=6,
)
BLOCKS = ["name", "labels", "model", "lora", "datasets", "eval_datasets", "val_size", "training", "sweep", "output"]
FIELDS = ["r", "lora_alpha", "target_modules", "rank_pattern", "init_lora_weights", "path", "columns", "data_files"]
FIELDS += ["parameters", "method", "run_cap", "values", "min", "max", "log", "lora.r", "seed", "warmup_steps", "weight"]
DOCUMENTS = st.dictionaries(
    st.sampled_from(BLOCKS) | st.text(max_size=5),
    VALUES
    | st.dictionaries(st.sampled_from(FIELDS), VALUES | st.dictionaries(st.sampled_from(FIELDS), VALUES), max_size=4),
    max_size=5,
)

BOMBS = {
    "billion laughs": "a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(30)),
    "merge bomb": "a: &a {x: 1}\nb: {<<: [*a, *a]}\n",
    "brackets": "[" * 100_000,
    "braces": "{" * 100_000,
    "dashes": "- " * 100_000,
    "questions": "? " * 100_000,
    "indent": "".join(" " * i + "a:\n" for i in range(600)),
    "keys": "".join(f"k{i}: 1\n" for i in range(25_000)),
    "items": MINIMAL + "eval_datasets: [" + "{}," * 60_000 + "]",
    "modules": MINIMAL + "lora: {target_modules: [" + "a," * 120_000 + "]}",
    "pattern": MINIMAL + "lora: {rank_pattern: {" + ",".join(f"'({i}': 0" for i in range(15_000)) + "}}",
    "labels": MINIMAL + "labels: {" + ",".join(f"a{i}: b" for i in range(20_000)) + "}",
    "one long key": "? " + "k" * 250_000 + "\n: 1\n",
    "long keys inside": "a:\n"
    + "".join(" " * (i + 1) + "? " + "k" * 12_000 + "\n" + " " * (i + 1) + ":\n" for i in range(18)),
    "one long text": MINIMAL + "output: {uri: " + "x" * 250_000 + "}",
    "one long number": MINIMAL + "lora: {r: " + "9" * 250_000 + "}",
    "one long decimal": MINIMAL + "val_size: 0." + "9" * 250_000,
    "large exponent": MINIMAL + "val_size: 1e999999999",
    "documents": "a: 1\n---\n" * 28_000,
    "markers": "---\n" * 60_000,
    "directives": "%TAG ! x\n" * 20_000,
    "duplicates": "a: 1\n" * 50_000,
    "sweep of many axes": MINIMAL
    + "sweep: {parameters: {"
    + ",".join(f"labels.a{i}: {{values: [a, b]}}" for i in range(8000))
    + "}}",
    "sweep of long axes": MINIMAL + "sweep: {parameters: {training.seed: {values: [" + "1," * 100_000 + "]}}}",
    "sweep of a large job": MINIMAL
    + "lora: {target_modules: ["
    + ",".join(f"m{i}" for i in range(999))
    + "]}\nsweep: {method: random, run_cap: 4096, parameters: {lora.r: {min: 1, max: 9}}}",
    "sweep of faults": MINIMAL
    + "sweep: {method: random, run_cap: 4096, parameters: {lora.r: {min: -100000000, max: -1}}}",
    "sweeps": "---\n".join(
        MINIMAL.replace("first", f"a{i}") + "sweep: {parameters: {lora.r: {values: [" + "1," * 256 + "]}}}\n"
        for i in range(300)
    ),
}
"""By name; none is larger than a spec may be."""
