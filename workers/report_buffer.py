"""What a worker has to report, collected until it is asked."""

from __future__ import annotations

from dataclasses import replace

from jobs.records import CheckpointReport, EvalReport, JobState, LogReport, Report, StateReport, StepReport
from workers.usage import Accounts


class ReportBuffer:
    """Reports in order, stamped with the attempts that they are of when they are taken."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._reports: list[Report] = []
        self._attempts: dict[str, int] = {}

    def begin(self, job_id: str, attempt: int) -> None:
        """Stamp what is reported of a job with this attempt from now on."""
        self._attempts[job_id] = attempt

    def attempt(self, job_id: str) -> int:
        """Number of the job's attempt here."""
        return self._attempts[job_id]

    def add(self, report: Report) -> None:
        """Append a report."""
        self._reports.append(report)

    def log(self, job_id: str, message: str) -> None:
        """Append what a job's owner should know."""
        self._reports.append(LogReport(job_id=job_id, message=message))

    def state(self, job_id: str, state: JobState, reason: str, message: str, *, staged: str | None = None) -> None:
        """Append a change of a job's state."""
        self._reports.append(
            StateReport(job_id=job_id, state=state, reason=reason, message=message, staged_artifact=staged)
        )

    def take(self) -> list[Report]:
        """The reports since the last call."""
        reports, self._reports = self._reports, []
        return [self._stamped(one) for one in reports]

    def _stamped(self, report: Report) -> Report:
        attempt = self._attempts[report.job_id]
        match report:
            case CheckpointReport():
                # One of an earlier attempt here, which has no account any more.
                mine = report.attempt == attempt
                return replace(report, usage=self._accounts.last_usage(report.job_id)) if mine else report
            case StepReport() | EvalReport() | StateReport():
                return replace(report, attempt=attempt, usage=self._accounts.last_usage(report.job_id))
            case _:
                return replace(report, attempt=attempt)
