"""All that the benchmarks know of the engine: a worker that steps, and its frozen base without adapters.

When the engine changes its surface, this is the file to follow.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from jobs.records import Assignment, StateReport, StepReport
from tests.benchmarks.rows import job_data, job_specs
from tests.benchmarks.setting import Setting
from workers.base_model import BaseModel, read_blueprint
from workers.dataset import Row
from workers.lane import Lane
from workers.settings import WorkerSettings
from workers.shares import divide
from workers.worker import MAX_LANES, Worker


class Packed:
    """This project's worker with all jobs of a setting on it."""

    name = "packed"

    def __init__(self, setting: Setting, *, num_measured_packs: int = 0, save_steps: int | None = None) -> None:
        """Load the base and queue the jobs.

        Args:
            setting: Which jobs.
            num_measured_packs: First packs whose memory is measured.
            save_steps: Steps between two checkpoints; none are written where `None`.
        """
        specs, data = job_specs(setting), job_data(setting)
        if save_steps is not None:
            training = [spec.training.model_copy(update={"save_steps": save_steps}) for spec in specs]
            specs = [spec.model_copy(update={"training": one}) for spec, one in zip(specs, training, strict=True)]
        self._staging = tempfile.TemporaryDirectory()
        self.worker = Worker(
            "bench",
            read_blueprint(specs[0].model).key,
            # Admission is not what is timed here: everything fits, and no pack is slowed to look at its memory.
            WorkerSettings(
                staging_dir=Path(self._staging.name),
                checkpoints_dir=Path(self._staging.name) / "checkpoints" if save_steps is not None else None,
                capacity_bytes=2**50,
                num_measured_packs=num_measured_packs,
            ),
            load_data=lambda spec, key, now: data[spec.name],
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

    def settle(self) -> None:
        """Wait until all checkpoints that were begun are on the disk."""
        self.worker._endings.take_saved(self.worker._saver.collect(wait=True))

    def close(self) -> None:
        """Remove the staging folder."""
        self._staging.cleanup()


class Floor:
    """The frozen base alone: forward, backward for the inputs, logits at labels. No training of adapters undercuts it.

    The gradient goes down to the embeddings, as it does for adapters on every layer. All rows run in one pass, torch's
    threads inside each operation, as a frozen model is run by anybody.
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
        began = time.perf_counter()
        self._run(rows)
        return time.perf_counter() - began

    def _run(self, rows: Sequence[Row]) -> None:
        bare_pass(self._base, self._base.lanes(1)[0], rows)

    def close(self) -> None:
        """Nothing to give back."""


class LaneFloor(Floor):
    """The same rows spread over as many lanes as the worker has: the floor of our own way of filling the cores."""

    name = "lane_floor"

    def __init__(self, base: BaseModel) -> None:
        super().__init__(base)
        self._lanes = base.lanes(min(torch.get_num_threads(), MAX_LANES))
        self._pool = ThreadPoolExecutor(len(self._lanes), initializer=torch.set_num_threads, initargs=(1,))

    def _run(self, rows: Sequence[Row]) -> None:
        shares = divide([[len(row.ids)] for row in rows], len(self._lanes))
        running = [
            self._pool.submit(bare_pass, self._base, lane, [rows[piece.member] for piece in share])
            for lane, share in zip(self._lanes, shares, strict=False)
        ]
        for one in running:
            one.result()

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


def bare_pass(base: BaseModel, lane: Lane, rows: Sequence[Row]) -> None:
    """Forward and backward of one lane without any adapter."""
    embedding = lane.tree.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda _module, _inputs, output: output.requires_grad_())
    try:
        lane.train(rows, (), [1.0] * len(rows), lay_out=base.lay_out)
    finally:
        handle.remove()
