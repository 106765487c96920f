"""A seeded history of kills over real runs of unlike jobs, and what must hold of whatever was left.

    python -m tests.faults.chaos --seed 7 --kills 200 --jobs 100

Each kill is drawn by the seed: the driver, the whole group, a worker, Ray's own raylet, with -9, SIGTERM or SIGSTOP;
now and then a bit of the newest checkpoint is flipped while nobody runs. Instants are drawn too, in steps told and in
fractions of a second, so a seed gives the same kind of history, not the same one to the microsecond.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import yaml

from jobs.records import JobState
from orchestrator.clusters.processes import descendants
from tests.faults.runs import STEP, Run
from tests.faults.seeded import kept_if_broken
from tests.nursery import Nursery
from tests.tiny_base import write_rows, write_tiny_base

IN_PROCESS = ("--in-process", "--workers", "1")
WITH_RAY = ("--workers", "1", "--lease", "4")


def job(number: int, draw: random.Random, base: Path, rows: Path, *, more_steps: int) -> dict[str, Any]:
    """A small job unlike the others; every fifth diverges and must fail, whatever happens around it."""
    training: dict[str, Any] = {
        "max_steps": draw.randint(10, 40) + more_steps,
        "per_device_train_batch_size": draw.randint(1, 4),
        "gradient_accumulation_steps": draw.randint(1, 3),
        "learning_rate": draw.choice([1e-3, 1e-2]),
        "optim": draw.choice(["adamw_torch", "sgd"]),
        "lr_scheduler_type": draw.choice(["linear", "cosine", "constant"]),
        "weight_decay": draw.choice([0.0, 0.1]),
        "logging_steps": 1,
        "save_steps": draw.randint(1, 10),
        "save_total_limit": draw.randint(1, 3),
        "seed": number,
    }
    if number % 5 == 4:
        training |= {"learning_rate": 3e38, "max_steps": 40 + more_steps}
    return {
        "name": f"job-{number}",
        "model": {"model_name_or_path": str(base), "dtype": "float32"},
        "lora": {"r": draw.choice([2, 4, 8]), "target_modules": "all-linear", "lora_dropout": draw.choice([0.0, 0.1])},
        "datasets": [{"path": str(rows)}],
        "val_size": draw.choice([0, 4]),
        "training": training,
        "scheduling": {"packing": "exact"},
    }


def chaos(nursery: Nursery, folder: Path, *, seed: int, kills: int, jobs: int, ray_share: float) -> Counter[str]:
    """Run, kill, and go on, until so many kills have been; then go on to the end and check.

    Returns:
        How often each kind of fault was done.
    """
    draw = random.Random(seed)
    base, rows = write_tiny_base(folder / "tiny"), write_rows(folder / "rows.jsonl")
    specs = folder / "jobs.yaml"
    # Long enough to be there for all kills: each lets them come some steps further.
    more_steps = 20 * kills // jobs
    unlike = [job(number, draw, base, rows, more_steps=more_steps) for number in range(jobs)]
    specs.write_text("---\n".join(yaml.safe_dump(one) for one in unlike))
    whole = Run(nursery, specs, folder / "whole", options=IN_PROCESS)
    whole.start()
    whole.wait()
    run = Run(nursery, specs, folder / "run")
    done: Counter[str] = Counter()
    while done.total() < kills and not all_ended(run):
        run.options = WITH_RAY if draw.random() < ray_share else IN_PROCESS
        run.start()
        # A driver bears several kills of its workers before it is killed itself.
        while done.total() < kills and run.wait_until_told(STEP, times=run.count_told(STEP) + draw.randint(1, 12)):
            time.sleep(draw.random() * 0.1)
            kind = strike(run, draw)
            done[kind] += 1
            print(f"kill {done.total()}: {kind}", file=sys.stderr, flush=True)
            if not kind.startswith("worker"):
                break
        wait_for_end(run)
        if draw.random() < 0.2 and flip_a_bit(run, draw):
            done["flipped bit"] += 1
    run.options = IN_PROCESS
    run.start()
    run.wait()
    check(run, whole, jobs)
    return done


def strike(run: Run, draw: random.Random) -> str:
    """One kill of what there is to be killed now."""
    kinds = ["driver SIGKILL", "driver SIGTERM", "group SIGKILL", "group SIGTERM"]
    workers = run.worker_pids()
    raylets = [one.pid for one in descendants(run.pid) if name_of(one.pid) == "raylet"]
    if workers:
        kinds += ["worker SIGKILL", "worker SIGTERM", "worker SIGSTOP"] * 2
    if raylets:
        kinds.append("raylet SIGKILL")
    kind = draw.choice(kinds)
    target, _, number = kind.partition(" ")
    with suppress(ProcessLookupError):
        if target in ("driver", "group"):
            run.signal(signal.Signals[number], group=target == "group")
        else:
            os.kill((workers if target == "worker" else raylets)[-1], signal.Signals[number])
    return kind


def wait_for_end(run: Run) -> None:
    """A run whose raylet died ends by itself, or is ended."""
    deadline = time.monotonic() + 60
    below = descendants(run.pid)
    while run.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    if run.is_alive():
        run.signal(signal.SIGKILL)
    run.wait()
    # Whoever was stopped and is woken now speaks for an attempt that is over.
    for process in below:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process.pid, signal.SIGCONT)


def flip_a_bit(run: Run, draw: random.Random) -> bool:
    """In a file of the newest checkpoint of some job."""
    with run.journal() as journal:
        found = [one.checkpoints[0] for one in journal.jobs() if one.checkpoints and not one.state.is_terminal]
    if not found:
        return False
    record = draw.choice(found)
    file = draw.choice(sorted((run.folder / "checkpoints" / record.job_id / record.folder).iterdir()))
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)
    return True


def all_ended(run: Run) -> bool:
    if not (run.folder / "journal.db").exists():
        return False
    with run.journal() as journal:
        jobs = journal.jobs()
    return bool(jobs) and all(one.state.is_terminal for one in jobs)


def check(run: Run, whole: Run, num_jobs: int) -> None:
    """No job lost, none published twice, all ended as they do undisturbed, to the byte."""
    run.check_history()
    with run.journal() as journal, whole.journal() as undisturbed:
        # One that has failed is begun anew under its name by the next run; the latest counts.
        states = {one.name: one.state for one in journal.jobs()}
        assert len(states) == num_jobs
        assert states == {one.name: one.state for one in undisturbed.jobs()}
        assert set(states.values()) <= {JobState.SUCCEEDED, JobState.FAILED}
    assert run.adapters() == whole.adapters()
    published = {name for name, state in states.items() if state is JobState.SUCCEEDED}
    assert {path.name for path in (run.folder / "artifacts").iterdir()} == published
    for name, history in run.metrics().items():
        if name in published:
            assert history == whole.metrics()[name], name


def name_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--ray-share", type=float, default=0.2, help="share of the runs that are with Ray")
    arguments = parser.parse_args()
    with kept_if_broken("chaos", arguments.seed) as folder, closing(Nursery()) as nursery:
        done = chaos(
            nursery, folder, seed=arguments.seed, kills=arguments.kills, jobs=arguments.jobs,
            ray_share=arguments.ray_share,
        )  # fmt: skip
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(done.items()))
    print(f"seed {arguments.seed}: {arguments.jobs} jobs ended as undisturbed after {told}")
    if done.total() < arguments.kills:
        sys.exit(f"they were over after {done.total()} of {arguments.kills} kills")


if __name__ == "__main__":
    main()
