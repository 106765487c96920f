"""`loraloom serve` with a Ray of its own is killed with -9 while jobs train and others are submitted, again and again.

    python -m tests.faults.service_kills --kills 20

Workers train on without it. After each start the service has to have taken over the very worker that trained: jobs
keep their worker and their attempt, and no step is taken back. What was answered is never lost, and what was not is
asked again with its key and is there once.
"""

from __future__ import annotations

import argparse
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from jobs.artifacts import verify
from jobs.records import JobState
from orchestrator.client import Client, UnreachableError
from orchestrator.clusters.ray_daemon import RayDaemon
from tests.faults.seeded import kept_if_broken
from tests.orchestrator.served import Served, reasons
from tests.tiny_base import write_rows, write_tiny_base

_LONG = ("long-a", "long-b")
_BETWEEN_SECONDS = 0.4
_STEPS_AFTER = 5
_PATIENCE_SECONDS = 1800.0
"""On a machine that others keep busy."""


@dataclass
class Result:
    """What was seen."""

    kills: int = 0
    submitted: int = 0
    asked_again: int = 0
    attempts: int = 0
    """Of all jobs together: more than there are jobs where a kill came between an attempt's row and its worker."""
    steps: dict[str, int] = field(default_factory=dict)
    """Of the jobs that trained through everything."""
    back_seconds: list[float] = field(default_factory=list)
    """From a start of the service to a step that it has heard of since."""

    def told(self) -> str:
        """For a person."""
        back = sorted(self.back_seconds)
        return (
            f"{self.kills} kills; jobs that trained through all of them, on one worker in one attempt: {self.steps}; "
            f"{self.submitted} short jobs submitted meanwhile, {self.asked_again} asked again, none lost or doubled, "
            f"{self.attempts} attempts; from start to steps heard of {back[len(back) // 2]:.1f} s (median), "
            f"{back[-1]:.1f} s at most"
        )


