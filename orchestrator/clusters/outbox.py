"""What a worker has told, kept until whoever it tells has written it down."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from jobs.records import EvalReport, JobState, LogReport, Report, StateReport, StepReport

MOST_KEPT = 4096
"""Reports of about half a kilobyte, so some megabytes."""
_MOST_LOGS = 100
"""Lines for its log that are kept of a job, the newest."""

_Life = tuple[str, int]
"""Job and attempt."""


class Outbox:
    """Reports in order, numbered from 1. Handed out as often as asked for, dropped once acknowledged.

    A scheduler can be away for hours while the worker trains on. When more wait than `most_kept`, what is only history
    is thinned: steps that are not logged become one, then every second logged step and evaluation goes, of log lines
    the newest stay, and waits for room on the disk that are over. The sums of tokens and seconds stay right.
    Checkpoints and all other changes of state stay too: each checkpoint is a folder, and the disk is full before the
    memory is. What was handed out is never changed, since it may have been taken in; not more of that than `most_kept`
    is out at a time. Not for several threads: its owner has a lock.
    """

    def __init__(self, most_kept: int = MOST_KEPT) -> None:
        self._most_kept = most_kept
        self._kept: list[Report] = []
        self._last_number = 0
        self._handed_out = 0
        """Highest number that ever was."""
        self._thin_beyond = most_kept

    def add(self, reports: Iterable[Report]) -> None:
        """Take in what a worker told, in order."""
        for report in reports:
            self._last_number += 1
            self._kept.append(replace(report, number=self._last_number))
        if len(self._kept) > self._thin_beyond:
            self._thin()

    def after(self, number: int) -> tuple[Report, ...]:
        """Those with a higher number: what there is to tell to somebody who has heard everything up to it."""
        found = tuple(report for report in self._kept[: self._most_kept] if report.number > number)
        if found:
            self._handed_out = max(self._handed_out, found[-1].number)
        return found

    def has_after(self, number: int) -> bool:
        """Whether there are any that may be handed out."""
        out = self._kept[: self._most_kept]
        return bool(out) and out[-1].number > number

    def is_last(self, number: int) -> bool:
        """Whether there is nothing beyond it at all."""
        return not self._kept or self._kept[-1].number <= number

    def acknowledge(self, number: int) -> list[Report]:
        """Drop those up to a number.

        Returns:
            Those that were dropped.
        """
        dropped = [report for report in self._kept if report.number <= number]
        self._kept = self._kept[len(dropped) :]
        self._thin_beyond = max(self._most_kept, 2 * len(self._kept))
        return dropped

    def __len__(self) -> int:
        return len(self._kept)

    def _thin(self) -> None:
        out = [report for report in self._kept if report.number <= self._handed_out]
        rest = _without_past_waits(_newest_logs(_merged(self._kept[len(out) :])))
        while len(rest) > self._most_kept // 2:
            thinner = _merged(_every_second(rest))
            if len(thinner) == len(rest):
                break
            rest = thinner
        self._kept = out + rest
        # What cannot be thinned is not looked at again at each step.
        self._thin_beyond = len(out) + max(self._most_kept, 2 * len(rest))


def _merged(reports: list[Report]) -> list[Report]:
    """Steps of a job that stand between two logged ones, as one."""
    merged: list[Report | None] = []
    last_plain: dict[_Life, int] = {}
    for report in reports:
        if isinstance(report, StepReport):
            life = (report.job_id, report.attempt)
            if report.logged or report.skipped:
                last_plain.pop(life, None)
            else:
                if life in last_plain:
                    older = merged[last_plain[life]]
                    assert isinstance(older, StepReport)
                    merged[last_plain[life]] = None
                    report = replace(
                        report,
                        tokens=report.tokens + older.tokens,
                        label_tokens=report.label_tokens + older.label_tokens,
                        seconds=report.seconds + older.seconds,
                    )
                last_plain[life] = len(merged)
        merged.append(report)
    return [report for report in merged if report is not None]


def _every_second(reports: list[Report]) -> list[Report]:
    """Half of each job's history, its ends kept."""
    thinned: list[Report] = []
    counts: dict[tuple[_Life, type], int] = {}
    seconds: dict[_Life, float] = {}
    last_evaluation = {
        (report.job_id, report.attempt): report.number for report in reports if isinstance(report, EvalReport)
    }
    for report in reports:
        life = (report.job_id, report.attempt)
        if isinstance(report, EvalReport) or (isinstance(report, StepReport) and (report.logged or report.skipped)):
            count = counts[life, type(report)] = counts.get((life, type(report)), 0) + 1
            if isinstance(report, StepReport):
                if count % 2 == 0 and report.step != report.total_steps:
                    report = replace(report, logged=False, skipped=False)
            elif count % 2 == 0 and report.number != last_evaluation[life]:
                seconds[life] = seconds.get(life, 0.0) + report.seconds
                continue
            else:
                report = replace(report, seconds=report.seconds + seconds.pop(life, 0.0))
        thinned.append(report)
    return thinned


def _newest_logs(reports: list[Report]) -> list[Report]:
    left: dict[str, int] = {}
    kept: list[Report] = []
    for report in reversed(reports):
        if isinstance(report, LogReport):
            left[report.job_id] = left.get(report.job_id, 0) + 1
            if left[report.job_id] > _MOST_LOGS:
                continue
        kept.append(report)
    return kept[::-1]


def _without_past_waits(reports: list[Report]) -> list[Report]:
    """Without the PAUSED of a job that is followed by its RUNNING, and without that."""
    gone: set[int] = set()
    paused: dict[_Life, int] = {}
    for report in reports:
        if isinstance(report, StateReport):
            life = (report.job_id, report.attempt)
            before = paused.pop(life, None)
            if report.state is JobState.PAUSED:
                paused[life] = report.number
            elif report.state is JobState.RUNNING and before is not None:
                gone |= {before, report.number}
    return [report for report in reports if report.number not in gone]
