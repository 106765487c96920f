"""Actors that train, as a scheduler drives them, whoever owns the Ray that they live in.

An actor steps on its own thread; the scheduler asks it now and then what happened. Ray restarts nothing and remembers
nothing for us: it finds a machine, starts a process there, and says when that process has died.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orchestrator.clusters.ray_environment  # noqa: F401

# isort: split
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.records import Assignment
from orchestrator.clusters import End, Observation, WorkerEnd
from orchestrator.clusters.worker_actor import WorkerActor
from orchestrator.decision import (
    NewWorker,
)
from orchestrator.openmp import ENVIRONMENT
from workers.settings import WorkerSettings

_STEERING = "steering"
"""Calls that must be carried out one after the other, in the order in which they were made."""
_START_SECONDS = 600.0
"""For a worker's process to be there at all: its node may have to fetch what it runs in."""
_MOST_UNREADABLE = 3
"""Answers of a worker in a row that could not be had or read, though its process lives, before it is given up."""


@dataclass
class Handle:
    """A worker that is heard."""

    actor: Any
    """Ray's proxy of a `WorkerActor`; its methods exist only at run time."""
    received: int = 0
    """Number of the last report that has come here."""
    acknowledged: int = 0
    """Number up to which the actor may forget."""
    pending: ray.ObjectRef | None = None
    """The observation being waited for; one at a time."""
    asked_at: float = 0.0
    """When it was asked for, by the monotonic clock."""
    is_overdue: bool = False
    """It was not there when it should have been; looked for once more before the worker is given up."""
    has_answered: bool = False
    """Before its first answer the process is still being started, and no lease runs."""
    num_unreadable: int = 0
    """Answers in a row that could not be had or read."""
    has_ended: bool = False
    """It lives only for its reports to be acknowledged."""


