"""The `loraloom` command: parses, calls, prints. Data on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.text import Text

from jobs.errors import LoraloomError, Problem, SpecError
from orchestrator.commands import artifacts, logs, look, operate, steer, submit
from orchestrator.commands.output import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_INVALID,
    EXIT_TERMINATED,
    AsJson,
    plain,
    signal_behind,
    stderr,
    stdout,
)
from orchestrator.interruption import GRACE_SECONDS, Interrupted
from orchestrator.openmp import spin_briefly
from orchestrator.retries import LEASE_SECONDS

_NAME = "loraloom"

app = typer.Typer(
    name=_NAME,
    help="Train many LoRA adapters at once on one frozen base model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Specs = Annotated[list[Path], typer.Argument(metavar="SPEC...", help="YAML files with job specs.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Override a field of every job; repeatable.")
]
TokenBudget = Annotated[
    int | None,
    typer.Option(min=1, help="Tokens that a pack of several jobs may hold; found from the memory if not given."),
]


def main() -> None:
    """Entry point of the console script."""
    signal.signal(signal.SIGTERM, _raise_terminated)
    spin_briefly()
    try:
        # Not standalone, the parser returns the code of `typer.Exit` (its own for Ctrl-C) and raises everything else.
        code = _parse_and_run()
        if code == EXIT_INTERRUPTED:
            raise KeyboardInterrupt
        sys.exit(code)
    except (KeyboardInterrupt, typer.Abort):
        _tell_interrupted("interrupted", "")
        sys.exit(EXIT_INTERRUPTED)
    except Interrupted as interrupted:
        is_terminated = interrupted.number == signal.SIGTERM
        _tell_interrupted("terminated" if is_terminated else "interrupted", interrupted.told)
        sys.exit(EXIT_TERMINATED if is_terminated else EXIT_INTERRUPTED)
    except SpecError as error:
        _print_problems(error.problems)
        sys.exit(EXIT_INVALID)
    except LoraloomError as error:
        stderr().print(Text(plain(str(error)), style="red"), soft_wrap=True)
        sys.exit(getattr(error, "exit_code", EXIT_FAILED))
    except BrokenPipeError:
        # As with `| head`: whoever read has seen enough, and Python must not complain of it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
    except Exception as error:
        if not hasattr(error, "exit_code"):
            raise
        # Usage errors of the command-line parser know how to show themselves.
        error.show()  # type: ignore[attr-defined]
        sys.exit(EXIT_INVALID)


def _parse_and_run() -> int:
    """The exit code; a signal that Python has made another error of is raised as what it was."""
    try:
        return app(standalone_mode=False, prog_name=_NAME) or 0
    except Exception as error:
        signalled = signal_behind(error)
        if signalled is None:
            raise
        raise signalled from None


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where to write the example; created if missing.")] = Path("."),
) -> None:
    """Write a first spec and its data to start from."""
    from importlib.resources import files

    examples = files("jobs") / "examples"
    targets = {name: folder / name for name in ("quickstart.yaml", "quickstart.jsonl")}
    there = [str(target) for target in targets.values() if target.exists()]
    if there:
        raise SpecError([Problem(message="exists already and is left as it is", file=name) for name in there])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, target in targets.items():
            target.write_bytes((examples / name).read_bytes())
            print(target)
    except OSError as error:
        raise SpecError([Problem(message=f"cannot be written: {error.strerror}", file=str(folder))]) from error
    commands = "loraloom validate quickstart.yaml && loraloom run quickstart.yaml"
    stderr().print(Text(f"next: cd {shlex.quote(str(folder))} && {commands}"), soft_wrap=True)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a job spec."""
    from jobs.schema import json_schema

    print(json.dumps(json_schema(), indent=2))


@app.command()
def validate(specs: Specs, set_: Set = None, as_json: AsJson = False) -> None:
    """Check specs, their bases and all rows of their data without training; print what each will take."""
    from jobs.loading import load_files

    loaded = load_files(specs, set_ or ())
    _quiet()
    from orchestrator.estimates import by_base, tables, to_json
    from orchestrator.run import check

    estimates = check(loaded, console=stderr())
    together = by_base(estimates.values())
    if as_json:
        print(json.dumps(to_json(estimates, together)))
        return
    for table in tables(estimates, together):
        stdout().print(table)