class Journey:
    """The service through its lives."""

    def __init__(self, folder: Path, *, seed: int) -> None:
        self._draw = random.Random(seed)
        self._base, self._rows = write_tiny_base(folder / "tiny"), write_rows(folder / "rows.jsonl")
        self.served = Served(folder / "data", patience_seconds=_PATIENCE_SECONDS)
        self.result = Result()
        self._client = self.served.start()
        self._seen: dict[str, tuple[str | None, int, int]] = {}
        """Long job → worker, attempt, step, as last read."""
        self._answered: dict[str, list[str]] = {}
        self._unanswered: list[str] = []

    def begin(self) -> None:
        """Until the jobs that are to train through everything do."""
        for name in _LONG:
            training = {"max_steps": 10_000_000, "save_steps": 50, "logging_steps": 1000}
            self._client.submit(self._spec(name, training), key=name)
        self._wait_for_steps("it trains")
        [worker] = {worker for worker, _, _ in self._seen.values()}
        assert worker is not None

    def kill(self) -> None:
        """Kill it while jobs are submitted, start it, and look at everything."""
        submitting = threading.Thread(target=self._submit_until_dead)
        submitting.start()
        until = time.monotonic() + self._draw.uniform(0.1, 3.0)
        while time.monotonic() < until:
            self._read()
        assert self.served.end(signal.SIGKILL) == -signal.SIGKILL
        submitting.join()
        self.result.kills += 1
        began = time.monotonic()
        self._client = self.served.start()
        for key in list(self._unanswered):
            self.result.asked_again += 1
            self._submit(key)
        for key, ids in self._answered.items():
            assert self._ids(key) == ids
        # What the one before had written down last is no sign of life.
        self._read()
        self._wait_for_steps("what trained before is heard of again")
        self.result.back_seconds.append(time.monotonic() - began)

    def finish(self) -> None:
        """All that was submitted has ended once; the jobs that trained through everything are cancelled."""
        short = [job_id for ids in self._answered.values() for job_id in ids]
        self.served.until(
            lambda: all(self._client.job(job_id).state is JobState.SUCCEEDED for job_id in short), "all are done"
        )
        self._read()
        self.result.steps = {name: step for name, (_, _, step) in self._seen.items()}
        for name in _LONG:
            self._client.cancel(name)
        self.served.until(
            lambda: all(self._client.job(name).state is JobState.CANCELLED for name in _LONG), "all have ended"
        )
        assert sorted(job.id for job in self._client.jobs()) == sorted([*short, *_LONG])
        for job_id in short:
            told = reasons(self._client, job_id)
            assert told.count("submitted") == told.count("finished") == 1, told
            verify(self.served.data_dir / "artifacts" / job_id)
            self.result.attempts += self._client.job(job_id).attempt
        assert self.served.end(signal.SIGTERM) == 128 + signal.SIGTERM
        assert RayDaemon.record_of(self.served.data_dir) is None

    def _spec(self, name: str, training: dict[str, Any]) -> str:
        return yaml.safe_dump(
            {
                "name": name,
                "model": {"model_name_or_path": str(self._base), "dtype": "float32"},
                "lora": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
                "datasets": [{"path": str(self._rows)}],
                "training": {"per_device_train_batch_size": 2, "learning_rate": 0.001, **training},
            }
        )

    def _submit_until_dead(self) -> None:
        with Client(self.served.url, patience_seconds=0.0) as client:
            while True:
                key = f"short-{self.result.submitted}"
                self.result.submitted += 1
                self._unanswered.append(key)
                try:
                    self._submit(key, client)
                except UnreachableError:
                    return
                time.sleep(_BETWEEN_SECONDS)

    def _submit(self, key: str, client: Client | None = None) -> None:
        self._answered[key] = self._ids(key, client)
        self._unanswered.remove(key)

    def _ids(self, key: str, client: Client | None = None) -> list[str]:
        answer = (client or self._client).submit(self._spec(key, {"max_steps": 3}), key=key)
        return [job.id for job in answer.jobs]

    def _read(self) -> None:
        """Whoever trains keeps its worker and its attempt, and goes forward."""
        for name in _LONG:
            job = self._client.job(name)
            before = self._seen.get(name)
            if before is not None:
                assert (job.worker_id, job.attempt) == before[:2], (
                    f"{name}: {before}, then {job.worker_id} {job.attempt}"
                )
                assert job.progress.step >= before[2], f"{name}: step {before[2]}, then {job.progress.step}"
            if job.state is JobState.RUNNING and job.progress.step > 0:
                self._seen[name] = (job.worker_id, job.attempt, job.progress.step)

    def _wait_for_steps(self, what: str) -> None:
        least = {name: _STEPS_AFTER + self._seen.get(name, (None, 0, 0))[2] for name in _LONG}

        def are_there() -> bool:
            self._read()
            return all(name in self._seen and self._seen[name][2] >= least[name] for name in _LONG)

        self.served.until(are_there, what)


def kill_services(folder: Path, *, seed: int, kills: int, say: Callable[[str], None]) -> Result:
    """Kill a service so often while it trains, and check.

    Args:
        folder: For the data directory and the base.
        seed: Of the moments.
        kills: How many.
        say: How far it is.
    """
    journey = Journey(folder, seed=seed)
    try:
        journey.begin()
        for _ in range(kills):
            journey.kill()
            say(f"kill {journey.result.kills}: {journey.result.back_seconds[-1]:.1f} s until steps were heard of")
        journey.finish()
    finally:
        journey.served.close()
        RayDaemon(journey.served.data_dir).stop()
    return journey.result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--kills", type=int, default=20)
    asked = parser.parse_args()
    with kept_if_broken("kills", asked.seed) as folder:
        result = kill_services(folder, seed=asked.seed, kills=asked.kills, say=lambda line: print(line, flush=True))
    print(result.told())


if __name__ == "__main__":
    main()
