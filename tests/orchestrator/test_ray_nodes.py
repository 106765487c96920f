"""How many workers a node has room for, as the operator states what one takes."""

from __future__ import annotations

import pytest

from orchestrator.clusters.ray_nodes import RayNodes
from orchestrator.clusters.worker_resources import WorkerResources
from orchestrator.snapshot import (
    Device,
)

GIB = 2**30


@pytest.mark.parametrize(
    "wanted, node, room",
    [
        (WorkerResources(), {"CPU": 8}, 1),
        (WorkerResources(num_cpus=2), {"CPU": 9}, 4),
        (WorkerResources(workers_per_node=3), {"CPU": 8}, 3),
        (WorkerResources(workers_per_node=9, num_cpus=2), {"CPU": 8}, 4),
        (WorkerResources(), {"CPU": 0}, 0),
        (WorkerResources(), {}, 0),
        (WorkerResources(), {"CPU": 8, "GPU": 2}, 2),
        (WorkerResources(num_gpus=0.25), {"CPU": 16, "GPU": 2}, 8),
        (WorkerResources(num_gpus=0.25, num_cpus=4), {"CPU": 16, "GPU": 2}, 4),
        (WorkerResources(resources={"disk": 2}), {"CPU": 8, "disk": 1}, 0),
        (WorkerResources(num_cpus=1, resources={"disk": 0.5}), {"CPU": 8, "disk": 1}, 2),
    ],
)
def test_room(wanted: WorkerResources, node: dict[str, float], room: int) -> None:
    assert wanted.room_on(node) == room


@pytest.mark.parametrize("values", [{"num_gpus": 0}, {"num_gpus": 2}, {"num_cpus": 0}, {"workers_per_node": 0}])
def test_what_no_node_could_give_is_refused_by_name(values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        WorkerResources(**values)


def test_what_ray_is_asked_for() -> None:
    wanted = WorkerResources(num_gpus=0.5, num_cpus=2, resources={"disk": 1})
    gpu = Device(id="n-cuda-0", kind="cuda", memory_bytes=GIB, num_cpus=2)
    assert wanted.demand(gpu) == {"num_cpus": 2, "num_gpus": 0.5, "resources": {"disk": 1}}
    assert wanted.bundle(gpu) == {"CPU": 2, "GPU": 0.5, "disk": 1}
    assert wanted.bundle(None) == {"CPU": 2, "disk": 1}


def test_devices_have_names_of_their_own_and_gpus_are_shared() -> None:
    nodes = RayNodes(WorkerResources(num_gpus=0.5), [])
    gpus = [Device(id=f"cuda-{number}", kind="cuda", memory_bytes=8 * GIB, num_cpus=4) for number in range(2)]
    named = nodes._named("0123456789ab", gpus, 4)
    assert [device.id for device in named] == [f"01234567-cuda-{number}" for number in range(4)]
    assert {device.memory_bytes for device in named} == {4 * GIB}
    # What an adopted worker holds is not free, but is its own: its node's devices are as large as they were.
    held = Device(id="01234567-cpu-0", kind="cpu", memory_bytes=5 * GIB, num_cpus=1, node="01234567")
    nodes.remember(held)
    found = Device(id="cpu-0", kind="cpu", memory_bytes=GIB, num_cpus=1)
    assert nodes._named("0123456789ab", [found], 1) == [held]
