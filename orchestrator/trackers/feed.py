"""Listens to jobs' lives and feeds the trackers that they name. In the scheduler's thread, and it never waits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from jobs.records import EvalReport, Event, Job, JobState, ResumeReport, StepReport
from orchestrator.trackers.channel import Channel


def tools_of(job: Job) -> tuple[str, ...]:
    """The trackers that a job names."""
    named = job.spec.report_to
    if isinstance(named, str):
        return () if named == "none" else (named,)
    return tuple(named)


class Trackers:
    """All of them."""

    def __init__(
        self,
        folder: Path,
        tell: Callable[[Job, str], None],
        *,
        identity: str,
        make: Callable[[str, Path], Channel] = Channel,
    ) -> None:
        """Start nothing before a job needs it.

        Args:
            folder: Each tool keeps what it is told in a folder of its name below it.
            tell: Takes what the owner of a job should know, such as that a tracker does not work.
            identity: Of the data directory, part of the name of every run: ids of jobs are unique in it alone, and a
                tool may keep the runs of many.
            make: Opens the channel to a tool.
        """
        self._folder = folder
        self._tell = tell
        self._identity = identity
        self._make = make
        self._channels: dict[str, Channel] = {}
        self._jobs: dict[str, Job] = {}
        """Those that were begun and have not ended, and that name a tracker."""

    def on_event(self, job: Job, event: Event) -> None:
        """It begins when it first runs here, and ends with the job."""
        if event.state is JobState.RUNNING:
            self._begin(job)
        elif event.state.is_terminal and self._jobs.pop(job.id, None) is not None:
            for tool in tools_of(job):
                self._channel(tool).send({"kind": "end", "job": job.id, "state": event.state.value})
        self.pass_on()

    def on_step(self, job: Job, report: StepReport) -> None:
        """Logged steps."""
        if report.logged:
            self._log(
                job,
                report.step,
                {
                    "train/loss": report.loss,
                    "train/learning_rate": report.learning_rate,
                    "train/grad_norm": report.grad_norm,
                    "train/epoch": report.epoch,
                },
            )

    def on_evaluation(self, job: Job, report: EvalReport) -> None:
        """Every evaluation."""
        self._log(job, report.step, {"eval/loss": report.loss, "eval/exact_match": report.exact_match})

    def on_resume(self, job: Job, report: ResumeReport) -> None:
        """What came after the checkpoint is told again, and replaces what was told before where the tool can."""

    def on_log(self, job: Job, message: str) -> None:
        """The log file has it."""

    def pass_on(self) -> None:
        """Tell owners what their trackers had to say."""
        for channel in self._channels.values():
            for job_id, message in channel.told():
                job = self._jobs.get(job_id)
                if job is not None:
                    self._tell(job, message)

    def close(self) -> None:
        """Let the trackers finish what they were given."""
        for channel in self._channels.values():
            channel.close()
        self.pass_on()

    def _begin(self, job: Job) -> None:
        tools = tools_of(job)
        if not tools or job.id in self._jobs:
            return
        self._jobs[job.id] = job
        begin = {
            "kind": "begin",
            "job": job.id,
            "run": f"{job.id}-{self._identity}",
            "name": job.spec.name,
            "spec": job.spec.model_dump(mode="json"),
        }
        for tool in tools:
            self._channel(tool).send(begin)

    def _log(self, job: Job, step: int, values: Mapping[str, float]) -> None:
        tools = tools_of(job)
        if not tools:
            return
        # A job that was taken over runs already.
        self._begin(job)
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        for tool in tools:
            self._channel(tool).send({"kind": "log", "job": job.id, "step": step, "values": finite})
        self.pass_on()

    def _channel(self, tool: str) -> Channel:
        if tool not in self._channels:
            self._channels[tool] = self._make(tool, self._folder / tool)
        return self._channels[tool]
