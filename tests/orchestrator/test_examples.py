"""What ships is checked: every example spec runs, the wheel carries all that the command needs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from rich.console import Console

import jobs
from jobs.loading import load_files
from orchestrator.run import RunOptions, run
from tests.real_inputs import require

EXAMPLES = Path(jobs.__file__).parent / "examples"
ROOT = Path(__file__).parents[2]


def test_every_example_is_run_by_a_test() -> None:
    assert {path.name for path in EXAMPLES.glob("*.yaml")} == {"quickstart.yaml", "demo.yaml"}


def test_the_quickstart_runs(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)
    options = RunOptions(
        specs=(Path("quickstart.yaml"),),
        overrides=(f"model.model_name_or_path={tiny_base}", "training.max_steps=3"),
        output_dir=tmp_path / "out",
        in_process=True,
    )
    summary = run(options, Console(quiet=True))
    assert [job.state for job in summary.jobs] == ["SUCCEEDED"]


@pytest.mark.real
def test_the_demo_specs_run_on_the_real_data(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require()
    monkeypatch.chdir(ROOT)
    options = RunOptions(
        specs=(EXAMPLES / "demo.yaml",),
        overrides=(f"model.model_name_or_path={tiny_base}", "training.max_steps=2"),
        output_dir=tmp_path / "out",
        in_process=True,
    )
    summary = run(options, Console(quiet=True))
    assert [job.name for job in summary.jobs] == [one.spec.name for one in load_files([EXAMPLES / "demo.yaml"])]
    assert {job.state for job in summary.jobs} == {"SUCCEEDED"}
    assert all(job.eval_loss is not None for job in summary.jobs)


def test_the_wheel_works_elsewhere(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    source = tmp_path / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for name in listed.stdout.decode().split("\0"):
        if name and not name.startswith("tests/") and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([*build, "--wheel-dir", tmp_path, source], check=True, cwd=tmp_path)
    [wheel] = tmp_path.glob("loraloom-*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        packed.extractall(site)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
        "jobs", "workers", "orchestrator", "dashboards",
    }  # fmt: skip
    assert "loraloom = orchestrator.cli:main" in next(site.glob("*.dist-info/entry_points.txt")).read_text()
    script = f"import sys; sys.path.insert(0, {str(site)!r}); from orchestrator.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, "init", str(tmp_path / "first")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [one] = load_files([tmp_path / "first/quickstart.yaml"])
    assert one.spec.name
