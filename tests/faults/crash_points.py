"""`loraloom serve` dies at a point of its journal while jobs are submitted to it, and is started again, and again.

    python -m tests.faults.crash_points --points 1000

Each life of the service ends with kill -9 at a statement or a commit drawn by the seed, in the middle of a burst of
submissions and other requests. Afterwards nothing that was answered may be missing, whatever was not answered must be
there whole or not at all, and asked again with its key it must be there once. Which threads meet at a point is the
machine's to say; where the service dies is the seed's.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml
from rich.console import Console

# Not before a life begins: what it forks from has no torch and no ray.
from orchestrator import service
from tests.faults.journal_deaths import Death, install
from tests.faults.seeded import kept_if_broken

_HEAVY = ("torch", "ray", "transformers", "datasets")
_THREADS = 3
_LIVES_A_FOLDER = 50
_FIRST_LIVES, _FIRST_POINTS = 3, 60
"""In a new folder, where a journal is made first."""
_MOST_POINTS, _MOST_COMMIT_POINTS = 250, 45
"""From which they are drawn after that: of all, and where those of commits alone are counted."""
_CHECKED_AGAIN = 5
_NEVER = Death(point=-1)
_HELD = 0.95
"""Share of the lives in which nothing but the API runs: most are over before anything else has been loaded, and loading
it takes the processor from the burst."""
_VERBS = ("pause", "cancel", "resume", "priority")


@dataclass
class Request:
    """A submission, and what became of it."""

    key: str
    body: str
    num_jobs: int
    job_ids: list[str] | None = None
    """As they were answered."""


@dataclass
class Result:
    """What was seen."""

    deaths: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    jobs: int = 0
    verbs: int = 0
    asked_again: int = 0
    ready_seconds: list[float] = field(default_factory=list)
    """From the beginning of a life to its first answer."""

    def told(self) -> str:
        """For a person."""
        ready = sorted(self.ready_seconds)
        where = "\n".join(f"  {count:5d} {where}" for where, count in self.deaths.most_common())
        return (
            f"{self.deaths.total()} deaths:\n{where}\n"
            f"{self.acknowledged} submissions of {self.jobs} jobs and {self.verbs} other requests were answered, "
            f"{self.asked_again} asked again after a death; none lost, none doubled\n"
            f"ready in {ready[len(ready) // 2]:.2f} s (median), {ready[-1]:.2f} s at most; none of {_HEAVY} was "
            "imported by then"
        )


class Life:
    """One process that serves a data directory until it dies."""

    def __init__(self, data_dir: Path, death: Death, *, is_held: bool) -> None:
        reading, writing = os.pipe()
        began = time.monotonic()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(reading)
            _live(data_dir, death, writing, is_held=is_held)
        os.close(writing)
        self._lines = os.fdopen(reading, encoding="utf-8")
        self.url: str | None = None
        self.died = ""
        for line in self._lines:
            if line.startswith("serving at "):
                self.url, heavy = line.removeprefix("serving at ").split()
                assert heavy == "[]", f"{heavy} was imported before the service was ready"
                break
            self._hear(line)
        self.ready_seconds = time.monotonic() - began

    def kill(self) -> None:
        """Without a point."""
        os.kill(self._pid, signal.SIGKILL)

    def wait(self) -> None:
        """For its death, which must be one by kill -9."""
        for line in self._lines:
            self._hear(line)
        self._lines.close()
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        assert code == -signal.SIGKILL, f"the service ended by itself with {code}: {self.died}"

    def _hear(self, line: str) -> None:
        if not line.startswith("dies "):
            raise AssertionError(f"the service said: {line}{self._lines.read()}")
        self.died = line.removeprefix("dies ").strip()


def _live(data_dir: Path, death: Death, writing: int, *, is_held: bool) -> None:
    """The body of a life. Never returns."""
    try:
        if is_held:
            service._Service.run = lambda *_: threading.Event().wait()  # type: ignore[method-assign]
        install(death, lambda line: _write(writing, f"{line}\n"))
        options = service.ServeOptions(data_dir=data_dir, port=0, in_process=True)
        service.serve(options, Console(file=_Told(writing), width=1000))
    except BaseException as error:
        _write(writing, f"{type(error).__name__}: {error}\n")
    finally:
        os._exit(1)


class _Told(io.StringIO):
    """Passes on where the service serves, and what it has imported by then."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def write(self, text: str) -> int:
        """Of the console."""
        if text.startswith("serving at "):
            heavy = json.dumps([name for name in _HEAVY if name in sys.modules], separators=(",", ":"))
            _write(self._descriptor, f"{text.split(',')[0]} {heavy}\n")
        return len(text)


