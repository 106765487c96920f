"""`loraloom serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands.options import Grace, Lease, TokenBudget
from orchestrator.commands.output import stderr
from orchestrator.interruption import GRACE_SECONDS
from orchestrator.retries import LEASE_SECONDS


def add(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(serve)


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
        Path | None, typer.Option(help="YAML list of {name, token, queues, read}; readable by its owner only.")
    ] = None,
    root: Annotated[
        list[Path] | None,
        typer.Option(
            "--root", help="Folder that the data and bases of jobs must lie in, no link leading out; repeatable."
        ),
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
    grace: Grace = GRACE_SECONDS,
    lease: Lease = LEASE_SECONDS,
) -> None:
    """Serve: take jobs in over HTTP, train them on a Ray cluster, and see them through restarts of everything."""
    from orchestrator.clusters.worker_resources import WorkerResources
    from orchestrator.operator_options import parse_labels, parse_queues, parse_resources
    from orchestrator.serve_options import ServeOptions
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
