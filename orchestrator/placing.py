"""Placing: the waiting line, the snapshots that policies decide on, and what their decisions make workers do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from jobs.records import Assignment, BaseKey, Job, JobState
from orchestrator.clusters import Cluster
from orchestrator.decision import (
    Decision,
)
from orchestrator.fair_shares import FairShares
from orchestrator.intent import Intent
from orchestrator.lives import Lives
from orchestrator.placement import decide
from orchestrator.rebalancing import give_back, rebalance
from orchestrator.roster import Roster, WorkerRecord
from orchestrator.snapshot import (
    PolicySettings,
    Queue,
    Snapshot,
    WaitingJob,
)
from orchestrator.survey import Survey
from orchestrator.waiting_line import WaitingLine
from workers.estimate import Estimate
from workers.settings import WorkerSettings


class Placing:
    """Carries out what the placement policy decides."""

    def __init__(
        self,
        roster: Roster,
        estimates: Mapping[str, Estimate],
        cluster: Cluster,
        lives: Lives,
        survey: Survey,
        intent: Intent,
        *,
        settings: WorkerSettings,
        policy: PolicySettings,
        queues: Sequence[Queue],
        now: Callable[[], float],
        num_started: int,
        largest_device_bytes: int,
    ) -> None:
        self.settings = settings
        """For every worker; its memory is set to that of its device."""
        self.line = WaitingLine()
        self.decision = Decision()
        """The last one, for those who ask why a job waits."""
        self.largest_device_bytes = largest_device_bytes
        """Of all devices that there ever were."""
        self._roster = roster
        self._estimates = estimates
        self._cluster = cluster
        self._lives = lives
        self._survey = survey
        self._intent = intent
        self._policy = policy
        self._queues = tuple(queues)
        self._now = now
        self._num_started = num_started
        self._num_placed = 0
        self.shares = FairShares(policy)
        self._turned_at = self._rebalanced_at = now()

    @property
    def queue_shares(self) -> tuple[Queue, ...]:
        """All queues that have had anything, with what they had and what was due to them."""
        return self.shares.queues(self._queues)

    def why(self, job: Job) -> str | None:
        """Why a job waits; `None` for one that does not, or of which nothing was decided yet."""
        if job.state is not JobState.PENDING or job.id not in self.line:
            return None
        return self.decision.why(self._survey.waiting(job))

    def place(self) -> None:
        """Decide where the jobs that wait go, and let them go there."""
        self._line_up()
        alive = self._roster.alive
        if self._policy.hand_over_at_once:
            self._hand_over(alive)
            return
        snapshot = self._snapshot(alive)
        self._share_time(snapshot)
        self.decision = Decision()
        if len(self.line):
            self._decide(replace(snapshot, queues=self.queue_shares), self.line)

    def give_back(self) -> None:
        """Stop workers that nobody needs: at once where no job of their base is left, else after a while."""
        alive = self._roster.alive
        busy = {job.worker_id for job in self._roster.trained}
        for worker_id, record in alive.items():
            if worker_id in busy:
                record.idle_since = None
            elif record.idle_since is None:
                record.idle_since = self._now()
        idle = {worker_id: record for worker_id, record in alive.items() if record.idle_since is not None}
        if self._policy.hand_over_at_once:
            for worker_id, record in idle.items():
                if self._no_more_for(record.worker.base):
                    self._stop(worker_id, "no job left for its base")
        elif idle:
            for retirement in give_back(self._snapshot(idle), Decision()):
                self._stop(retirement.worker_id, retirement.reason)

    def rebalance(self) -> None:
        """Move jobs that end sooner elsewhere: called back, they wait, and the next decision puts them there.

        Not looked into more often than a move takes. What is handed over at once stays where it is, so that no clock
        has a part in what is packed together.
        """
        now = self._now()
        if self._policy.hand_over_at_once or now - self._rebalanced_at < self._policy.move_seconds:
            return
        self._rebalanced_at = now
        known = [self._estimates[job.id] for job in self._roster.trained if job.id in self._estimates]
        shapes = {str(one.base): one.base_shape for one in known}
        for move in rebalance(self._snapshot(self._roster.alive), self.line, shapes):
            self._intent.call_back(self._roster.jobs[move.job_id], "moved", move.reason)

    def _hand_over(self, alive: Mapping[str, WorkerRecord]) -> None:
        """Place all that waits in one decision, and tell the others why they still do."""
        waiting = [job for job in self._roster.jobs.values() if job.id in self.line]
        if not waiting:
            self.decision = Decision()
        elif not alive and not self._cluster.devices():
            # Nothing can be said of what fits before there is something for it to fit on.
            for job in waiting:
                job.message = "no device yet: the cluster has no node with room for a worker"
        else:
            requests = tuple(self._survey.waiting(job) for job in waiting)
            self._decide(self._snapshot(alive, requests))
            for request in requests:
                if self._roster.jobs[request.id].state is JobState.PENDING:
                    self._roster.jobs[request.id].message = self.decision.why(request)

    def _decide(self, snapshot: Snapshot, line: WaitingLine | None = None) -> None:
        self.decision = decide(snapshot, line)
        for job_id, message in self.decision.impossible:
            self._lives.change(self._roster.jobs[job_id], JobState.FAILED, "memory", message)
        self._carry_out(self.decision)

    def _line_up(self) -> None:
        """Bring the waiting line up to date."""
        jobs = self._roster.jobs
        waiting = {job.id for job in jobs.values() if job.state is JobState.PENDING and job.id in self._estimates}
        for job_id in [one.id for one in self.line if one.id not in waiting]:
            self.line.remove(job_id)
        for job_id in sorted(waiting):
            if job_id not in self.line:
                self.line.add(self._survey.waiting(jobs[job_id]))

    def _snapshot(self, alive: Mapping[str, WorkerRecord], waiting: tuple[WaitingJob, ...] = ()) -> Snapshot:
        taken = {record.worker.device.id for record in alive.values()}
        devices = self._cluster.devices()
        here = (*devices, *(record.worker.device for record in alive.values()))
        self.largest_device_bytes = max([self.largest_device_bytes, *(device.memory_bytes for device in here)])
        by_worker: dict[str, list[Job]] = {worker_id: [] for worker_id in alive}
        for job in self._roster.trained:
            if job.worker_id in by_worker:
                by_worker[job.worker_id].append(job)
        return Snapshot(
            waiting=waiting,
            workers=tuple(
                self._survey.worker(
                    record.worker,
                    by_worker[worker_id],
                    leaving=self._roster.leaving,
                    idle_since=record.idle_since,
                )
                for worker_id, record in alive.items()
            ),
            free_devices=tuple(device for device in devices if device.id not in taken),
            num_started=self._num_started,
            token_budget=self.settings.token_budget,
            queues=self.queue_shares,
            now_seconds=self._now(),
            num_placed=self._num_placed,
            largest_device_bytes=self.largest_device_bytes,
            settings=self._policy,
        )

    def _share_time(self, snapshot: Snapshot) -> None:
        """Let queues be charged for what their jobs had since the last turn."""
        had: dict[str, float] = {}
        for worker in snapshot.workers:
            for queue, (_, _, share) in worker.by_queue.items():
                had[queue] = had.get(queue, 0.0) + share
        now = snapshot.now_seconds
        wanting = [name for name in self.line.heads if name not in self.decision.at_quota]
        self.shares.advance(now - self._turned_at, had, wanting, self._queues)
        self._turned_at = now

    def _carry_out(self, decision: Decision) -> None:
        assignments: dict[str, list[Assignment]] = {new.id: [] for new in decision.new_workers}
        for new in decision.new_workers:
            self._roster.workers[new.id] = WorkerRecord(new)
        self._num_started += len(decision.new_workers)
        for placement in decision.placements:
            job = self._roster.jobs[placement.job_id]
            job.progress = replace(job.progress, total_steps=self._estimates[job.id].total_steps)
            node = self._roster.workers[placement.worker_id].worker.device.node
            self._lives.start_attempt(job, placement.worker_id, placement.reason, node=node)
            self.line.remove(job.id)
            self._survey.placed(job)
            self._num_placed += 1
            assignments.setdefault(placement.worker_id, []).append(
                Assignment(
                    job_id=job.id,
                    spec=job.spec,
                    attempt=job.attempt,
                    checkpoints=job.checkpoints,
                    ledger=job.progress.ledger,
                    priority=job.priority,
                    is_isolated=job.id in self._roster.suspects,
                    submitted_unix_seconds=job.submitted_unix_seconds,
                    file_rules=self.settings.file_rules,
                )
            )
        for new in decision.new_workers:
            settings = replace(
                self.settings,
                capacity_bytes=new.device.memory_bytes,
                staging_dir=self.settings.staging_dir / new.id,
            )
            self._cluster.start_worker(new, settings, assignments.pop(new.id))
        for worker_id, more in assignments.items():
            self._cluster.assign(worker_id, more)
        for retirement in decision.retired:
            self._stop(retirement.worker_id, retirement.reason)
        for preemption in decision.preemptions:
            for victim in preemption.victims:
                self._intent.call_back(self._roster.jobs[victim], "preempted", preemption.reason)
                self._survey.preempted(victim)

    def _no_more_for(self, base: BaseKey) -> bool:
        waiting = [job for job in self._roster.jobs.values() if job.state in (JobState.PENDING, JobState.RECOVERING)]
        return not any((known := self._estimates.get(job.id)) is None or known.base == base for job in waiting)

    def _stop(self, worker_id: str, reason: str) -> None:
        self._cluster.stop_worker(worker_id)
        self._roster.workers[worker_id].ended = reason
