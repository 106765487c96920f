"""The output directory of a run: what stands where, and how it gets there whole.

artifacts/<job>/        published adapters
artifacts/.staging/     adapters being written; never looked at by anybody else
checkpoints/<job>/      what jobs go on from, and quarantine/ for what they cannot
logs/<job>.log          what happened to a job, a line each
metrics/<job>.jsonl     an object per logged step and per evaluation
journal.db              the truth about jobs, attempts and checkpoints
loss.png                the run's loss curves
"""

from __future__ import annotations

import errno
import json
import math
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jobs.artifacts import verify
from jobs.errors import LoraloomError
from jobs.records import EvalReport, Event, Job, ResumeReport, StepReport
from orchestrator.job_files import JobFiles
from orchestrator.journal import MetricPoint
from orchestrator.journal.records import MetricKind

_STAGING = ".staging"
_TRAINING: MetricKind = "train"
_EVALUATION: MetricKind = "eval"
"""What the lines of the metrics history are told apart by."""


class OutputDirectory:
    """Writes a run's files, all but the journal. A listener of what happens to jobs."""

    def __init__(
        self,
        root: Path,
        *,
        storage_uri: str | None = None,
        name_of: Callable[[Job], str] = lambda job: job.spec.name,
        staging: str | None = None,
    ) -> None:
        """Use a directory whose journal this process holds.

        Args:
            root: Of the directory.
            storage_uri: Of a store for checkpoints and adapters, where they are not to stay here.
            name_of: What a job's files are called: unique among the jobs whose files stay here.
            staging: Name of the folder in which workers write, where they may outlive this process; what is in it is
                left alone. Else a new one, and what earlier processes left is deleted.

        Raises:
            LoraloomError: It cannot be written.
        """
        self.root = root.resolve()
        self._name_of = name_of
        try:
            for folder in (self.artifacts, self.checkpoints, self.logs, self.metrics):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LoraloomError(f"the output directory {self.root} cannot be used: {error.strerror}") from error
        self._staging_stays = staging is not None
        if not self._staging_stays:
            shutil.rmtree(self.artifacts / _STAGING, ignore_errors=True)
        # A name of its own: a worker of a run that was killed may still be writing.
        self.staging = self.artifacts / _STAGING / (staging or secrets.token_hex(4))
        """Folder in which workers write adapters; on the same file system, so that publishing is a rename."""
        self.job_files = JobFiles(self.root, storage_uri, name_of=name_of)
        """Checkpoints and published adapters."""
        self._unwritten: dict[Path, bytes] = {}
        self._last_steps: dict[str, dict[MetricKind, int]] = {}
        """Per job name: the last step in its metrics history, of training and of evaluation."""

    @property
    def artifacts(self) -> Path:
        """Folder of published adapters."""
        return self.root / "artifacts"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints, a folder a job id."""
        return self.root / "checkpoints"

    @property
    def working(self) -> Path:
        """Empty folder that a service and the process that looks into jobs work in: no relative name is a file."""
        return self.root / "empty"

    @property
    def logs(self) -> Path:
        """Folder of logs."""
        return self.root / "logs"

    @property
    def metrics(self) -> Path:
        """Folder of metrics histories."""
        return self.root / "metrics"

    def log_of(self, name: str) -> Path:
        """The log of the job whose files are called so."""
        return self.logs / f"{name}.log"

    def finished(self, name: str) -> dict[str, Any] | None:
        """The manifest of a job that has finished here before, its files re-hashed; `None` if there is none.

        Raises:
            ValueError: There is an artifact but it is not whole.
        """
        folder = self.artifacts / name
        return verify(folder) if folder.exists() else None

    def begin(self, job: Job) -> None:
        """Start a new job's files: what another one of its name left would not fit to them."""
        for path in (self.log_of(self._name_of(job)), self.metrics / f"{self._name_of(job)}.jsonl"):
            path.unlink(missing_ok=True)
        self._last_steps.pop(self._name_of(job), None)

    def publish(self, job: Job, staged: str) -> str:
        """Verify a staged artifact and move it to its place in one rename. Twice is once.

        Raises:
            ValueError: It is not whole.
            OSError: The disk refuses.
        """
        return self.job_files.publish(job, staged, note=lambda message: self._log(job, message))

    def on_event(self, job: Job, event: Event) -> None:
        """A line in the job's log."""
        self._log(job, f"{event.state} ({event.reason}): {event.message}", at=event.time_unix_seconds)

    def on_resume(self, job: Job, report: ResumeReport) -> None:
        """Cut the metrics after the step that the job goes on from, so that each logged step stands there once."""
        for difference in report.differences:
            self._log(job, f"bits may differ from those of an uninterrupted run: {difference}")
        path = self.metrics / f"{self._name_of(job)}.jsonl"
        self._unwritten.pop(path, None)
        self._last_steps.pop(self._name_of(job), None)
        _keep_lines(path, [line for line in _lines(path) if _happened(line, report)])

    def on_log(self, job: Job, message: str) -> None:
        """A line in the job's log."""
        self._log(job, message)

    def on_step(self, job: Job, report: StepReport) -> None:
        """An object in the metrics history, and a line in the log, where the step is to be logged."""
        if report.skipped:
            self._log(job, f"step {report.step} skipped: loss or gradient not finite")
        if not report.logged:
            return
        if not self._metric(job, MetricPoint.of_step(report)):
            return
        self._log(
            job,
            f"step {report.step}/{report.total_steps} loss {report.loss:.4f} lr {report.learning_rate:.3g} "
            f"grad norm {report.grad_norm:.3g}",
        )

    def on_evaluation(self, job: Job, report: EvalReport) -> None:
        """An object in the metrics history and a line in the log."""
        if not self._metric(job, MetricPoint.of_evaluation(report)):
            return
        self._log(
            job,
            f"evaluation at step {report.step}: loss {report.loss:.4f}, exact match {report.exact_match:.3f} of "
            f"{report.rows} rows",
        )

    def close(self) -> None:
        """Leave nothing half written."""
        self.job_files.close()
        if not self._staging_stays:
            shutil.rmtree(self.artifacts / _STAGING, ignore_errors=True)

    def _log(self, job: Job, message: str, at: float | None = None) -> None:
        moment = datetime.fromtimestamp(at, UTC) if at is not None else datetime.now(UTC)
        stamp = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._append(self.log_of(self._name_of(job)), f"{stamp} {message}\n")

    def _metric(self, job: Job, point: MetricPoint) -> bool:
        """Add to the metrics history; false where a process that died since has written it already."""
        path = self.metrics / f"{self._name_of(job)}.jsonl"
        last = self._last_steps.get(self._name_of(job))
        if last is None:
            last = self._last_steps[self._name_of(job)] = _last_steps(path)
        if point.step <= last[point.kind]:
            return False
        last[point.kind] = point.step
        self._append(path, json_line({"step": point.step, **point.values}))
        return True

    def _append(self, path: Path, text: str) -> None:
        """On a full disk lines wait in memory for the next call: a log must not end what it is about."""
        content = self._unwritten.pop(path, b"") + text.encode()
        try:
            with path.open("ab", buffering=0) as stream:
                while content:
                    content = content[stream.write(content) :]
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._unwritten[path] = content


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []


