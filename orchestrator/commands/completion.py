"""What the shell offers for a job: asked of the service, and nothing where that takes long."""

from __future__ import annotations

from typing import Annotated

import typer


def job_ids(incomplete: str) -> list[tuple[str, str]]:
    """Ids that begin so, with their states."""
    from jobs.errors import LoraloomError
    from orchestrator.client import Client

    try:
        with Client(timeout_seconds=1.0, patience_seconds=0.0) as client:
            found = client.page(q=incomplete or None, limit=200).jobs
    except LoraloomError:
        return []
    return [(job.id, job.state.value.lower()) for job in found if job.id.startswith(incomplete)]


JobArgument = Annotated[
    str, typer.Argument(metavar="JOB", help="Id of a job, or its name.", autocompletion=job_ids, show_default=False)
]
JobsArgument = Annotated[
    list[str],
    typer.Argument(metavar="JOB...", help="Ids of jobs, or their names.", autocompletion=job_ids, show_default=False),
]
