"""`loraloom cluster`, `doctor` and `prune`."""

from __future__ import annotations

import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from orchestrator.commands.output import (
    EXIT_FAILED,
    AsJson,
    ago,
    cell,
    number,
    plain,
    print_json,
    service,
    size,
    stdout,
    table,
    tell,
)

if TYPE_CHECKING:
    from jobs.view import ClusterView, WorkerView
    from orchestrator.api.operator_models import PrunePlan, QueueListing

_LEVELS = {"ok": "green", "warning": "yellow", "problem": "bold red"}
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_BYTES = {"": 1, "b": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12} | {
    f"{letter}{ending}": (10**3 if ending == "b" else 2**10) ** power
    for power, letter in enumerate("kmgt", start=1)
    for ending in ("b", "ib")
}


def add(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(cluster)
    app.command()(doctor)
    app.command()(prune)


def cluster(as_json: AsJson = False) -> None:
    """Show workers, the split of their memory, who shares them, and the queues."""
    with service() as client:
        view, queues = client.cluster(), client.queues()
    if as_json:
        print_json({**asdict(view), "queues": queues.model_dump(mode="json")["queues"]})
        return
    _show_cluster(view)
    _show_queues(queues)


def doctor(
    specs: Annotated[
        list[Path] | None, typer.Argument(metavar="[SPEC...]", help="Look at the bases of these specs too.")
    ] = None,
    data_dir: Annotated[Path, typer.Option(help="Data directory of the service.")] = Path("loraloom-data"),
    ray_address: Annotated[str | None, typer.Option(help="Ray cluster that the service is to join.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="Token file of the service.")] = None,
    as_json: AsJson = False,
) -> None:
    """Look for what is wrong with this machine: 1 if something will not work."""
    from jobs.loading import load_files
    from orchestrator.client import DEFAULT_URL
    from orchestrator.diagnosis import Subject, examine

    loaded = load_files(specs) if specs else []
    subject = Subject(
        data_dir=data_dir,
        url=(os.environ.get("LORALOOM_URL") or DEFAULT_URL).rstrip("/"),
        ray_address=ray_address,
        token_file=token_file,
        bases=sorted({one.spec.model.model_name_or_path for one in loaded}),
    )
    found = []
    out = stdout()
    for finding in examine(subject):
        found.append(finding)
        if as_json:
            continue
        line = Text.assemble(
            (f"{finding.level:<8}", _LEVELS[finding.level]), f"{finding.what}: ", plain(finding.message)
        )
        out.print(line, soft_wrap=True)
        if finding.mend is not None:
            out.print(Text(f"        mend: {plain(finding.mend)}"), soft_wrap=True)
    problems = sum(finding.level == "problem" for finding in found)
    if as_json:
        print_json({"ok": problems == 0, "findings": [asdict(finding) for finding in found]})
    else:
        warnings = sum(finding.level == "warning" for finding in found)
        tell(f"{len(found)} looked at: problems {problems}, warnings {warnings}")
    if problems:
        raise typer.Exit(EXIT_FAILED)


def prune(
    jobs_older_than: Annotated[
        str | None, typer.Option(metavar="TIME", help="Remove jobs that ended so long ago, such as 30d.")
    ] = None,
    checkpoints_older_than: Annotated[
        str | None, typer.Option(metavar="TIME", help="Remove the checkpoints of jobs that ended so long ago.")
    ] = None,
    checkpoints_above: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Remove checkpoints of ended jobs, oldest first, down to such as 100GB."),
    ] = None,
    artifacts: Annotated[
        bool, typer.Option("--artifacts", help="Delete the published adapters of removed jobs too.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove old checkpoints and ended jobs from the service. Jobs that have not ended are never touched."""
    if jobs_older_than is None and checkpoints_older_than is None and checkpoints_above is None:
        raise typer.BadParameter(
            "say what may go: --jobs-older-than 30d, --checkpoints-older-than 7d or --checkpoints-above 100GB"
        )
    from orchestrator.api.operator_models import PruneOrder

    order = PruneOrder(
        jobs_older_than_seconds=_seconds(jobs_older_than, "--jobs-older-than"),
        checkpoints_older_than_seconds=_seconds(checkpoints_older_than, "--checkpoints-older-than"),
        checkpoints_above_bytes=_bytes(checkpoints_above, "--checkpoints-above"),
        artifacts=artifacts,
        dry_run=dry_run,
    )
    with service(patience_seconds=3.0) as client:
        plan = client.prune(order)
    if as_json:
        print_json(plan)
    else:
        _show_plan(plan)


def _show_cluster(view: ClusterView) -> None:
    out = stdout()
    if view.published_unix_seconds:
        busy = f"{view.utilization:.0%} busy" if view.utilization is not None else "not busy yet"
        rate = f", {view.tokens_per_second:,.0f} tokens/s" if view.tokens_per_second is not None else ""
        told = (
            f"{view.executor}: {view.nodes} nodes, {view.devices_in_use} of {view.devices} devices in use, {busy}{rate}"
        )
        out.print(Text(plain(told)), soft_wrap=True)
        tell(f"as of {ago(view.published_unix_seconds)}")
    else:
        tell("the scheduler has not said anything yet")
    for worker in view.workers:
        _show_worker(worker)


def _show_worker(worker: WorkerView) -> None:
    out = stdout()
    busy = f", {worker.utilization:.0%} busy" if worker.utilization is not None else ""
    rate = f", {worker.tokens_per_second:,.0f} tokens/s" if worker.tokens_per_second is not None else ""
    waiting = f", {worker.waiting} waiting" if worker.waiting else ""
    where = f"{worker.device} of {worker.node}" if worker.node else worker.device
    head = f": {worker.base} on {where}, {worker.state}{busy}{rate}{waiting}"
    out.print(Text.assemble((plain(worker.id), "bold"), plain(head)), soft_wrap=True)
    if worker.memory is not None:
        memory = worker.memory
        parts = (
            f"base {size(memory.base_bytes)}, adapters {size(memory.adapters_bytes)}, "
            f"activations {size(memory.activations_bytes)}, free {size(memory.free_bytes)}"
        )
        out.print(Text(f"  memory {size(memory.total_bytes)}: {parts}"), soft_wrap=True)
    if worker.sharers:
        shared = ", ".join(
            f"{sharer.job_id} ({size(sharer.adapter_bytes)}"
            + (f", {sharer.share:.0%} of the time)" if sharer.share is not None else ")")
            for sharer in worker.sharers
        )
        out.print(Text(f"  shared by {plain(shared)}"), soft_wrap=True)


def _show_queues(listing: QueueListing) -> None:
    if not listing.queues:
        return
    shown = table("queue", "weight", "quota", "share", "jobs", right=("weight", "quota"))
    for queue in listing.queues:
        states = ", ".join(f"{count} {state.lower()}" for state, count in sorted(queue.states.items()))
        share = None if queue.share is None else f"{queue.share:.0%}"
        shown.add_row(cell(queue.name), number(queue.weight, "g"), cell(queue.quota), cell(share), cell(states or None))
    stdout().print(shown)


def _show_plan(plan: PrunePlan) -> None:
    shown = table("job", "state", "ended", "goes", "size", right=("size",))
    for job in plan.jobs:
        goes = "the job" if job.is_removed else f"{job.checkpoints} checkpoints"
        shown.add_row(
            cell(job.id), cell(job.state), cell(ago(job.ended_unix_seconds)), cell(goes), size(job.freed_bytes)
        )
    if plan.jobs:
        stdout().print(shown)
    verb = "would go; nothing did" if plan.dry_run else "are gone"
    tell(f"{len(plan.jobs)} jobs or their checkpoints, {size(plan.freed_bytes)}, {verb}")
    if plan.undeleted:
        tell(f"files of {plan.undeleted} jobs could not be deleted ({plan.problem}); the next prune tries again")


def _seconds(text: str | None, option: str) -> float | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d|w)", text.strip().lower())
    if found is None:
        raise typer.BadParameter(f"{option} is {text!r}; write a number with s, min, h, d or w, such as 30d")
    return float(found[1]) * _SECONDS[found[2]]


def _bytes(text: str | None, option: str) -> int | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?(?:i?b)?)", text.strip().lower())
    if found is None or found[2] not in _BYTES:
        raise typer.BadParameter(f"{option} is {text!r}; write a size such as 500MB, 100GiB or 0")
    return int(float(found[1]) * _BYTES[found[2]])
