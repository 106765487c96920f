"""The report of a job that goes on from a checkpoint."""

from __future__ import annotations

from jobs.records import BadCheckpoint, CheckpointRecord, JobProgress, ResumeReport
from workers.job_run import JobRun


def resume_report(
    run: JobRun,
    *,
    record: CheckpointRecord | None,
    quarantined: tuple[BadCheckpoint, ...] = (),
    differences: tuple[str, ...] = (),
) -> ResumeReport:
    """Of a run that stands where it goes on from.

    Args:
        run: The job.
        record: The checkpoint; `None` where it starts over.
        quarantined: Newer checkpoints that could not be used.
        differences: Between what it was written with and what is here.
    """
    return ResumeReport(
        job_id=run.job_id,
        record=record,
        progress=_progress(run),
        evaluated_at=run.evaluated_at,
        quarantined=quarantined,
        differences=differences,
    )


def _progress(run: JobRun) -> JobProgress:
    step, evaluation = run.last_step, run.last_eval
    return JobProgress(
        step=run.step,
        total_steps=run.total_steps,
        epoch=run.epoch,
        train_loss=step.loss if step is not None and step.logged else None,
        eval_loss=evaluation.loss if evaluation is not None else None,
        eval_exact_match=evaluation.exact_match if evaluation is not None else None,
        tokens=run.tokens,
        busy_seconds=run.seconds,
    )
