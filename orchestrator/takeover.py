"""How a service begins: with what the journal has, what still trains, and what was finished and never confirmed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.adoption import adopt
from orchestrator.journal import Journal, JournaledJob
from orchestrator.lives import UNPUBLISHED, Lives
from orchestrator.output_directory import OutputDirectory
from orchestrator.readoption import readopt
from orchestrator.roster import Unpublished
from orchestrator.scheduler import Scheduler
from orchestrator.service_cluster import ServiceCluster
from orchestrator.snapshot import PolicySettings, Queue
from orchestrator.submissions import Submissions
from workers.settings import WorkerSettings

_MEMORY = "scheduler_memory"
"""Setting of the journal: what a scheduler leaves to the next one."""
_MEMORY_FORMAT = 1
"""To be raised whenever `Scheduler.memory` changes: what another version remembers is left out."""


def take_over(
    journal: Journal,
    files: OutputDirectory,
    cluster: ServiceCluster,
    lives: Lives,
    submissions: Submissions,
    *,
    policy: PolicySettings,
    queues: Sequence[Queue],
    on_lost: Callable[[], None],
    say: Callable[[str], None],
) -> Scheduler:
    """Make the scheduler of a service that was just started.

    Args:
        journal: The truth; this process writes it.
        files: Of its jobs, whose files are called by their ids.
        cluster: Joined, and not used yet.
        lives: Writes down and tells what happens to jobs.
        submissions: Has the jobs.
        policy: How jobs are placed.
        queues: Weights and quotas.
        on_lost: Called for each attempt that died with its worker.
        say: Tells a person who looks on.
    """
    found = {job_id: Unpublished.from_json(one) for job_id, one in (journal.setting(UNPUBLISHED) or {}).items()}
    unpublished = {job_id: one for job_id, one in found.items() if one is not None}

    def adopt_finished(job: JournaledJob, notes: list[str]) -> bool:
        has_finished = adopt(journal, files.job_files, job, staging=files.staging, at=time.time(), note=notes.append)
        for note in [f"{job.id}: its adapter was found whole and is published"] if has_finished else notes:
            say(note)
        return has_finished

    adopted = readopt(journal, cluster, at=time.time(), unpublished=unpublished, adopt=adopt_finished, on_lost=on_lost)
    for folder in files.staging.iterdir() if files.staging.is_dir() else ():
        if folder.is_dir() and folder.name not in {worker.id for worker in adopted}:
            shutil.rmtree(folder, ignore_errors=True)
    known, estimates = submissions.unfinished()
    jobs = [job for _, job in known]
    settings = WorkerSettings(
        staging_dir=files.staging,
        checkpoints_dir=files.checkpoints,
        storage_uri=files.job_files.storage_uri,
        file_rules=submissions.file_rules,
    )
    if submissions.token_budget is not None:
        settings = replace(settings, token_budget=submissions.token_budget)
    if adopted:
        training = sum(job.worker_id is not None for job in jobs)
        say(f"took over {len(adopted)} workers with {training} jobs that still train")
    now = time.time()
    return Scheduler(
        jobs,
        estimates,
        cluster,
        settings,
        lives,
        publish=files.publish,
        adopted=adopted,
        unpublished=unpublished,
        num_started=journal.num_workers_started(),
        policy=policy,
        queues=queues,
        memory=_remembered(journal),
        waited_seconds={found.id: now - found.submitted_unix_seconds for found, _ in known},
    )


def remember(journal: Journal, memory: Mapping[str, Any]) -> None:
    """Keep `Scheduler.memory` for the next service.

    Raises:
        DiskFullError: No room.
    """
    journal.put_setting(_MEMORY, {"format": _MEMORY_FORMAT, **memory})


def _remembered(journal: Journal) -> Mapping[str, Any]:
    memory = journal.setting(_MEMORY) or {}
    return memory if memory.get("format", 1) == _MEMORY_FORMAT else {}
