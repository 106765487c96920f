"""Each worker gets its own GPU, and of it what is free or its part: with what CUDA says played."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.errors import DeviceLostError, WorkerError
from jobs.records import BaseKey, WorkerStatus
from orchestrator.clusters import End, host
from orchestrator.clusters.in_process import InProcessCluster
from orchestrator.clusters.ray_nodes import RayNodes
from orchestrator.clusters.worker_resources import WorkerResources
from orchestrator.decision import NewWorker
from orchestrator.snapshot import Device
from workers import admission
from workers.memory import PROCESS_BYTES
from workers.settings import WorkerSettings

GIB = 2**30
KEY = BaseKey(model_name_or_path="x", revision=None, dtype="float32")


@pytest.fixture
def free_gib(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two GPUs of 80 GiB; others hold most of the second."""
    free = [80, 20]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (free[index] * GIB, 80 * GIB))
    return free


class FakeWorker:
    is_preparing = False
    is_idle = False

    def __init__(self, worker_id: str, key: BaseKey, settings: WorkerSettings, *, device: str) -> None:
        self.device, self.error = device, DeviceLostError("CUDA error: device-side assert triggered", suspects=["a"])

    def assign(self, jobs: Any) -> None: ...

    def load(self) -> None: ...

    def step(self) -> list[Any]:
        if self.device == "cuda:0":
            raise self.error
        return []

    def last_reports(self) -> list[Any]:
        return ["saved"]

    def status(self) -> WorkerStatus:
        return WorkerStatus(worker_id="w", base=KEY, base_loaded=True, adapters=1, waiting=0)


def test_in_process_workers_train_on_a_gpu_each_and_a_lost_one_gets_no_other(free_gib: list[int]) -> None:
    built: list[FakeWorker] = []

    def build(*args: Any, **named: Any) -> Any:
        built.append(FakeWorker(*args, **named))
        return built[-1]

    cluster = InProcessCluster(host.host_devices(1, num_cpus=2), build=build)
    settings = WorkerSettings(staging_dir=Path("staging"))
    threads = torch.get_num_threads()
    for number, device in enumerate(cluster.devices()):
        cluster.start_worker(NewWorker(id=f"w{number}", device=device, base=KEY), settings, [])
    torch.set_num_threads(threads)
    assert [worker.device for worker in built] == ["cuda:0", "cuda:1"]
    lost, alive = cluster.poll(0.0)
    assert (lost.reports, alive.end) == (("saved",), None)
    assert lost.end is not None
    assert (lost.end.kind, lost.end.suspects) == (End.LOST, ("a",))
    assert [device.id for device in cluster.devices()] == ["cuda-1"]
    built[1].device = "cuda:0"
    cluster.poll(0.0)
    with pytest.raises(WorkerError, match="start again"):
        cluster.poll(0.0)


def test_a_gpu_has_what_is_free_of_it(free_gib: list[int]) -> None:
    first, second = host.host_devices(1, num_cpus=4)
    assert (first.index, second.index) == (0, 1)
    assert 0 <= 0.9 * 80 * GIB - PROCESS_BYTES - first.memory_bytes < 2**28
    assert 0 <= 0.9 * 20 * GIB - PROCESS_BYTES - second.memory_bytes < 2**28


@pytest.mark.parametrize(("free", "expected"), [(80, 60), (40, 46.0)])
def test_a_worker_takes_what_it_was_promised_or_what_others_have_left(
    free: int, expected: float, free_gib: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "device_bytes", lambda _: free * GIB)
    found = admission._capacity(60 * GIB, 10 * GIB, torch.device("cuda:0"))
    assert found == expected * GIB
    # A CPU's share is what it was when the machine was looked at: its siblings hold the rest.
    assert admission._capacity(60 * GIB, 10 * GIB, torch.device("cpu")) == 60 * GIB


def test_workers_that_share_a_gpu_are_kept_to_their_parts(free_gib: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[tuple[float, int]] = []
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: limits.append((share, device))
    )
    halves = RayNodes(WorkerResources(num_gpus=0.5), [])._named("0123456789ab", host.host_devices(1, num_cpus=4), 4)
    assert [device.index for device in halves] == [0, 0, 1, 1]
    for device in halves:
        host.limit_memory(device)
    assert [round(share, 2) for share, _ in limits] == [0.49, 0.49, 0.12, 0.12]
    for whole in host.host_devices(1, num_cpus=4):
        host.limit_memory(whole)
    assert len(limits) == 4


def test_a_gpu_that_our_workers_hold_is_as_large_as_it_was() -> None:
    nodes = RayNodes(WorkerResources(), [])
    held = Device(id="01234567-cuda-1", kind="cuda", memory_bytes=60 * GIB, num_cpus=1, node="01234567", index=1)
    nodes.remember(held)
    found = [Device(id=f"cuda-{n}", kind="cuda", memory_bytes=(70, 2)[n] * GIB, num_cpus=1, index=n) for n in (0, 1)]
    assert [device.memory_bytes for device in nodes._named("0123456789ab", found, 2)] == [70 * GIB, 60 * GIB]