class RayWorkers:
    """The part of a cluster that has to do with workers once they are placed."""

    def __init__(self, *, lease_seconds: float, say: Callable[[str], None] = lambda _: None) -> None:
        """Start with no workers.

        Args:
            lease_seconds: A worker that gives no sign of life for so long is taken for hung, killed and replaced.
            say: Tells a person who looks on.
        """
        self._say = say
        self._workers: dict[str, Handle] = {}
        self._lease_seconds = lease_seconds
        self._untold: list[Observation] = []
        """What `poll` has to tell of yet."""

    @property
    def is_interruptible(self) -> bool:
        """Never: the workers do what takes long."""
        return False

    def assign(self, worker_id: str, jobs: Sequence[Assignment]) -> None:
        """Sent without waiting for the answer."""
        self._steer(worker_id, "assign", list(jobs))

    def release(self, worker_id: str, job_id: str) -> None:
        """Sent without waiting for the answer."""
        self._steer(worker_id, "release", job_id)

    def hand_back(self, worker_id: str, job_id: str) -> None:
        """Sent without waiting for the answer."""
        self._steer(worker_id, "hand_back", job_id)

    def prioritise(self, worker_id: str, job_id: str, priority: int) -> None:
        """Sent without waiting for the answer."""
        self._steer(worker_id, "prioritise", job_id, priority)

    def preempt(self) -> None:
        """Sent without waiting for the answer."""
        for worker_id in list(self._workers):
            self._steer(worker_id, "preempt")

    def acknowledge(self, worker_id: str, number: int) -> None:
        """Sent with the next question; the process of one that has ended is killed."""
        handle = self._workers.get(worker_id)
        if handle is None:
            return
        handle.acknowledged = max(handle.acknowledged, number)
        if handle.has_ended:
            self.stop_worker(worker_id)

    def stop_worker(self, worker_id: str) -> None:
        """Kill the actor's process: a step in progress has nothing that anybody waits for."""
        handle = self._workers.pop(worker_id, None)
        if handle is not None:
            kill(handle.actor)

    def poll(self, timeout_seconds: float) -> list[Observation]:
        """Whatever arrives within the time; a worker whose process died says so in its last observation."""
        asked = {worker_id: handle for worker_id, handle in self._workers.items() if not handle.has_ended}
        if self._untold or not asked:
            if not self._untold:
                time.sleep(timeout_seconds)
            told, self._untold = self._untold, []
            return told
        for worker_id, handle in asked.items():
            if handle.pending is None:
                self._ask(worker_id, handle, timeout_seconds)
        for worker_id in self._ready(timeout_seconds):
            self._untold += self._observed(worker_id, self._workers[worker_id])
        for worker_id, handle in list(self._workers.items()):
            waited = time.monotonic() - handle.asked_at if handle.pending is not None else 0.0
            if handle.has_answered and waited > self._lease_seconds:
                # Its process does not answer at all, though it did before: stopped, swapped out, or cut off. Unless it
                # was this process that stood still: then the answer is there when it is looked for once more.
                if handle.is_overdue:
                    self._untold.append(self._give_up(worker_id))
                handle.is_overdue = True
            elif not handle.has_answered and waited > _START_SECONDS:
                self._lose(
                    worker_id,
                    f"it was not started within {_START_SECONDS:g} seconds; see whether its node's CPUs or GPUs are "
                    "taken by something else",
                )
        # Kept in the object until here, for what breaks a poll off must not lose what was seen before.
        told, self._untold = self._untold, []
        return told

    def _start(
        self,
        worker: NewWorker,
        settings: WorkerSettings,
        jobs: Sequence[Assignment],
        *,
        node_id: str,
        search_path: Sequence[str] = (),
        options: Mapping[str, Any],
    ) -> None:
        """Start an actor on a node; it loads and steps by itself."""
        # Ray's annotations do not know of groups.
        actor_class = ray.remote(concurrency_groups={_STEERING: 1})(WorkerActor)  # pyright: ignore[reportCallIssue]
        try:
            actor = actor_class.options(
                max_restarts=0,
                max_concurrency=4,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
                runtime_env={"env_vars": {name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()}},
                **options,
            ).remote(worker, settings, list(jobs), list(search_path))
        except (RayError, OSError, RuntimeError, ValueError) as error:
            self._untold.append(lost(worker.id, f"it could not be started: {error}"))
            return
        self._workers[worker.id] = Handle(actor)

    def _steer(self, worker_id: str, method: str, *arguments: Any) -> None:
        """Call in order. What cannot be said to a worker that is gone is of no consequence: `poll` tells that it is."""
        handle = self._workers.get(worker_id)
        if handle is not None:
            with suppress(RayError):
                getattr(handle.actor, method).options(concurrency_group=_STEERING).remote(*arguments)

    def _ask(self, worker_id: str, handle: Handle, timeout_seconds: float) -> None:
        try:
            handle.pending = handle.actor.observe.remote(timeout_seconds, handle.acknowledged, handle.received)
        except RayError as error:
            self._lose(worker_id, why_dead(error))
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            self._untold += self._unreadable(worker_id, handle, error)
        handle.asked_at = time.monotonic()

    def _ready(self, timeout_seconds: float) -> list[str]:
        """Ids of workers that have answered."""
        by_ref = {
            handle.pending: worker_id for worker_id, handle in self._workers.items() if handle.pending is not None
        }
        if not by_ref:
            return []
        ready, _ = ray.wait(list(by_ref), num_returns=1, timeout=timeout_seconds)
        ready, _ = ray.wait(list(by_ref), num_returns=len(by_ref), timeout=0) if ready else ([], [])
        return [by_ref[ref] for ref in ready]

    def _observed(self, worker_id: str, handle: Handle) -> list[Observation]:
        """What a worker has answered, and that it is lost if it gives no sign of life."""
        assert handle.pending is not None
        ref, handle.pending, handle.is_overdue = handle.pending, None, False
        try:
            observation: Observation = ray.get(ref)
        except RayError as error:
            self.stop_worker(worker_id)
            return [lost(worker_id, why_dead(error))]
        except Exception as error:  # whatever unpickling raises
            return self._unreadable(worker_id, handle, error)
        handle.has_answered, handle.num_unreadable = True, 0
        if observation.reports:
            handle.received = observation.reports[-1].number
        if observation.end is not None:
            handle.has_ended = True
        elif observation.silent_seconds > self._lease_seconds:
            return [observation, self._give_up(worker_id)]
        return [observation]

    def _unreadable(self, worker_id: str, handle: Handle, error: Exception) -> list[Observation]:
        """Say that an answer could not be had, and after some of them that the worker is lost.

        Its reports are kept until they are acknowledged, so the next answer has them too.
        """
        handle.num_unreadable += 1
        said = f"could not be asked what it reports, {handle.num_unreadable} times in a row: {line_of(error)}"
        self._say(f"{worker_id} {said}")
        if handle.num_unreadable < _MOST_UNREADABLE:
            return []
        self.stop_worker(worker_id)
        return [lost(worker_id, f"it {said}")]

    def _lose(self, worker_id: str, message: str) -> None:
        """Let the next `poll` tell that a worker is gone."""
        self.stop_worker(worker_id)
        self._untold.append(lost(worker_id, message))

    def _give_up(self, worker_id: str) -> Observation:
        self.stop_worker(worker_id)
        return lost(
            worker_id,
            f"no sign of life for {self._lease_seconds:g} seconds; if its micro-batches take that long, raise --lease",
        )


def line_of(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def kill(actor: Any) -> None:
    """End an actor's process, if there is one to be reached."""
    with suppress(RayError, ValueError, RuntimeError):
        ray.kill(actor, no_restart=True)


def lost(worker_id: str, message: str) -> Observation:
    """That a worker is gone, with what it had not told yet."""
    return Observation(worker_id=worker_id, reports=(), status=None, end=WorkerEnd(kind=End.LOST, message=message))


def why_dead(error: RayError) -> str:
    """The part of Ray's report that a person can use."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    telling = [line for line in lines if "exit" in line.lower() or "killed" in line.lower() or "Error" in line]
    return f"the worker's process died: {(telling or lines or [type(error).__name__])[-1]}"
