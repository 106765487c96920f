"""What owners submit and ask for, as the service's scheduler takes it in from the journal, and what checks find out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from jobs.file_rules import FileRules
from jobs.records import Job, JobState
from orchestrator.checking import Checked, Checker
from orchestrator.clusters import Cluster
from orchestrator.enrolment import Enrolment
from orchestrator.job_files import JobFiles
from orchestrator.journal import Journal, JournaledJob
from orchestrator.retries import after_unavailable
from orchestrator.roster import WITH_A_WORKER
from orchestrator.scheduler import Scheduler
from orchestrator.token_budget import token_budget
from workers.estimate import Estimate

_TOKEN_BUDGET = "token_budget"


class Submissions:
    """Reads the journal, where the API writes. Nothing here waits."""

    def __init__(
        self,
        journal: Journal,
        files: JobFiles,
        *,
        token_budget: int | None,
        on_submitted: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
        file_rules: FileRules = FileRules(),  # noqa: B008
        working_dir: Path | None = None,
    ) -> None:
        """Nothing is read before `unfinished`.

        Args:
            journal: The truth; this process writes it.
            files: Of its jobs.
            token_budget: That the operator asks for; found from the first estimate where `None`, and fixed.
            on_submitted: Called with the queue of each job that was submitted since this service began.
            now: Seconds of a clock that never goes back, for delays.
            file_rules: Under which the files of jobs are read.
            working_dir: An empty folder that the process works in which looks into jobs; this one's where `None`.
        """
        self.token_budget: int | None = token_budget or journal.setting(_TOKEN_BUDGET)
        """Tokens that a pack may hold; `None` until it is known."""
        self._journal = journal
        self.file_rules = file_rules
        """Under which the files of jobs are read."""
        self._checker = Checker(file_rules=file_rules, working_dir=working_dir)
        self._enrolment = Enrolment(journal, files, self._checker)
        self._on_submitted = on_submitted
        self._now = now
        self._tries: dict[str, int] = {}
        """Checks in a row of a job that could not be made, for reasons that pass."""
        self._again_at: dict[str, float] = {}
        """When jobs are looked into again."""
        self._refused: dict[str, str] = {}
        """Jobs whose base or data cannot be used → why; until they are told so."""
        self._sequence = 0
        self._last_submitted = journal.num_submitted()

    def unfinished(self) -> tuple[list[tuple[JournaledJob, Job]], dict[str, Estimate]]:
        """All jobs that have not ended, in order of submission, and the estimates of those that were checked before."""
        known = self._journal.unfinished()
        self._sequence = known.sequence
        self._count(known.jobs)
        jobs: list[tuple[JournaledJob, Job]] = []
        estimates: dict[str, Estimate] = {}
        for found in known.jobs:
            job = self._enrolment.job(found)
            if job is None:
                continue
            jobs.append((found, job))
            estimate = self._enrolment.estimate(found, job)
            if estimate is not None:
                estimates[job.id] = estimate
        return jobs, estimates

    def hear(self, scheduler: Scheduler) -> None:
        """Take in what owners have asked since the last turn."""
        while True:
            changed = self._journal.changed_since(self._sequence)
            self._count(changed.jobs)
            for found in changed.jobs:
                job = scheduler.jobs.get(found.id)
                if job is not None and job.state.is_terminal and not found.state.is_terminal:
                    scheduler.forget_ended()
                    job = None
                if job is not None:
                    scheduler.steer(found.id, desired=found.desired, priority=found.priority, queue=found.queue)
                elif not found.state.is_terminal:
                    self._add(scheduler, found)
            if changed.sequence == self._sequence:
                return
            self._sequence = changed.sequence

    def take_checks(self, scheduler: Scheduler, cluster: Cluster) -> None:
        """Let jobs be placed whose checks were sound, and let those fail whose were not.

        One that trains, and was looked into again after an upgrade, is not taken from its worker for that: it fails
        when it would have to be placed again.
        """
        self._check_again(scheduler)
        for one in self._checker.poll():
            if one.is_passing:
                self._put_off(scheduler, one)
                continue
            self._tries.pop(one.job_id, None)
            if one.estimate is None:
                self._refused[one.job_id] = "; ".join(one.problems) or "it cannot be used"
                continue
            if self.token_budget is None and (devices := cluster.devices()):
                # Found once and fixed: what shares a pack must not depend on when the service was started.
                budget = int(self._journal.fix_setting(_TOKEN_BUDGET, token_budget([one.estimate], devices)))
                scheduler.fix_token_budget(budget)
                self.token_budget = budget
            self._journal.set_estimate(one.job_id, one.estimate.to_json())
            scheduler.checked(one.job_id, one.estimate)
        for job_id, message in list(self._refused.items()):
            job = scheduler.jobs.get(job_id)
            if job is None or job.state not in WITH_A_WORKER or job.worker_id is None:
                scheduler.refuse(job_id, message)
                del self._refused[job_id]

    def _put_off(self, scheduler: Scheduler, one: Checked) -> None:
        """Let a job wait, with the reason, that could not be looked into for one that passes."""
        if one.job_id not in scheduler.jobs:
            return
        tries = self._tries[one.job_id] = self._tries.get(one.job_id, 0) + 1
        decision = after_unavailable(tries)
        self._again_at[one.job_id] = self._now() + decision.delay_seconds
        job = scheduler.jobs[one.job_id]
        job.message = f"waiting: {'; '.join(one.problems)}; {decision.reason}"
        if job.state is JobState.PENDING:
            self._journal.tell_waiting({job.id: job.message})

    def _check_again(self, scheduler: Scheduler) -> None:
        """Look into the jobs again whose time has come."""
        for job_id in [job_id for job_id, at in self._again_at.items() if self._now() >= at]:
            del self._again_at[job_id]
            job = scheduler.jobs.get(job_id)
            if job is None or job.state.is_terminal:
                self._tries.pop(job_id, None)
            else:
                self._checker.submit(job_id, job.spec)

    def close(self) -> None:
        """End the process that checks."""
        self._checker.close()

    def _count(self, jobs: Sequence[JournaledJob]) -> None:
        """Tell the metrics of those that were submitted since this service began; they come in no order."""
        new = [found for found in jobs if found.submitted > self._last_submitted]
        for found in new:
            self._on_submitted(found.queue)
        self._last_submitted = max((found.submitted for found in new), default=self._last_submitted)

    def _add(self, scheduler: Scheduler, found: JournaledJob) -> None:
        job = self._enrolment.job(found)
        if job is None:
            return
        scheduler.add(job)
        estimate = self._enrolment.estimate(found, job)
        if estimate is not None:
            scheduler.checked(job.id, estimate)
