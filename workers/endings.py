"""How jobs leave a worker: finished, failed, handed back or dropped; and what comes of their saves meanwhile.

A job whose save is still on its way to a store stays until that has ended, without training, so that a slow network
takes nobody else's time and a finished save is never lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch

from jobs.checkpoints import DiskFullError
from jobs.errors import DeviceLostError, JobError, StoreError
from jobs.records import BaseKey, CheckpointReport, JobState
from workers import artifact
from workers.base_model import BaseModel
from workers.caught_error import CaughtError, catch
from workers.job_run import JobRun
from workers.job_table import JobTable
from workers.publishing import discard
from workers.report_buffer import ReportBuffer
from workers.saving import JobSaver, Saved
from workers.settings import WorkerSettings
from workers.usage import Accounts


class Endings:
    """Ends jobs one by one. One thread at a time may call it."""

    def __init__(
        self,
        jobs: JobTable,
        reports: ReportBuffer,
        accounts: Accounts,
        saver: JobSaver,
        key: BaseKey,
        base: BaseModel,
        settings: WorkerSettings,
        *,
        forget: Callable[[str], JobRun | None],
    ) -> None:
        """End the jobs of a table.

        Args:
            jobs: Those of the worker.
            reports: Takes in what happens to them.
            accounts: What they cost.
            saver: Saves them.
            key: Of the base.
            base: For the artifacts.
            settings: Where artifacts go.
            forget: Drops what other parts of the worker keep for a job, and returns its run where it was only prepared.
        """
        self.num_failed_saves = 0
        self.is_stopping = False
        """The worker does nothing any more but save: what cannot be saved is told, and ends no job."""
        self._jobs = jobs
        self._reports = reports
        self._accounts = accounts
        self._saver = saver
        self._key = key
        self._base = base
        self._settings = settings
        self._forget = forget

    def is_ending(self, job_id: str) -> bool:
        """Whether the job trains no more and waits for the store to leave."""
        return job_id in self._jobs.failing or self._saver.is_uploading(job_id)

    def is_training(self, job_id: str) -> bool:
        """Whether the job is here and has something to run, now or as soon as its turn comes."""
        return job_id in self._jobs.runs and not self.is_ending(job_id) and not self._saver.is_held(job_id)

    def settle(self) -> None:
        """Take in what has come of saves and uploads, and let the jobs leave that have waited for it."""
        self.take_saved(self._saver.collect())
        self._take_uploaded()
        self._let_fail()
        self._let_go()

    def stop(self) -> None:
        """Save all jobs where they stand, and wait until they are saved."""
        self.is_stopping = True
        self.take_saved(self._saver.save_all(run for run in self._jobs.runs.values() if not self._fails(run.job_id)))
        self._take_uploaded()
        self._let_fail()

    def report_finished_saves(self) -> None:
        """Report the checkpoints that are whole, when nothing else can be done any more."""
        for one in self._saver.collect():
            if one.record is not None:
                self._report_saved(one)

    def take_saved(self, saved: Iterable[Saved]) -> None:
        """Report what came of saves; a job that could not be saved ends, or waits for room."""
        for one in saved:
            if one.record is not None:
                self._report_saved(one)
                continue
            self.num_failed_saves += 1
            assert one.error is not None
            if self.is_stopping or self._fails(one.job_id):
                self._reports.log(one.job_id, f"could not be saved: {one.error}")
            else:
                self.fail(one.job_id, one.error)
        for job_id in [one for one in self._jobs.paused if not self._saver.is_held(one)]:
            if self._jobs.paused.pop(job_id) == "store":
                self._reports.state(job_id, JobState.RUNNING, "store", "the store takes in again, the job goes on")
            else:
                message = "there is room on the disk again, the job goes on"
                self._reports.state(job_id, JobState.RUNNING, "room", message)

    def finish(self, run: JobRun) -> None:
        """Write the artifact and let the job go, at once or when the store has it."""
        source = artifact.Provenance(
            job_id=run.job_id,
            spec=run.spec,
            base=self._key,
            model_type=self._base.model.config.model_type,
            base_fingerprint=self._base.fingerprint,
            train_fingerprint=run.data.train.fingerprint,
            eval_fingerprint=run.data.evaluation.fingerprint if run.data.evaluation is not None else None,
            num_threads=torch.get_num_threads(),
            last_step=run.last_step,
            first_eval=run.first_eval,
            last_eval=run.last_eval,
            best_metric=run.best_metric,
            best_step=run.best_step,
            ledger=self._jobs.ledgers[run.job_id].heard(
                self._reports.attempt(run.job_id), self._accounts.usage(run.job_id)
            ),
        )
        folder = self._settings.staging_dir / run.job_id
        # Of an earlier attempt here, whose adapter could not be published, or that was called away meanwhile.
        discard(folder)
        structure = self._base.structure
        artifact.export(run.adapter, structure.adaptable, source, folder, beside_text=structure.beside_text)
        if self._saver.has_store:
            self._saver.upload(run.job_id, folder, self._reports.attempt(run.job_id))
            return
        self.take_saved(self._saver.collect(run.job_id, wait=True))
        self._succeed(run, str(folder))

    def fail(self, job_id: str, error: CaughtError) -> None:
        """End one job with a reason; its neighbours go on. For want of room, or of the store, it is only held.

        Raises:
            DeviceLostError: It is no fault of the job's: whatever runs on this device would end so.
        """
        if error.is_sticky:
            raise DeviceLostError(error.summary)
        if job_id in self._jobs.runs:
            if self._saver.has_store and self._saver.is_under_way(job_id):
                # A network may take its time, and nobody else's.
                self._jobs.failing.setdefault(job_id, error)
                return
            self.take_saved(self._saver.collect(job_id, wait=True))
            if job_id not in self._jobs:
                return
            if isinstance(error.own, DiskFullError | StoreError) and self._saver.hold(job_id, error.own):
                if job_id not in self._jobs.paused:
                    self._jobs.paused[job_id] = error.own.reason
                    self._reports.state(job_id, JobState.PAUSED, error.own.reason, error.message)
                return
        self.release(job_id)
        if isinstance(error.own, JobError):
            self._reports.state(job_id, JobState.FAILED, error.own.reason, error.message)
        elif error.own is not None:
            self._reports.state(job_id, JobState.FAILED, "invalid", error.message)
        else:
            self._reports.log(job_id, error.report)
            self._reports.state(job_id, JobState.FAILED, "error", error.summary)

    @contextmanager
    def guard(self, run: JobRun) -> Iterator[None]:
        """Turn an exception into the end of one job."""
        caught = None
        try:
            yield
        except DeviceLostError:
            raise
        except Exception as error:
            caught = catch(error)
        if caught is not None:
            self.fail(run.job_id, caught)

    def release(self, job_id: str) -> bool:
        """Drop a job, whatever its state; a save of it that has finished is reported.

        Returns:
            Whether it was here.
        """
        had = job_id in self._jobs
        run = self._jobs.drop(job_id)
        prepared = self._forget(job_id)
        run = run or prepared
        if run is None:
            return had
        saved = self._saver.forget(job_id)
        if saved is not None and saved.record is not None:
            self._report_saved(saved)
        if run.adapter.factors.slot is not None:
            run.adapter.factors.slot.give_back()
        return had

    def _fails(self, job_id: str) -> bool:
        return job_id in self._jobs.failing

    def _report_saved(self, saved: Saved) -> None:
        assert saved.record is not None
        self._accounts.saved(saved.job_id, saved.seconds)
        self._reports.add(CheckpointReport(record=saved.record, seconds=saved.seconds))

    def _take_uploaded(self) -> None:
        """Let the jobs go whose adapters are in the store; those whose are not wait for it."""
        for one in self._saver.uploaded():
            # Of what was saved before it on the same thread.
            self.take_saved(self._saver.collect(one.job_id, wait=True))
            run = self._jobs.runs.get(one.job_id)
            if run is None:
                continue
            if one.uri is not None:
                self._saver.go_on(run.job_id)
                self.take_saved(())
                self._succeed(run, one.uri)
            elif self.is_stopping:
                self._reports.log(run.job_id, f"could not be uploaded: {one.error}")
            elif one.error is not None:
                self.fail(run.job_id, one.error)

    def _let_fail(self) -> None:
        """End the jobs whose last save has come to its end, with the error that they had before it."""
        for job_id in [one for one in self._jobs.failing if not self._saver.is_under_way(one)]:
            self.fail(job_id, self._jobs.failing.pop(job_id))

    def _let_go(self) -> None:
        """Drop the jobs that are to be handed back and are saved."""
        for job_id in sorted(self._jobs.handing_back):
            run = self._jobs.runs.get(job_id)
            if run is not None and (self.is_ending(job_id) or not self._saver.is_saved(run)):
                continue
            message = "had not begun" if run is None else f"saved at step {run.step}"
            self.release(job_id)
            self._reports.state(job_id, JobState.PENDING, "handed_back", message)

    def _succeed(self, run: JobRun, staged: str) -> None:
        self.release(run.job_id)
        message = f"all {run.total_steps} steps done"
        self._reports.state(run.job_id, JobState.SUCCEEDED, "finished", message, staged=staged)
