"""Train the demo's tasks through the command, then hold what it reports against PEFT."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from jobs.loading import load_files
from jobs.spec import JobSpec
from orchestrator.clusters.host import quiet_libraries
from tests.demo.peft_check import load_base, read_artifact
from workers.base_model import load_tokenizer, read_blueprint
from workers.dataset import TokenisedRows, load_job_data
from workers.targets import resolve

SPECS = Path("jobs/examples/demo.yaml")
LARGEST_LOSS_DIFFERENCE = 1e-4
"""Relative; what fp32 leaves between packed rows and padded batches."""


def main() -> int:
    """Run everything; 0 when every adapter says in PEFT what was reported."""
    parser = argparse.ArgumentParser(prog="make demo")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/demo"))
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    shutil.rmtree(options.output_dir, ignore_errors=True)
    command = ["loraloom", "run", str(SPECS), "--output-dir", str(options.output_dir), "--json"]
    console.print(f"$ {' '.join(command)}", style="bold")
    began = time.monotonic()
    finished = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", *command[1:]], stdout=subprocess.PIPE, text=True, check=False
    )
    seconds = time.monotonic() - began
    if not finished.stdout:
        return finished.returncode or 1
    summary = json.loads(finished.stdout)
    if finished.returncode:
        for job in summary["jobs"]:
            console.print(f"{job['name']}: {job['state']} {job['message']}", style="red", markup=False)
        return finished.returncode
    console.print(
        f"{len(summary['jobs'])} jobs in {seconds:.0f} s: {summary['tokens_per_second']:,.0f} tokens/s, worker "
        f"{summary['utilization']:.0%} busy; loss curves in {options.output_dir}/loss.png\n"
        "Opening every adapter in PEFT and measuring it again on the same held-out rows…"
    )
    quiet_libraries()
    return _report(console, options.output_dir, [one.spec for one in load_files([SPECS])])


def _report(console: Console, output_dir: Path, specs: list[JobSpec]) -> int:
    table = Table(header_style="bold", box=SIMPLE_HEAD)
    table.add_column("task", no_wrap=True)
    for name in (
        "held-out loss", "exact match", "rows", "majority", "in PEFT", "adapter", "trainable", "of its layers",
    ):  # fmt: skip
        table.add_column(name, justify="right", no_wrap=True)
    blueprint = read_blueprint(specs[0].model)
    base = load_base(blueprint.key.model_name_or_path, torch.float32)
    wrong = []
    for spec in specs:
        folder = output_dir / "artifacts" / spec.name
        metrics = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["metrics"]
        rows = load_job_data(spec, load_tokenizer(spec.model, blueprint.key)).evaluation
        assert rows is not None
        reading = read_artifact(base, folder, list(rows))
        difference = abs(reading.loss - metrics["eval_loss"]) / metrics["eval_loss"]
        agrees = difference <= LARGEST_LOSS_DIFFERENCE and reading.exact_match == metrics["eval_exact_match"]
        improved = metrics["eval_loss"] < metrics["eval_loss_before"]
        if not agrees or not improved:
            wrong.append(f"{spec.name}: {metrics} reported, {reading} in PEFT")
        targets = resolve(spec.lora, blueprint.structure)
        trained = sum(target.num_parameters for target in targets.values())
        frozen = sum(target.in_features * target.out_features for target in targets.values())
        size = (folder / "adapter_model.safetensors").stat().st_size
        table.add_row(
            spec.name,
            f"{metrics['eval_loss_before']:.3f} → {metrics['eval_loss']:.3f}",
            f"{metrics['eval_exact_match_before']:.1%} → {metrics['eval_exact_match']:.1%}",
            str(len(rows)),
            f"{_majority(rows):.1%}",
            f"same ({difference:.0e})" if agrees else f"DIFFERS: {reading.loss:.4f}",
            f"{size / 2**20:.1f} MiB",
            f"{trained:,}",
            f"{trained / frozen:.1%}",
        )
    console.print(table)
    console.print(
        "exact match: every completion token and the end token are the most likely ones · majority: always answering "
        "the most frequent completion\ntrainable: Σ r·(in + out) over the adapter's layers · of its layers: against "
        "Σ in·out of the frozen matrices it changes",
        style="dim",
    )
    for line in wrong:
        console.print(line, style="bold red", markup=False)
    return 1 if wrong else 0


def _majority(rows: TokenisedRows) -> float:
    """Share of the most frequent completion."""
    completions = Counter(tuple(row.ids[row.labelled].tolist()) for row in rows)
    return completions.most_common(1)[0][1] / len(rows)


if __name__ == "__main__":
    sys.exit(main())
