"""What the seeded runners of this folder have in common."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def kept_if_broken(name: str, seed: int) -> Iterator[Path]:
    """A folder that goes when all went well; else it stays, and it is said where.

    Args:
        name: Of the runner.
        seed: That a person can begin from again.
    """
    print(f"seed {seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix=f"loraloom-{name}-"))
    try:
        yield folder
    except BaseException:
        print(f"seed {seed}: broken; everything is in {folder}", flush=True)
        raise
    shutil.rmtree(folder)
