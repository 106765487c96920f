"""What is installed, and whether it works. Heavy libraries are tried in processes of their own."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from orchestrator.diagnosis.findings import Finding, ok, problem, warning

_SECONDS = 120
_DEVICES = """
import json, torch
found = [f"{torch.cuda.get_device_name(i)}, {torch.cuda.get_device_properties(i).total_memory / 2**30:.0f} GiB"
         for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
print(json.dumps({"devices": found, "threads": torch.get_num_threads(), "cuda": torch.version.cuda}))
"""


def versions() -> Iterator[Finding]:
    """Everything that Loraloom needs, in a version that it works with."""
    from packaging.requirements import Requirement

    yield ok("python", f"{platform.python_version()} at {sys.executable}")
    wrong: list[str] = []
    found: list[str] = []
    for line in requires("loraloom") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        found.append(f"{requirement.name} {installed}")
        if not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{requirement.name} is {installed}, and {requirement.specifier} is needed")
    if wrong:
        yield problem("versions", "; ".join(wrong), "pip install --upgrade loraloom")
    else:
        yield ok("versions", f"loraloom {version('loraloom')}; {', '.join(found)}")


def devices() -> Iterator[Finding]:
    """Torch can be loaded, and what it can compute on."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _DEVICES], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        mend = "look at the load of this machine and at the disk that Python is installed on"
        yield problem("torch", f"could not be loaded in {_SECONDS} seconds", mend)
        return
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        yield problem("torch", f"cannot be loaded: {last}", "pip install --force-reinstall torch")
        return
    told = json.loads(done.stdout.strip().splitlines()[-1])
    if told["devices"]:
        yield ok("devices", "; ".join(told["devices"]))
    elif told["cuda"] is not None:
        yield warning(
            "devices",
            "none that torch can use: training runs on the CPU, and slowly",
            "if this machine has a GPU, look at its driver with `nvidia-smi`",
        )
    else:
        yield ok("devices", f"CPU only, {told['threads']} threads: this torch was built without CUDA")
