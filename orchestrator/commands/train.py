"""`loraloom run`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands.options import Grace, Lease, Set, Specs, TokenBudget
from orchestrator.commands.output import EXIT_FAILED, AsJson, quiet_libraries, stderr, stdout
from orchestrator.interruption import GRACE_SECONDS
from orchestrator.retries import LEASE_SECONDS


def add(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(run)


def run(
    specs: Specs,
    set_: Set = None,
    output_dir: Annotated[Path, typer.Option(help="Where adapters, logs and metrics go.")] = Path("runs"),
    ray_address: Annotated[
        str | None, typer.Option(help="Join this Ray cluster instead of starting a local Ray.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Workers to share this machine's CPUs; without it one for each base.")
    ] = None,
    in_process: Annotated[bool, typer.Option("--in-process", help="Without Ray, in this process.")] = False,
    token_budget: TokenBudget = None,
    grace: Grace = GRACE_SECONDS,
    lease: Lease = LEASE_SECONDS,
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Let Prometheus scrape this port of the loopback meanwhile.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train all jobs of the spec files to their ends, then exit: 0 if all succeeded, 1 if one failed."""
    from jobs.loading import load_files

    # Mistakes in the text are told before anything heavy is imported.
    load_files(specs, set_ or ())
    quiet_libraries()
    from orchestrator.run import RunOptions
    from orchestrator.run import run as run_jobs
    from orchestrator.summary import final_table

    options = RunOptions(
        specs=tuple(specs),
        overrides=tuple(set_ or ()),
        output_dir=output_dir,
        ray_address=ray_address,
        workers=workers,
        in_process=in_process,
        grace_seconds=grace,
        lease_seconds=lease,
        token_budget=token_budget,
        metrics_port=metrics_port,
    )
    if ray_address and in_process:
        raise typer.BadParameter("--ray-address and --in-process exclude each other")
    summary = run_jobs(options, stderr())
    if as_json:
        print(json.dumps(summary.to_json()))
    else:
        stdout().print(final_table(summary))
        print(
            f"{summary.tokens_per_second:,.0f} tokens/s, workers {summary.utilization:.0%} busy, "
            f"{summary.wall_seconds:,.0f} s; loss curves in {output_dir / 'loss.png'}"
        )
    if not summary.ok:
        raise typer.Exit(EXIT_FAILED)
