"""All that the benchmarks know of the engine: a worker that steps, and its frozen base without adapters.

When the engine changes its surface, this is the file to follow.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from jobs.records import Assignment, StateReport, StepReport
from tests.benchmarks.rows import job_data, job_specs
from tests.benchmarks.setting import Setting
from workers.base_model import BaseModel, read_blueprint
from workers.dataset import Row
from workers.loss import token_losses
from workers.worker import Worker, WorkerSettings


class Packed:
    """This project's worker with all jobs of a setting on it."""

    name = "packed"

    def __init__(self, setting: Setting) -> None:
        specs, data = job_specs(setting), job_data(setting)
        self._staging = tempfile.TemporaryDirectory()
        self.worker = Worker(
            "bench",
            read_blueprint(specs[0].model).key,
            # Admission is not what is measured here: everything fits.
            WorkerSettings(staging_dir=Path(self._staging.name), capacity_bytes=2**50),
            load_data=lambda spec, key: data[spec.name],
        )
        self.worker.load()
        self.worker.assign([Assignment(job_id=spec.name, spec=spec) for spec in specs])

    @property
    def base(self) -> BaseModel:
        """The frozen base, for the floor to run on."""
        return self.worker.base

    def step(self, rows_by_job: Sequence[Sequence[Row]]) -> float:
        """Seconds of one step of every job.

        The worker takes its rows by itself; their numbers are held against the given ones, so that contenders cannot
        run unlike rows unnoticed.

        Raises:
            RuntimeError: It ran others, or not all of them.
        """
        began = time.perf_counter()
        reports = self.worker.step()
        seconds = time.perf_counter() - began
        steps = [report for report in reports if isinstance(report, StepReport) and not report.skipped]
        rows = [row for job_rows in rows_by_job for row in job_rows]
        expected = sum(len(row.ids) for row in rows), sum(row.num_labels for row in rows)
        ran = sum(report.tokens for report in steps), sum(report.label_tokens for report in steps)
        if ran != expected:
            ends = [report.message for report in reports if isinstance(report, StateReport)]
            raise RuntimeError(f"the worker ran {ran} tokens and labels, not {expected}: {ends}")
        return seconds

    def close(self) -> None:
        """Remove the staging folder."""
        self._staging.cleanup()


class Floor:
    """The frozen base alone: forward, backward for the inputs, logits at labels. No training of adapters undercuts it.

    The gradient goes down to the embeddings, as it does for adapters on every layer.
    """

    name = "floor"

    def __init__(self, base: BaseModel) -> None:
        self._base = base

    @classmethod
    def alone(cls, setting: Setting) -> Floor:
        """With a base of its own."""
        return cls(BaseModel.load(read_blueprint(job_specs(setting)[0].model).key))

    def step(self, rows_by_job: Sequence[Sequence[Row]]) -> float:
        """Seconds of one pass over the rows of all jobs."""
        rows = [row for job_rows in rows_by_job for row in job_rows]
        embedding = self._base.model.get_input_embeddings()
        began = time.perf_counter()
        handle = embedding.register_forward_hook(lambda _module, _inputs, output: output.requires_grad_())
        try:
            logits, labels, _ = self._base.label_logits(rows, ())
            token_losses(logits, labels).sum().backward()
        finally:
            handle.remove()
        return time.perf_counter() - began

    def close(self) -> None:
        """Nothing to give back."""
