"""Libraries of others that are kept beside our own files: fetched from npm by version, and known by their hashes.

`python -m dashboards.vendoring FOLDER…` fetches every package that a folder's manifest names and puts its files there;
a file whose bytes are not those of the manifest is refused. `--check` reads what is there and fetches nothing. After a
change of a version in the manifest, `--accept` enters the hashes of what was fetched, to be read in review.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


class VendorError(Exception):
    """A package that cannot be had, or is not what the manifest says."""


def read(folder: Path) -> list[dict[str, Any]]:
    """Packages of a folder's manifest: name, version, licence, files.

    A file has `from`, `to` and `sha256`; `replace` (old to new text) and `append` say how it was made fit for a
    browser to import: names of modules become addresses, a global becomes an export.
    """
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["packages"]


def problems(folder: Path) -> list[str]:
    """What is not as the manifest of a folder says; nothing is fetched."""
    found: list[str] = []
    known = {MANIFEST}
    for package in read(folder):
        for entry in package["files"]:
            path = folder / entry["to"]
            known.add(entry["to"])
            if not path.is_file():
                found.append(f"{path} is missing; `make vendor` fetches it")
            elif _sha256(path.read_bytes()) != entry["sha256"]:
                found.append(f"{path} is not what the manifest says; `make vendor` fetches it again")
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    found += [f"{folder / name} is in no manifest" for name in sorted(present - known)]
    return found


def fetch(folder: Path, *, accept: bool = False) -> None:
    """Get all packages of a folder's manifest and write their files.

    Args:
        folder: With its manifest.
        accept: Enter the hashes of what was fetched instead of comparing.

    Raises:
        VendorError: A package cannot be had, or a file is another than the manifest says.
    """
    packages = read(folder)
    for package in packages:
        with tempfile.TemporaryDirectory() as scratch:
            archive = _pack(f"{package['name']}@{package['version']}", Path(scratch))
            with tarfile.open(archive) as files:
                for entry in package["files"]:
                    content = _fit(_member(files, entry["from"]), entry)
                    sha256 = _sha256(content)
                    if accept:
                        entry["sha256"] = sha256
                    elif sha256 != entry["sha256"]:
                        name = f"{package['name']}@{package['version']}: {entry['from']}"
                        raise VendorError(f"{name} has sha256 {sha256}, the manifest says {entry['sha256']}")
                    target = folder / entry["to"]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(content)
    if accept:
        text = json.dumps({"packages": packages}, indent=2, ensure_ascii=False) + "\n"
        (folder / MANIFEST).write_text(text, encoding="utf-8")


def _pack(what: str, folder: Path) -> Path:
    try:
        done = subprocess.run(
            ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(folder), what],
            capture_output=True,
            text=True,
            check=True,
            cwd=folder,
        )
    except FileNotFoundError as error:
        raise VendorError("npm is not installed; it is needed to fetch what others have written") from error
    except subprocess.CalledProcessError as error:
        raise VendorError(f"npm pack {what} failed: {error.stderr.strip()[-500:]}") from error
    return folder / done.stdout.split()[-1]


def _member(files: tarfile.TarFile, name: str) -> bytes:
    try:
        stream = files.extractfile(f"package/{name}")
    except KeyError:
        stream = None
    if stream is None:
        raise VendorError(f"the package has no file {name}")
    return stream.read()


def _fit(content: bytes, entry: dict[str, Any]) -> bytes:
    for old, new in entry.get("replace", {}).items():
        if old.encode() not in content:
            raise VendorError(f"{entry['from']} has no {old!r} to replace")
        content = content.replace(old.encode(), new.encode())
    return content + entry.get("append", "").encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--check", action="store_true", help="look at what is there, fetch nothing")
    how.add_argument("--accept", action="store_true", help="enter the hashes of what is fetched")
    options = parser.parse_args()
    found: list[str] = []
    for folder in options.folders:
        try:
            if not options.check:
                fetch(folder, accept=options.accept)
        except VendorError as error:
            found.append(str(error))
        else:
            found += problems(folder)
    for problem in found:
        print(problem, file=sys.stderr)
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
