"""What an operator says on the command line of `serve`: taken as it is meant, or refused with what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from orchestrator import cli, service
from orchestrator.clusters.worker_resources import WorkerResources
from orchestrator.operator_options import parse_labels, parse_queues, parse_resources
from orchestrator.snapshot import Queue


@pytest.fixture
def options_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """What `loraloom serve` would serve with these arguments."""
    served: list[service.ServeOptions] = []
    monkeypatch.setattr(service, "serve", lambda options, _console: served.append(options))

    def options_of(*arguments: str) -> service.ServeOptions:
        cli.app(["serve", "--data-dir", str(tmp_path), *arguments], standalone_mode=False)
        return served[-1]

    return options_of


def test_what_is_said_is_what_is_served(options_of: Any) -> None:
    options = options_of(
        *("--workers", "2", "--worker-cpus", "3", "--worker-gpus", "0.25", "--object-store", "200"),
        *("--worker-resource", "disk=1.5", "--node-label", "market-type=spot", "--node-label", "zone=a=b"),
        *("--queue", "research=2.5:8", "--queue", "night=1", "--largest-device", "80"),
    )
    assert options.resources == WorkerResources(
        num_cpus=3,
        num_gpus=0.25,
        resources={"disk": 1.5},
        labels={"market-type": "spot", "zone": "a=b"},
        workers_per_node=2,
    )
    assert options.object_store_bytes == 200 * 2**20
    assert options.queues == (Queue(name="research", weight=2.5, max_jobs=8), Queue(name="night", weight=1.0))
    assert options.largest_device_bytes == 80 * 2**30


def test_nothing_said_is_a_worker_a_node_with_a_gpu_of_its_own(options_of: Any) -> None:
    options = options_of()
    assert options.resources == WorkerResources()
    assert options.object_store_bytes is None
    assert options.queues == ()


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--in-process", "--worker-gpus", "0.5"], "without --in-process"),
        (["--in-process", "--node-label", "a=b"], "without --in-process"),
        (["--ray-address", "h:1", "--in-process"], "exclude each other"),
        (["--ray-address", "h:1", "--object-store", "200"], "a Ray of the service's own"),
        (["--worker-gpus", "2"], "less than or equal to 1"),
        (["--object-store", "10"], "greater than or equal to 75"),
    ],
)
def test_what_excludes_each_other_or_cannot_be_is_refused(options_of: Any, arguments: list[str], told: str) -> None:
    with pytest.raises(Exception, match=told) as refused:
        options_of(*arguments)
    assert refused.value.exit_code == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "parse, text, told",
    [
        (parse_queues, ["bad"], "'bad' is not NAME=WEIGHT"),
        (parse_queues, ["a=0"], "weight above 0"),
        (parse_queues, ["a=1", "a=2"], "'a' is named twice"),
        (parse_resources, ["disk"], "'disk' is not like disk=1"),
        (parse_resources, ["disk=much"], "disk=much: the amount is not above 0"),
        (parse_resources, ["disk=nan"], "not above 0"),
        (parse_resources, ["disk=-1"], "not above 0"),
        (parse_resources, ["GPU=1"], "GPU is what --worker-gpus says"),
        (parse_labels, ["=x"], "'=x' is not like market-type=spot"),
        (parse_labels, ["a=1", "a=2"], "'a' is named twice"),
    ],
)
def test_what_is_not_of_the_form_is_refused_with_what_it_should_be(parse: Any, text: list[str], told: str) -> None:
    with pytest.raises(typer.BadParameter, match=told):
        parse(text)