@app.command()
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
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds to save all jobs in after Ctrl-C or SIGTERM.")
    ] = GRACE_SECONDS,
    lease: Annotated[
        float, typer.Option(min=1, help="Seconds without a sign of life after which a worker is replaced.")
    ] = LEASE_SECONDS,
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Let Prometheus scrape this port of the loopback meanwhile.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train all jobs of the spec files to their ends, then exit: 0 if all succeeded, 1 if one failed."""
    from jobs.loading import load_files

    # Mistakes in the text are told before anything heavy is imported.
    load_files(specs, set_ or ())
    _quiet()
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


@app.command()
def serve(
    data_dir: Annotated[Path, typer.Option(help="Journal, checkpoints, adapters and logs; created if missing.")] = Path(
        "loraloom-data"
    ),
    host: Annotated[str, typer.Option(help="Interface to listen at; a public one needs --token-file.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 for any that is free.")] = 8400,
    name: Annotated[
        list[str] | None, typer.Option("--name", help="A further host name that it is reached by; repeatable.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="YAML list of {name, token, queues}; readable by its owner only.")
    ] = None,
    root: Annotated[
        list[Path] | None, typer.Option("--root", help="Folder that the data of jobs must lie in; repeatable.")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="Root of an object store for checkpoints and adapters, such as s3://bucket/path.")
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="Join this Ray cluster instead of starting one that outlives the service.")
    ] = None,
    in_process: Annotated[bool, typer.Option("--in-process", help="Train in this process, without Ray.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Workers on a node without GPUs; one without it.")] = None,
    worker_cpus: Annotated[
        int | None, typer.Option(min=1, help="CPUs of a worker; an equal share of its node's without it.")
    ] = None,
    worker_gpus: Annotated[
        float, typer.Option(min=0.01, max=1, help="GPUs of a worker, where a node has any; below 1 they share one.")
    ] = 1.0,
    worker_resource: Annotated[
        list[str] | None,
        typer.Option(
            "--worker-resource",
            metavar="NAME=AMOUNT",
            help="Another of Ray's resources that a worker takes; repeatable.",
        ),
    ] = None,
    node_label: Annotated[
        list[str] | None,
        typer.Option("--node-label", metavar="KEY=VALUE", help="Only nodes with this label of Ray's; repeatable."),
    ] = None,
    object_store: Annotated[
        float | None,
        typer.Option(min=75, metavar="MIB", help="Ray's object store, in a Ray of the service's own; 100 without it."),
    ] = None,
    token_budget: TokenBudget = None,
    queue: Annotated[
        list[str] | None,
        typer.Option("--queue", metavar="NAME=WEIGHT[:MAX_JOBS]", help="Share and quota of a queue; repeatable."),
    ] = None,
    largest_device: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="GIB",
            help="Memory of the largest device that can ever join; a job that needs more fails, any other waits.",
        ),
    ] = None,
    prometheus_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder that Prometheus watches for services; `prometheus` in the data directory without it."
        ),
    ] = None,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds to save all jobs in after Ctrl-C or SIGTERM.")
    ] = GRACE_SECONDS,
    lease: Annotated[
        float, typer.Option(min=1, help="Seconds without a sign of life after which a worker is replaced.")
    ] = LEASE_SECONDS,
) -> None:
    """Serve: take jobs in over HTTP, train them on a Ray cluster, and see them through restarts of everything."""
    from orchestrator.clusters.worker_resources import WorkerResources
    from orchestrator.operator_options import parse_labels, parse_queues, parse_resources
    from orchestrator.service import ServeOptions
    from orchestrator.service import serve as serve_jobs

    if ray_address and in_process:
        raise typer.BadParameter("--ray-address and --in-process exclude each other")
    if in_process and (worker_cpus or worker_gpus != 1 or worker_resource or node_label):
        raise typer.BadParameter("what a worker takes of its node is for Ray to see to: without --in-process")
    if object_store is not None and (in_process or ray_address):
        raise typer.BadParameter("--object-store is for a Ray of the service's own")
    options = ServeOptions(
        data_dir=data_dir,
        host=host,
        port=port,
        names=tuple(name or ()),
        token_file=token_file,
        roots=tuple(root) if root else None,
        storage_uri=storage,
        ray_address=ray_address,
        in_process=in_process,
        resources=WorkerResources(
            num_cpus=worker_cpus,
            num_gpus=worker_gpus,
            resources=parse_resources(worker_resource or ()),
            labels=parse_labels(node_label or ()),
            workers_per_node=workers,
        ),
        object_store_bytes=round(object_store * 2**20) if object_store is not None else None,
        token_budget=token_budget,
        queues=parse_queues(queue or ()),
        largest_device_bytes=round((largest_device or 0) * 2**30),
        prometheus_dir=prometheus_dir,
        grace_seconds=grace,
        lease_seconds=lease,
    )
    serve_jobs(options, stderr())


for verbs in (submit, look, logs, steer, artifacts, operate):
    verbs.add(app)


def _quiet() -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from orchestrator.clusters.host import quiet_libraries

    quiet_libraries()


def _print_problems(problems: tuple[Problem, ...]) -> None:
    console = stderr()
    for problem in problems:
        console.print(Text(str(problem)), soft_wrap=True)
    count = len(problems)
    console.print(f"{count} {'problem' if count == 1 else 'problems'}; nothing was started", style="bold red")


def _raise_terminated(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise Interrupted(signal.SIGTERM)


def _tell_interrupted(how: str, told: str) -> None:
    message = f"{how}: {f'{told}; ' if told else ''}run the same command again to go on from there"
    stderr().print(Text(message, style="yellow"), soft_wrap=True)


if __name__ == "__main__":
    main()