def _write(descriptor: int, line: str) -> None:
    os.write(descriptor, line.encode())


def _client_of(url: str) -> httpx.Client:
    # Reading certificates would take longer than a life.
    return httpx.Client(base_url=f"{url}/api/v1", timeout=60, trust_env=False, verify=False)


class Burst:
    """Clients that ask as fast as they are answered, until nobody answers any more."""

    def __init__(self, draw: random.Random, result: Result) -> None:
        self._draw = draw
        self._result = result
        self._lock = threading.Lock()
        self._num_keys = 0
        self.known: dict[str, Request] = {}
        """Answered, by key."""
        self.unanswered: dict[str, Request] = {}
        self.wanted: dict[str, tuple[str, int]] = {}
        """Job → what was last asked of it and answered: what it is to do, and its priority; without those of which an
        answer is missing."""
        self._unsure: set[str] = set()

    def ask(self, url: str) -> None:
        """Until the service dies. Begins with what got no answer before."""
        with _client_of(url) as http:
            try:
                for request in list(self.unanswered.values()):
                    self._result.asked_again += 1
                    self._submit(http, request)
                some = list(self.known.values())
                for request in self._draw.sample(some, min(len(some), _CHECKED_AGAIN)):
                    self._submit(http, request)
            except httpx.TransportError:
                return
        with ThreadPoolExecutor(_THREADS) as threads:
            for done in [threads.submit(self._client, url, self._draw.random()) for _ in range(_THREADS)]:
                done.result()

    def finish(self, url: str) -> None:
        """Ask again for what got no answer, and for everything that did."""
        with _client_of(url) as http:
            for request in [*self.unanswered.values(), *self.known.values()]:
                self._submit(http, request)

    def _client(self, url: str, seed: float) -> None:
        draw = random.Random(seed)
        with _client_of(url) as http:
            try:
                while True:
                    if self.known and draw.random() < 0.25:
                        self._steer(http, draw)
                    else:
                        self._submit(http, self._new(draw))
            except httpx.TransportError:
                return

    def _new(self, draw: random.Random) -> Request:
        with self._lock:
            self._num_keys += 1
            key = f"k{self._num_keys}"
        documents, num_jobs = [], 0
        for name in draw.sample("abcdef", draw.randint(1, 3)):
            document: dict[str, Any] = {
                "name": name,
                "labels": {"key": key},
                "model": {"model_name_or_path": "some/base"},
                "datasets": [{"path": "/data/rows.jsonl"}],
            }
            runs = draw.choice((0, 0, 0, 2, 4))
            if runs:
                document["sweep"] = {"parameters": {"lora.r": {"values": list(range(1, runs + 1))}}}
            num_jobs += runs or 1
            documents.append(yaml.safe_dump(document))
        return Request(key=key, body="---\n".join(documents), num_jobs=num_jobs)

    def _submit(self, http: httpx.Client, request: Request) -> None:
        with self._lock:
            if request.key not in self.known:
                self.unanswered[request.key] = request
        answer = http.post("/jobs", content=request.body, headers={"Idempotency-Key": request.key})
        assert answer.status_code == 201, answer.text
        ids = [job["id"] for job in answer.json()["jobs"]]
        with self._lock:
            if request.job_ids is None:
                request.job_ids = ids
                self._result.acknowledged += 1
                self._result.jobs += len(ids)
            assert request.job_ids == ids, f"{request.key} was {request.job_ids}, and is {ids} now"
            self.known[request.key] = request
            self.unanswered.pop(request.key, None)

    def _steer(self, http: httpx.Client, draw: random.Random) -> None:
        with self._lock:
            request = self.known[draw.choice(list(self.known))]
            assert request.job_ids is not None
            job_id = draw.choice(request.job_ids)
            if job_id in self._unsure:
                return
            # One at a time for each job, so that the last answer is the last word.
            self._unsure.add(job_id)
            before = self.wanted.pop(job_id, None)
        verb = draw.choice(_VERBS)
        if verb == "priority":
            answer = http.patch(f"/jobs/{job_id}", json={"priority": draw.randint(-5, 5)})
        else:
            answer = http.post(f"/jobs/{job_id}/{verb}")
        # A job that has been cancelled is no longer steered.
        assert answer.status_code in (200, 202, 409), answer.text
        with self._lock:
            self._result.verbs += 1
            self._unsure.discard(job_id)
            if answer.status_code != 409:
                found = answer.json()
                self.wanted[job_id] = (found["desired"], found["priority"])
            elif before is not None:
                self.wanted[job_id] = before


