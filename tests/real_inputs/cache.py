"""Where the real model and data lie once `make real-inputs` has run."""

import os
from pathlib import Path

from tests.real_inputs import data, minilm, smollm2, templates
from tests.real_inputs.errors import RealInputsError
from tests.real_inputs.folders import is_complete

VARIABLE = "LORALOOM_CACHE"
REPOSITORY = Path(__file__).resolve().parents[2]
RECIPES = {
    smollm2.FOLDER: smollm2.RECIPE,
    minilm.FOLDER: minilm.RECIPE,
    data.FOLDER: data.RECIPE,
    templates.FOLDER: templates.RECIPE,
}


def cache_dir() -> Path:
    """Return the cache: what LORALOOM_CACHE names, or `.cache/real-inputs` in the repository."""
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser().resolve() if named else REPOSITORY / ".cache" / "real-inputs"


def smollm2_dir() -> Path:
    """Return the folder of SmolLM2-135M-Instruct, in bfloat16."""
    return cache_dir() / smollm2.FOLDER


def minilm_dir() -> Path:
    """Return the folder of all-MiniLM-L6-v2."""
    return cache_dir() / minilm.FOLDER


def template_dir() -> Path:
    """Return the folder of the chat templates that TRL and Axolotl ship, a folder each."""
    return cache_dir() / templates.FOLDER


def data_file(name: str) -> Path:
    """Return the path of a data file, such as `trec-coarse.train.jsonl`.

    Raises:
        KeyError: there is no such file; the message lists those there are.
    """
    if name not in data.SHA256:
        raise KeyError(f"no data file {name!r}; there are {', '.join(data.SHA256)}")
    return cache_dir() / data.FOLDER / name


def missing() -> list[str]:
    """Return the names of the cache's folders that are absent, unfinished or made by another recipe."""
    return [name for name, recipe in RECIPES.items() if not is_complete(cache_dir() / name, recipe)]


def require() -> None:
    """Make sure that all inputs are there.

    Raises:
        RealInputsError: they are not; the message says what to do.
    """
    names = missing()
    if names:
        raise RealInputsError(
            f"The cache {cache_dir()} lacks {', '.join(names)}. Run `make real-inputs` (it downloads 250 MB once), or "
            f"set {VARIABLE} to a filled cache."
        )
