"""What the owners of jobs want, and the requests to workers that make it so."""

from __future__ import annotations

from jobs.records import Desired, Job, JobState
from orchestrator.clusters import Cluster
from orchestrator.lives import Lives
from orchestrator.roster import WITH_A_WORKER, Roster


class Intent:
    """Makes of each job what its owner wants."""

    def __init__(self, roster: Roster, cluster: Cluster, lives: Lives) -> None:
        self._roster = roster
        self._cluster = cluster
        self._lives = lives

    def follow(self) -> None:
        """Pause, resume and cancel."""
        for job in list(self._roster.jobs.values()):
            if job.desired is Desired.RUN:
                if job.state is JobState.PAUSED and job.worker_id is None:
                    self._lives.change(job, JobState.PENDING, "resumed", "waiting to be placed again")
            elif job.state.is_terminal:
                continue
            elif job.desired is Desired.CANCEL:
                self.cancel(job, "cancelled by its owner")
            elif job.id in self._roster.unpublished:
                # It trains no more; there is nothing to hold.
                continue
            elif job.worker_id is not None and job.state in WITH_A_WORKER:
                self.call_back(job, "paused", "paused by its owner")
            elif job.state is not JobState.PAUSED:
                self._lives.change(job, JobState.PAUSED, "paused", "paused by its owner before it was placed")

    def cancel(self, job: Job, message: str) -> None:
        """End a job on a person's word. Without effect on one that has ended."""
        if job.state.is_terminal:
            return
        record = self._roster.workers.get(job.worker_id or "")
        if record is not None and record.ended is None and job.id not in self._roster.unpublished:
            self._cluster.release(record.worker.id, job.id)
        self._roster.leaving.pop(job.id, None)
        self._lives.change(job, JobState.CANCELLED, "cancelled", message)

    def call_back(self, job: Job, reason: str, message: str) -> None:
        """Let a job's worker save it and drop it. Asked again, it is still one request."""
        if job.id not in self._roster.leaving and job.worker_id is not None:
            self._roster.leaving[job.id] = (reason, message)
            self._cluster.hand_back(job.worker_id, job.id)