def check(data_dir: Path, burst: Burst) -> None:
    """Whatever was answered is there; what was not is there whole or not at all."""
    path = data_dir / "journal.db"
    if not path.exists():
        assert not burst.known
        return
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "jobs" not in tables:
            # Made in one transaction, so that there are all or none.
            assert not tables
            assert not burst.known
            return
        counts = dict(connection.execute("SELECT value, count(*) FROM job_labels WHERE key = 'key' GROUP BY value"))
        rows = {one[0]: one[1:] for one in connection.execute("SELECT id, desired, priority FROM jobs")}
        told = dict(
            connection.execute("SELECT job_id, count(*) FROM events WHERE reason = 'submitted' GROUP BY job_id")
        )
    for key, request in burst.known.items():
        assert counts.get(key) == request.num_jobs, f"{key}: {counts.get(key)} jobs of {request.num_jobs}"
        assert request.job_ids is not None
        assert set(request.job_ids) <= rows.keys(), f"{key}: a job that was acknowledged is gone"
    for key, request in burst.unanswered.items():
        assert counts.get(key, 0) in (0, request.num_jobs), f"{key}: a part of a submission"
    assert counts.keys() <= burst.known.keys() | burst.unanswered.keys()
    assert told == dict.fromkeys(rows, 1)
    for job_id, wanted in burst.wanted.items():
        assert rows[job_id] == wanted, f"{job_id} is {rows[job_id]} and should be {wanted}"


def crash(folder: Path, *, seed: int, points: int, say: Callable[[str], None]) -> Result:
    """Let the service die so often, and check after each death.

    Args:
        folder: For data directories; a new one every so often, since making a journal can be died in as well.
        seed: Of where it dies and of what is asked.
        points: Deaths.
        say: How far it is.
    """
    draw = random.Random(seed)
    result = Result()
    while result.deaths.total() < points:
        data_dir = folder / f"data-{result.deaths.total()}"
        burst = Burst(draw, result)
        for number in range(min(_LIVES_A_FOLDER, points - result.deaths.total())):
            death = _death(draw, is_first=number < _FIRST_LIVES)
            life = Life(data_dir, death, is_held=draw.random() < _HELD)
            if life.url is not None:
                result.ready_seconds.append(life.ready_seconds)
                burst.ask(life.url)
            life.wait()
            result.deaths[life.died] += 1
            check(data_dir, burst)
        last = Life(data_dir, _NEVER, is_held=True)
        assert last.url is not None
        burst.finish(last.url)
        last.kill()
        last.wait()
        assert not burst.unanswered
        check(data_dir, burst)
        say(f"{result.deaths.total()} deaths, {result.acknowledged} submissions answered")
    return result


def _death(draw: random.Random, *, is_first: bool) -> Death:
    into = draw.uniform(0.0, 0.003)
    if is_first:
        return Death(point=draw.randint(1, _FIRST_POINTS), seconds_into_commit=into)
    only_commits = draw.random() < 0.5
    most = _MOST_COMMIT_POINTS if only_commits else _MOST_POINTS
    return Death(point=draw.randint(1, most), only_commits=only_commits, seconds_into_commit=into)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--points", type=int, default=1000)
    asked = parser.parse_args()
    with kept_if_broken("crash", asked.seed) as folder:
        result = crash(folder, seed=asked.seed, points=asked.points, say=lambda line: print(line, flush=True))
    print(result.told())


if __name__ == "__main__":
    main()
