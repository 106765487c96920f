"""The chat templates that TRL and Axolotl ship, read out of their wheels."""

import zipfile
from pathlib import Path

from tests.real_inputs.folders import publishing
from tests.real_inputs.wheels import AXOLOTL, TRL

FOLDER = "chat-templates"
RECIPE = f"1 {TRL.sha256} {AXOLOTL.sha256}"
PREFIXES = {"trl": "trl/chat_templates/", "axolotl": "axolotl/utils/chat_templates/templates/"}


def extract(trl: Path, axolotl: Path, folder: Path) -> None:
    """Write every template to `folder`, as `trl/qwen3.jinja`."""
    with publishing(folder, RECIPE) as scratch:
        for name, wheel in (("trl", trl), ("axolotl", axolotl)):
            with zipfile.ZipFile(wheel) as archive:
                for member in archive.namelist():
                    if member.startswith(PREFIXES[name]) and member.endswith(".jinja"):
                        path = scratch / name / Path(member).name
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(archive.read(member))
