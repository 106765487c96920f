"""Which jobs a worker takes in, and what they are made of: rows, adapter, demand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from jobs.errors import UNAVAILABLE, DataError, DataUnavailableError, JobError, LoraloomError
from jobs.records import Assignment, BaseKey
from jobs.spec import JobSpec
from workers.adapter import allocate, dtype_for
from workers.base_checks import row_problems
from workers.base_model import BaseModel
from workers.confinement import within
from workers.dataset import JobData
from workers.job_run import JobRun
from workers.memory import BaseShape, Demand, demand, worker_bytes
from workers.memory_fit import MemoryFit
from workers.memory_meter import USABLE, device_bytes, rounded_down
from workers.passing import is_passing
from workers.settings import WorkerSettings
from workers.stacks import AdapterStacks
from workers.targets import resolve

LoadData = Callable[[JobSpec, BaseKey, float | None], JobData]
"""Loads a job's rows; the last argument is the time, in Unix seconds, that chat templates take for the current one."""


class Admission:
    """Decides by the memory model, and keeps jobs that wait for room ready."""

    def __init__(
        self,
        worker_id: str,
        base: BaseModel,
        key: BaseKey,
        settings: WorkerSettings,
        device: torch.device,
        load_data: LoadData,
    ) -> None:
        self._worker_id = worker_id
        self._base = base
        self._key = key
        self._token_budget = settings.token_budget
        self._device = device
        self._load_data = load_data
        self._dtype = dtype_for(base.dtype)
        grouped = device.type == "cuda" if settings.grouped is None else settings.grouped
        self._stacks = AdapterStacks(base.groups, self._dtype, device) if grouped else None
        self.shape = BaseShape.of(base.structure, base.dtype.itemsize)
        self.fit = MemoryFit(self.shape)
        """What packs take, by those that were measured."""
        self._promised_bytes = settings.capacity_bytes
        self.capacity_bytes = _capacity(settings.capacity_bytes, self.shape.base_bytes, device)
        """Memory for the base and its jobs."""
        self._prepared: dict[str, JobRun] = {}

    def prepare(self, assignment: Assignment) -> JobRun:
        """Tokenise and allocate; kept while the job waits for room, so that it is done once.

        Raises:
            DataUnavailableError: The rows cannot be had just now.
            LoraloomError: The rows or the targets cannot be used.
        """
        if prepared := self._prepared.get(assignment.job_id):
            return prepared
        spec = assignment.spec
        targets = resolve(spec.lora, self._base.structure)
        try:
            with within(assignment.file_rules):
                data = self._load_data(spec, self._key, assignment.submitted_unix_seconds)
        except (LoraloomError, OSError) as error:
            if not is_passing(error):
                raise
            raise DataUnavailableError(f"its data or tokenizer cannot be had just now: {error}") from error
        # Looked at before the job was placed, and again: a row too many would take the neighbours along on a GPU.
        for problem in row_problems(self._base.structure, data, spec):
            raise DataError(problem.message, field=problem.field)
        needs = demand(spec, data, targets, self._dtype.itemsize)
        adapter = self._stacks.allocate(targets) if self._stacks is not None else None
        if adapter is None:
            adapter = allocate(targets, dtype=self._dtype, device=self._device, groups=self._base.groups)
        run = JobRun(job_id=assignment.job_id, spec=spec, data=data, adapter=adapter, demand=needs)
        self._prepared[assignment.job_id] = run
        return run

    def has_room(self, needs: Demand, others: Iterable[Demand]) -> bool:
        """Whether a job fits beside others now.

        Raises:
            JobError: It does not fit even alone.
        """
        if not self._fits([needs]):
            is_taken = self._promised_bytes is not None and self._bytes_with([needs]) <= self._promised_bytes
            # What others hold may be free the next time.
            raise JobError(UNAVAILABLE if is_taken else "memory", self._too_large(needs, is_taken=is_taken))
        return self._fits([needs, *others])

    def take(self, job_id: str) -> JobRun | None:
        """Let go of a prepared job, to be run or dropped."""
        return self._prepared.pop(job_id, None)

    def _fits(self, demands: Sequence[Demand]) -> bool:
        return self._bytes_with(demands) <= self.capacity_bytes

    def _bytes_with(self, demands: Sequence[Demand]) -> int:
        return worker_bytes(self.shape, demands, self._token_budget, self.fit.bound)

    def _too_large(self, needs: Demand, *, is_taken: bool) -> str:
        advice = "training.per_device_train_batch_size, training.max_length or lora.r"
        return (
            f"does not fit on {self._worker_id} even alone: needs about {self._bytes_with([needs]) / 2**30:.2f} GiB "
            f"(base {self.shape.base_bytes / 2**30:.2f}, adapter {needs.adapter_bytes / 2**30:.2f}, a micro-batch of "
            f"{needs.worst_tokens} tokens) of {self.capacity_bytes / 2**30:.2f} GiB; "
            + ("other processes hold the rest of the device" if is_taken else f"lower {advice}")
        )


def _capacity(promised_bytes: int | None, base_bytes: int, device: torch.device) -> int:
    """What was promised when the device was looked at, or less: others may have taken some of a GPU since.

    Free memory is what is left beside the base, which is loaded by now. On a CPU a promise is one share of several.
    """
    if promised_bytes is None:
        return base_bytes + int(USABLE * device_bytes(device))
    if device.type != "cuda":
        return promised_bytes
    found_bytes = base_bytes + USABLE * device_bytes(device)
    return promised_bytes if found_bytes >= promised_bytes else rounded_down(found_bytes)
