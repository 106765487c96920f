"""Nodes that do not see the folder that workers write into are found before anything trains."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.errors import LoraloomError, WorkerError
from orchestrator.clusters import ray_cluster, ray_nodes
from orchestrator.clusters.ray_nodes import RayNodes
from orchestrator.clusters.shared_folder import SharedFolder, look, look_first
from orchestrator.clusters.worker_resources import WorkerResources

GIB = 2**30
A, B = "a" * 56, "b" * 56
"""Ids of nodes."""


def test_whoever_sees_the_folder_finds_the_mark_and_leaves_nothing(tmp_path: Path) -> None:
    shared = SharedFolder(tmp_path)
    assert look(str(shared.root), shared.nonce) is None
    assert look_first(str(shared.root), shared.nonce, [], lambda one: one, [7]) == 7
    assert [path.name for path in tmp_path.iterdir()] == [".node-check"]


@pytest.mark.parametrize("other", ["absent", "empty", "of another service", "read-only"])
def test_a_node_with_another_folder_at_the_path_says_what_it_has(
    tmp_path: Path, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = SharedFolder(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    if other != "absent":
        elsewhere.mkdir()
    if other == "of another service":
        SharedFolder(elsewhere)
    if other == "read-only":
        elsewhere = tmp_path

        def refused(_: Path) -> None:
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(Path, "touch", refused)
    found = look(str(elsewhere), shared.nonce)
    assert found is not None
    assert "--storage" in shared.problem("n1", found)
    assert str(tmp_path) in shared.problem("n1", found)
    assert look_first(str(elsewhere), shared.nonce, [], pytest.fail, ["it was asked for its memory"]) == found


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(LoraloomError, match="cannot be written"):
        SharedFolder(tmp_path / "nowhere")


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Path]:
    """Nodes by id, each with the folder that it has where the output directory is; what is sent there runs at once."""
    roots: dict[str, Path] = {}

    def remote(function: Any = None, **_: Any) -> Any:
        if function is None:
            return remote

        def options(*, scheduling_strategy: Any, **_: Any) -> Any:
            root = roots[scheduling_strategy.node_id]
            moved = lambda *arguments: [str(root) if one == str(tmp_path) else one for one in arguments]  # noqa: E731
            return SimpleNamespace(remote=lambda *arguments: (root, function(*moved(*arguments))))

        return SimpleNamespace(options=options)

    fake = SimpleNamespace(
        remote=remote,
        get=lambda ref: ref[1],
        wait=lambda refs, **_: (refs, []),
        nodes=lambda: [{"NodeID": name, "Alive": True, "Resources": {"CPU": 2.0}} for name in roots],
    )
    monkeypatch.setattr(ray_cluster, "ray", fake)
    monkeypatch.setattr(ray_nodes, "ray", fake)
    monkeypatch.setattr(ray_nodes, "available_bytes", lambda: 8 * GIB)
    return roots


def test_a_run_over_nodes_without_a_shared_disk_is_refused_before_it_trains(
    nodes: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    nodes |= {A: tmp_path}
    ray_cluster.require_shared(SharedFolder(tmp_path))
    nodes |= {B: tmp_path / "other"}
    with pytest.raises(WorkerError, match=r"node bbbbbbbb does not share .*--storage"):
        ray_cluster.require_shared(SharedFolder(tmp_path))


def test_a_service_does_not_use_a_node_without_the_folder_says_so_once_and_uses_it_once_it_is_mounted(
    nodes: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    nodes |= {A: tmp_path, B: tmp_path / "other"}
    clock, said = [0.0], list[str]()
    seen = RayNodes(WorkerResources(), [], shared=SharedFolder(tmp_path), say=said.append, now=lambda: clock[0])
    while clock[0] < 60.0:
        seen.look()
        clock[0] += 1.0
    assert [device.node for device in seen.devices()] == ["aaaaaaaa"]
    [told] = said
    assert "node bbbbbbbb does not share" in told
    nodes[B] = tmp_path
    for _ in range(40):
        seen.look()
        clock[0] += 1.0
    assert [device.node for device in seen.devices()] == ["aaaaaaaa", "bbbbbbbb"]


def test_with_a_store_or_one_machine_nodes_are_not_asked(nodes: dict[str, Path], tmp_path: Path) -> None:
    nodes |= {B: tmp_path / "absent"}
    clock = [0.0]
    seen = RayNodes(WorkerResources(), [], now=lambda: clock[0])
    for _ in range(3):
        seen.look()
        clock[0] += 1.0
    assert [device.node for device in seen.devices()] == ["bbbbbbbb"]