def _keep_lines(path: Path, lines: Sequence[str]) -> None:
    if lines:
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(lines), encoding="utf-8")
        temporary.replace(path)
    else:
        path.unlink(missing_ok=True)


def _last_steps(path: Path) -> dict[MetricKind, int]:
    """How far a metrics history goes. A torn last line, of a process that was killed, is cut off."""
    last: dict[MetricKind, int] = {_TRAINING: 0, _EVALUATION: -1}
    lines = _lines(path)
    whole = [line for line in lines if _parsed(line) is not None]
    if len(whole) < len(lines):
        _keep_lines(path, whole)
    for values in map(_parsed, whole):
        assert values is not None
        kind = _EVALUATION if "eval_loss" in values else _TRAINING
        last[kind] = max(last[kind], values["step"])
    return last


def _parsed(line: str) -> dict[str, Any] | None:
    """A line's object; `None` for a torn one."""
    try:
        return json.loads(line) if line.endswith("\n") else None
    except ValueError:
        return None


def _happened(line: str, report: ResumeReport) -> bool:
    """Whether a line of the metrics is of what the checkpoint has seen. A torn one, of a killed run, is not."""
    values = _parsed(line)
    if values is None:
        return False
    return values["step"] <= (report.evaluated_at if "eval_loss" in values else report.progress.step)


def json_line(values: Mapping[str, object]) -> str:
    """One JSON object and a newline; a number that is not finite becomes null, which JSON has and NaN it has not."""
    return json.dumps(finite(values), ensure_ascii=False) + "\n"


def finite(value: object) -> object:
    """The same value with every number that is not finite replaced by `None`."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
