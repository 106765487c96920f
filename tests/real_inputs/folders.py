"""Folders that appear whole or not at all, each with a stamp that says what made it."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STAMP = "stamp.json"


def is_complete(folder: Path, recipe: str) -> bool:
    """Say whether `folder` was made by this very recipe and its files still have the sizes they were written with."""
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        sizes_bytes = {name: (folder / name).stat().st_size for name in stamp["files"]}
    except (OSError, ValueError, KeyError):
        return False
    return stamp["recipe"] == recipe and stamp["files"] == sizes_bytes


@contextmanager
def publishing(folder: Path, recipe: str) -> Iterator[Path]:
    """Yield an empty folder beside `folder` that takes its place, stamped, if the block ends without an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield scratch
        files = sorted(path for path in scratch.rglob("*") if path.is_file())
        sizes_bytes = {path.relative_to(scratch).as_posix(): path.stat().st_size for path in files}
        stamp = {"recipe": recipe, "files": sizes_bytes}
        (scratch / STAMP).write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")
        # Temporary folders and safetensors files are private by default, but a cache may be shared between users.
        for path in (scratch, *scratch.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        if folder.exists():
            shutil.rmtree(folder)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
