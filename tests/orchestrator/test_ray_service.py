"""Real Ray under a service that is killed, a Ray that is killed, and nodes that leave."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from jobs.artifacts import verify
from jobs.records import JobState
from orchestrator.clusters.processes import session_members
from orchestrator.clusters.ray_daemon import RayDaemon, RayRecord
from orchestrator.journal import JournalReader
from orchestrator.run import RunOptions, run
from tests.nursery import Child, Nursery, Request
from tests.orchestrator.conftest import WriteSpecs

pytestmark = pytest.mark.ray

_SECONDS = 240.0
REPOSITORY = Path(__file__).parents[2]


def exact(seed: int, steps: int) -> dict[str, Any]:
    training = {
        "max_steps": steps,
        "per_device_train_batch_size": 2,
        "save_steps": 20,
        "logging_steps": 5,
        "seed": seed,
    }
    return {"scheduling": {"packing": "exact"}, "lora": {"lora_dropout": 0.1}, "training": {**training, "seed": seed}}


class Service:
    """One data directory, and the service of now in it."""

    def __init__(
        self, nursery: Nursery, root: Path, specs: Path, *options: str, environment: dict[str, str] | None = None
    ) -> None:
        self._nursery = nursery
        self.root = root
        self._said = root.with_name(f"{root.name}.txt")
        self._errors = root.with_name(f"{root.name}.err")
        self._request = Request(
            module="tests.orchestrator.small_service",
            arguments=(str(root), str(specs), *options),
            output=str(self._said),
            errors=str(self._errors),
            folder=str(REPOSITORY),
            environment={"PYTHONPATH": str(REPOSITORY), **(environment or {})},
        )
        self.process: Child | None = None

    def start(self) -> None:
        for path in (self._said, self._errors):
            path.touch()
        self.process = self._nursery.open(self._request)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def said(self, pattern: str = "") -> list[str]:
        """What it and those before it have said, of its whole lines those that begin with the pattern."""
        lines = self._said.read_text().splitlines()
        return [line for line in lines if re.match(pattern, line)]

    def wait_until_said(self, pattern: str, *, times: int = 1) -> None:
        assert self.process is not None
        deadline = time.monotonic() + _SECONDS
        while len(self.said(pattern)) < times:
            told = f"{self._said.read_text()[-3000:]}\n{self._errors.read_text()[-3000:]}"
            assert self.process.poll() is None, f"ended before it said {pattern!r}:\n{told}"
            assert time.monotonic() < deadline, f"never said {pattern!r}:\n{told}"
            time.sleep(0.05)

    def steps(self) -> dict[tuple[str, int], list[int]]:
        """By job and attempt: the steps that were heard of, each once."""
        found: dict[tuple[str, int], dict[int, None]] = {}
        for line in self.said("step "):
            _, job_id, attempt, step = line.split()
            found.setdefault((job_id, int(attempt)), {})[int(step)] = None
        return {key: list(steps) for key, steps in found.items()}

    def check(self, whole: dict[str, bytes], steps: int) -> None:
        """All jobs have ended, each once, with the bytes of an uninterrupted run; no step of an attempt was missed."""
        with JournalReader(self.root / "journal.db") as journal:
            for job in journal.jobs():
                assert job.state is JobState.SUCCEEDED, job
                ends = [event for event in journal.events(job.id) if event.state.is_terminal]
                assert len(ends) == 1
                assert job.progress.step == steps
                assert job.num_charged == 0
                heard = self.steps()
                last = job.attempt
                assert heard[job.id, last][-1] == steps
                for attempt in range(1, last + 1):
                    taken = heard.get((job.id, attempt), [])
                    assert taken == list(range(taken[0], taken[-1] + 1)) if taken else True
        assert adapters(self.root) == whole


def adapters(root: Path) -> dict[str, bytes]:
    found = {}
    for folder in sorted((root / "artifacts").iterdir()):
        verify(folder)
        found[folder.name] = (folder / "adapter_model.safetensors").read_bytes()
    return found


def uninterrupted(specs: Path, root: Path) -> dict[str, bytes]:
    run(RunOptions(specs=(specs,), output_dir=root, in_process=True, workers=1), Console(quiet=True))
    return adapters(root)


@contextmanager
def ended(service: Service) -> Iterator[None]:
    """Whatever happens, nothing is left of it."""
    try:
        yield
    finally:
        if service.process is not None:
            service.kill()


def test_ray_and_then_the_service_are_killed_and_no_step_of_a_worker_that_lives_is_lost(
    nursery: Nursery, write_specs: WriteSpecs, tmp_path: Path
) -> None:
    specs = write_specs(exact(1, 500), exact(2, 500))
    whole = uninterrupted(specs, tmp_path / "whole")
    service = Service(nursery, tmp_path / "service", specs)
    with ended(service):
        try:
            service.start()
            service.wait_until_said("step job-. 1", times=60)
            record = RayDaemon.record_of(service.root)
            assert record is not None
            check_privacy(service.root, record)
            kill_one_of(record, "gcs_server")
            service.wait_until_said("rebuilt")
            service.wait_until_said("resumed job-. 2", times=2)
            service.wait_until_said("step job-. 2", times=20)
            service.kill()
            service.start()
            service.wait_until_said("adopted w", times=2)
            service.wait_until_said("done")
            record = RayDaemon.record_of(service.root)
            assert record is None
        finally:
            # Not in this process, in which ray may be imported already.
            stop = "RayDaemon(pathlib.Path(sys.argv[1])).stop()"
            code = f"import pathlib, sys; from orchestrator.clusters.ray_daemon import RayDaemon; {stop}"
            subprocess.run([sys.executable, "-c", code, str(service.root)], cwd=REPOSITORY, check=False)
    service.check(whole, 500)
    # Both went on while nobody was there: the second attempt was the last, and begun once.
    assert len(service.said("STARTING")) == 4
    assert {attempt for _, attempt in service.steps()} == {1, 2}


def check_privacy(root: Path, record: RayRecord) -> None:
    """Nobody but this user on this machine can reach a Ray that the service started."""
    assert (root / "ray_token").stat().st_mode & 0o077 == 0
    assert Path(record.folder).stat().st_mode & 0o077 == 0
    listening = {
        connection.laddr.ip.removeprefix("::ffff:")
        for connections in of_members(record, lambda process: process.net_connections("inet"))
        for connection in connections
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def kill_one_of(record: RayRecord, name: str) -> None:
    [pid] = [pid for pid, found in of_members(record, lambda one: (one.pid, one.name())) if found.startswith(name)]
    os.kill(pid, signal.SIGKILL)


def of_members(record: RayRecord, ask: Callable[[psutil.Process], Any]) -> list[Any]:
    """What all processes of a Ray answer that are still there."""
    answers = []
    for member in session_members(record.pid):
        with suppress(psutil.NoSuchProcess):
            answers.append(ask(psutil.Process(member.pid)))
    return answers


def test_jobs_of_a_node_that_leaves_go_on_elsewhere_from_their_checkpoints_and_none_twice(
    nursery: Nursery, write_specs: WriteSpecs, tmp_path: Path
) -> None:
    specs = write_specs(*(exact(seed, 300) for seed in range(3)))
    whole = uninterrupted(specs, tmp_path / "whole")
    token = tmp_path / "token"
    token.write_text("0" * 64)
    token.chmod(0o600)
    environment = {"RAY_AUTH_TOKEN_PATH": str(token)}
    nodes = subprocess.Popen(
        [sys.executable, "-m", "tests.orchestrator.three_nodes"],
        cwd=REPOSITORY,
        env={**os.environ, **environment, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert nodes.stdin is not None
    assert nodes.stdout is not None
    try:
        address, head = nodes.stdout.readline().split()
        service = Service(nursery, tmp_path / "service", specs, "--address", address, environment=environment)
        with ended(service):
            service.start()
            for number in range(3):
                service.wait_until_said(f"step job-{number} 1")
            with JournalReader(service.root / "journal.db") as journal:
                on = {job.id: journal.attempts(job.id)[-1].node or "" for job in journal.jobs()}
                assert len(set(on.values())) == 3
                # Of those that can be removed, the one whose job has the longest way to go.
                waited_for = [job_id for job_id, node in on.items() if not head.startswith(node)]
                while len(waited_for) > 1 or not journal.checkpoints(waited_for[0]):
                    saved = [job_id for job_id in waited_for if journal.checkpoints(job_id)]
                    waited_for = [job_id for job_id in waited_for if job_id not in saved] or saved[-1:]
                    time.sleep(0.05)
                [lost_job] = waited_for
                before = journal.checkpoints(lost_job)[0].step
            nodes.stdin.write(f"{on[lost_job]}\n")
            nodes.stdin.flush()
            assert nodes.stdout.readline().strip() == "removed"
            service.wait_until_said("done")
    finally:
        nodes.stdin.close()
        nodes.wait(timeout=_SECONDS)
    service.check(whole, 300)
    [lost] = service.said("PENDING")
    assert lost.endswith("worker_lost")
    [resumed] = service.said("resumed")
    assert resumed.split()[1] == lost_job
    assert int(resumed.split()[-1]) >= before
