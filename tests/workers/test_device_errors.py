"""A device that is lost ends its worker and no job; what only one call got wrong is that job's own."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.errors import DeviceLostError
from jobs.records import Assignment, CheckpointReport, JobState, StateReport
from orchestrator.clusters import End, end_of
from tests.models import make_data, make_spec, make_worker, tiny_llama
from workers.device_errors import is_out_of_memory, is_sticky
from workers.lane import Lane

STICKY = [
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("CUDA error: misaligned address"),
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("CUDA driver error: an illegal instruction was encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
]
PASSING = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]
OF_ONE_CALL = [
    torch.AcceleratorError("CUDA error: invalid argument"),
    torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
    ValueError("CUDA error: said by somebody else"),
]


def test_which_errors_lose_a_device() -> None:
    assert all(is_sticky(error) and not is_out_of_memory(error) for error in STICKY)
    assert not any(is_sticky(error) for error in [*PASSING, *OF_ONE_CALL])
    assert all(is_out_of_memory(error) for error in PASSING)
    assert not any(is_out_of_memory(error) for error in OF_ONE_CALL)
    wrapped = ValueError("could not be run")
    wrapped.__cause__ = STICKY[0]
    assert is_sticky(wrapped)


def test_how_a_worker_ends_with_them() -> None:
    assert {end_of(error).kind for error in STICKY} == {End.LOST}
    assert {end_of(error).kind for error in [*OF_ONE_CALL]} == {End.RAISED}
    lost = pickle.loads(pickle.dumps(DeviceLostError("so", suspects=["a", "b"])))
    assert end_of(lost).suspects == ("a", "b")
    assert end_of(lost).kind is End.LOST


DATA = {name: make_data(number, [5, 9, 7, 4]) for number, name in enumerate(("bad", "left", "right"))}


def spec_of(name: str) -> Any:
    return make_spec(name, training={"max_steps": 8, "save_steps": 1, "per_device_train_batch_size": 1})


@pytest.mark.parametrize("error", STICKY[:4], ids=str)
@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("half_way", [False, True])
def test_a_worker_ends_with_its_suspects_and_tells_what_was_saved_and_fails_nobody(
    error: Exception, isolated: bool, half_way: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = make_worker(
        tiny_llama(), DATA, tmp_path / "staging", checkpoints_dir=tmp_path / "checkpoints", num_lanes=1
    )
    worker.assign([Assignment(job_id=name, spec=spec_of(name), is_isolated=isolated) for name in DATA])
    reports = worker.step()
    assert {one.state for one in reports if isinstance(one, StateReport)} == {JobState.RUNNING}
    reports += worker.step()
    mine = worker.runs()["bad"].adapter.factors
    original, ran = Lane.train, 0

    def train(self: Lane, rows: Any, segments: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal ran
        ran += 1
        losses = original(self, rows, segments, *args, **kwargs) if half_way else None
        if any(segment.path[0] is mine for segment in segments):
            raise error
        return losses or original(self, rows, segments, *args, **kwargs)

    monkeypatch.setattr(Lane, "train", train)
    with pytest.raises(DeviceLostError) as raised:
        worker.step()
    assert raised.value.suspects == (("bad",) if isolated else tuple(DATA))
    assert ran == 1, "on a device that is lost nothing is tried again"
    worker._saver._writer.submit(lambda: None).result()
    reports += worker.last_reports()
    assert {one.job_id for one in reports if isinstance(one, CheckpointReport)} == set(DATA)
    assert not [one for one in reports if isinstance(one, StateReport) and one.state.is_terminal]


def test_an_error_of_one_call_ends_one_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = make_worker(tiny_llama(), DATA, tmp_path, num_lanes=1)
    worker.assign([Assignment(job_id=name, spec=spec_of(name)) for name in DATA])
    worker.step()
    mine = worker.runs()["bad"].adapter.factors
    original = Lane.train

    def train(self: Lane, rows: Any, segments: Any, *args: Any, **kwargs: Any) -> Any:
        if any(segment.path[0] is mine for segment in segments):
            raise OF_ONE_CALL[0]
        return original(self, rows, segments, *args, **kwargs)

    monkeypatch.setattr(Lane, "train", train)
    reports = []
    while not worker.is_idle:
        reports += worker.step()
    ends = {one.job_id: one.state for one in reports if isinstance(one, StateReport) and one.state.is_terminal}
    assert ends == {"bad": JobState.FAILED, "left": JobState.SUCCEEDED, "right": JobState.SUCCEEDED}
