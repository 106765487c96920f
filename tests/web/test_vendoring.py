from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

import pytest

from dashboards.vendoring import problems, read
from dashboards.web import FOLDER

OURS, TESTS = FOLDER / "vendor", Path(__file__).parent / "vendor"


@pytest.mark.parametrize("folder", [OURS, TESTS], ids=["pages", "tests"])
def test_what_others_wrote_is_what_the_manifest_says_with_its_licence(folder: Path) -> None:
    assert problems(folder) == []
    for package in read(folder):
        assert package["version"]
        assert package["licence"] in ("MIT", "Apache-2.0", "MPL-2.0", "OFL-1.1")
        assert any("licence" in entry["to"] for entry in package["files"])


def test_a_changed_a_missing_and_a_foreign_file_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "vendor"
    shutil.copytree(OURS, folder)
    (folder / "htm.js").write_bytes((folder / "htm.js").read_bytes() + b" ")
    (folder / "preact.js").unlink()
    (folder / "extra.js").write_text("")
    told = problems(folder)
    assert [("htm.js" in one, "preact.js" in one, "extra.js" in one) for one in told] == [
        (False, True, False),
        (True, False, False),
        (False, False, True),
    ]
    assert all(len(entry["sha256"]) == 64 for package in read(folder) for entry in package["files"])


def test_every_module_is_asked_for_at_once() -> None:
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    named = set(re.findall(r'<link rel="modulepreload" href="/ui/assets/([^"]+)">', page))
    modules = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.js")}
    assert named == modules - {"app/early.js", "app/main.js"}


def test_a_wheel_has_every_file_of_the_pages() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["dashboards.web"]
    packed = {path for pattern in patterns for path in FOLDER.glob(pattern) if path.is_file()}
    assert packed == {path for path in FOLDER.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}


def test_our_scripts_import_nothing_but_files_of_ours_and_make_no_markup_from_text() -> None:
    for path in sorted((FOLDER / "app").rglob("*.js")):
        text = path.read_text(encoding="utf-8")
        assert not [
            sink
            for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function")
            if sink in text
        ], path
        assert "dangerouslySetInnerHTML" not in text, path
        assert "://" not in text, path
