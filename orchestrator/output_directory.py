"""The output directory of a run: what stands where, and how it gets there whole.

artifacts/<job>/        published adapters
artifacts/.staging/     adapters being written; never looked at by anybody else
logs/<job>.log          what happened to a job, a line each
metrics/<job>.jsonl     an object per logged step and per evaluation
loss.png                the run's loss curves
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from jobs.errors import LoraloomError
from jobs.records import EvalReport, Event, Job, StepReport
from workers import artifact


class OutputDirectory:
    """Writes a run's files. A scheduler's listener; holds the directory's lock while it is open."""

    def __init__(self, root: Path) -> None:
        """Create what is missing and lock the directory.

        Raises:
            LoraloomError: It cannot be written, or another run is using it.
        """
        self.root = root.resolve()
        try:
            for folder in (self.artifacts, self.logs, self.metrics):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.root / ".lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LoraloomError(f"another run is using {self.root}; name another with --output-dir") from None
        except OSError as error:
            raise LoraloomError(f"the output directory {self.root} cannot be used: {error.strerror}") from error
        shutil.rmtree(self.staging, ignore_errors=True)
        self._streams: dict[Path, TextIO] = {}

    @property
    def artifacts(self) -> Path:
        """Folder of published adapters."""
        return self.root / "artifacts"

    @property
    def staging(self) -> Path:
        """Folder in which workers write adapters; on the same file system, so that publishing is a rename."""
        return self.artifacts / ".staging"

    @property
    def logs(self) -> Path:
        """Folder of logs."""
        return self.root / "logs"

    @property
    def metrics(self) -> Path:
        """Folder of metrics histories."""
        return self.root / "metrics"

    def finished(self, name: str) -> dict[str, Any] | None:
        """The manifest of a job that has finished here before, its files re-hashed; `None` if there is none.

        Raises:
            ValueError: There is an artifact but it is not whole.
        """
        folder = self.artifacts / name
        return artifact.verify(folder) if folder.exists() else None

    def begin(self, job: Job) -> None:
        """Start a job's files over: what an interrupted attempt left would not fit to the new one's."""
        for path in (self.logs / f"{job.spec.name}.log", self.metrics / f"{job.spec.name}.jsonl"):
            path.unlink(missing_ok=True)

    def publish(self, job: Job, staged: str) -> str:
        """Verify a staged artifact and move it to its place in one rename.

        Raises:
            ValueError: It is not whole.
            OSError: The disk refuses.
        """
        artifact.verify(Path(staged))
        target = self.artifacts / job.spec.name
        Path(staged).rename(target)
        descriptor = os.open(self.artifacts, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return str(target)

    def on_event(self, job: Job, event: Event) -> None:
        """A line in the job's log."""
        self._log(job, f"{event.state} ({event.reason}): {event.message}", at=event.time_unix_seconds)

    def on_log(self, job: Job, message: str) -> None:
        """A line in the job's log."""
        self._log(job, message)

    def on_step(self, job: Job, report: StepReport) -> None:
        """An object in the metrics history, and a line in the log, where the step is to be logged."""
        if report.skipped:
            self._log(job, f"step {report.step} skipped: loss or gradient not finite")
        if not report.logged:
            return
        self._metric(
            job,
            {
                "step": report.step,
                "epoch": report.epoch,
                "loss": report.loss,
                "learning_rate": report.learning_rate,
                "grad_norm": report.grad_norm,
                "label_tokens": report.label_tokens,
                "tokens": report.tokens,
                "seconds": report.seconds,
            },
        )
        self._log(
            job,
            f"step {report.step}/{report.total_steps} loss {report.loss:.4f} lr {report.learning_rate:.3g} "
            f"grad norm {report.grad_norm:.3g}",
        )

    def on_evaluation(self, job: Job, report: EvalReport) -> None:
        """An object in the metrics history and a line in the log."""
        self._metric(
            job,
            {
                "step": report.step,
                "epoch": report.epoch,
                "eval_loss": report.loss,
                "eval_exact_match": report.exact_match,
                "eval_rows": report.rows,
                "label_tokens": report.label_tokens,
                "seconds": report.seconds,
            },
        )
        self._log(
            job,
            f"evaluation at step {report.step}: loss {report.loss:.4f}, exact match {report.exact_match:.3f} of "
            f"{report.rows} rows",
        )

    def close(self) -> None:
        """Flush everything and let the directory go."""
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()
        shutil.rmtree(self.staging, ignore_errors=True)
        self._lock.close()

    def _log(self, job: Job, message: str, at: float | None = None) -> None:
        moment = datetime.fromtimestamp(at, UTC) if at is not None else datetime.now(UTC)
        stamp = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._append(self.logs / f"{job.spec.name}.log", f"{stamp} {message}\n")

    def _metric(self, job: Job, values: Mapping[str, float | int]) -> None:
        self._append(self.metrics / f"{job.spec.name}.jsonl", json_line(values))

    def _append(self, path: Path, text: str) -> None:
        stream = self._streams.get(path)
        if stream is None:
            stream = self._streams[path] = path.open("a", encoding="utf-8")
        stream.write(text)
        stream.flush()


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
