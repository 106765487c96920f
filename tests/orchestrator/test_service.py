"""`loraloom serve` as its users meet it: a real process, real HTTP, a real journal, real training."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.artifacts import verify
from jobs.records import JobState
from orchestrator.client import Client
from tests.nursery import Nursery
from tests.orchestrator.conftest import WriteSpecs
from tests.orchestrator.served import Served, reasons, states, submit

LONG = {"max_steps": 1_000_000, "save_steps": 50, "logging_steps": 50}
ServedOf = Callable[..., Served]


@pytest.fixture
def served_of(tmp_path: Path, nursery: Nursery) -> Iterator[ServedOf]:
    made: list[Served] = []

    def make(name: str = "data", *options: str, is_forked: bool = True) -> Served:
        made.append(Served(tmp_path / name, "--in-process", *options, nursery=nursery if is_forked else None))
        return made[-1]

    yield make
    for one in made:
        one.close()


def step(client: Client, job: str) -> int:
    return client.job(job).progress.step


def wait_for_step(served: Served, client: Client, job: str, number: int) -> None:
    served.until(lambda: step(client, job) >= number, f"{job} is at step {number}")


def test_jobs_are_submitted_paused_resumed_cancelled_and_their_adapters_downloaded_whole(
    served_of: ServedOf, write_specs: WriteSpecs, tmp_path: Path
) -> None:
    # As users start it: all that is imported is imported here.
    served = served_of(is_forked=False)
    client = served.start()
    specs = write_specs({"training": LONG}, {"training": LONG}, {"training": {"max_steps": 6, "logging_steps": 1}})
    ids = submit(client, specs, key="once")
    assert submit(client, specs, key="once") == ids == ["job-0", "job-1", "job-2"]
    served.until(lambda: step(client, "job-0") > 60, "job-0 trains")
    client.pause("job-0")
    client.pause("job-0")
    served.until(lambda: states(client)["job-0"] is JobState.PAUSED, "job-0 is paused")
    stood = client.job("job-0")
    assert stood.attempts[-1].is_open is False
    [newest, *_] = client.checkpoints("job-0").checkpoints
    assert newest.step >= stood.progress.step - 1
    client.cancel("job-1")
    served.until(lambda: states(client)["job-1"] is JobState.CANCELLED, "job-1 is cancelled")
    served.until(lambda: states(client)["job-2"] is JobState.SUCCEEDED, "job-2 is done")
    assert step(client, "job-0") == stood.progress.step
    client.resume("job-0")
    served.until(lambda: step(client, "job-0") > stood.progress.step + 5, "job-0 goes on")
    assert reasons(client, "job-0").count("paused") == 1
    assert "resumed" in reasons(client, "job-0")
    assert [point.step for point in client.metrics("job-2") if point.kind == "train"] == [1, 2, 3, 4, 5, 6]
    folder = tmp_path / "download"
    folder.mkdir()
    for file in client.artifacts("job-2").files:
        (folder / file.name).write_bytes(b"".join(client.artifact_chunks("job-2", file)))
    assert verify(folder)["metrics"]["step"] == 6
    # The view is made once a second, and may be of before it went on.
    served.until(
        lambda: [sharer.name for worker in client.cluster().workers for sharer in worker.sharers] == ["job-0"],
        "job-0 is seen on its worker",
    )
    client.retry("job-1")
    served.until(lambda: states(client)["job-1"] is JobState.RUNNING, "job-1 is tried again")
    client.cancel("job-0")
    client.cancel("job-1")
    served.until(lambda: JobState.RUNNING not in states(client).values(), "all are cancelled")


def test_what_cannot_be_trained_fails_with_what_is_wrong_and_the_others_train(
    served_of: ServedOf, write_specs: WriteSpecs, tmp_path: Path
) -> None:
    served = served_of()
    client = served.start()
    (tmp_path / "broken.jsonl").write_text('{"prompt": 1}\n')
    broken = {"datasets": [{"path": str(tmp_path / "broken.jsonl")}]}
    submit(client, write_specs(broken, {"lora": {"target_modules": ["none"]}}, {}))
    served.until(lambda: all(state.is_terminal for state in states(client).values()), "all have ended")
    assert states(client) == {"job-0": JobState.FAILED, "job-1": JobState.FAILED, "job-2": JobState.SUCCEEDED}
    assert "broken.jsonl" in client.job("job-0").message
    assert "none" in client.job("job-1").message
    assert client.job("job-0").reason == "invalid"


def test_a_higher_priority_takes_the_device_and_what_made_room_finishes_later_with_the_right_adapter(
    served_of: ServedOf, write_specs: WriteSpecs, other_base: Path, tmp_path: Path
) -> None:
    """One device, two bases: the second one can only come when the first job leaves."""
    training = {"max_steps": 1500, "save_steps": 4000, "logging_steps": 500}
    low = {"name": "low", "scheduling": {"priority": 1, "packing": "exact"}, "training": training}
    served = served_of()
    client = served.start()
    model = {"model_name_or_path": str(other_base)}
    submit(client, write_specs({"name": "high", "model": model, "training": {"max_steps": 4}}, name="high.yaml"))
    client.pause("high")
    served.until(lambda: states(client)["high"] is JobState.PAUSED, "high is held until low trains")
    submit(client, write_specs(low))
    served.until(lambda: step(client, "low") > 5, "low trains")
    client.resume("high")
    served.until(lambda: client.job("high").message.startswith("waiting:"), "high says why it waits")
    assert states(client)["low"] is JobState.RUNNING
    client.change("high", priority=2)
    served.until(lambda: states(client)["high"] is JobState.SUCCEEDED, "high is done")
    assert "preempted" in reasons(client, "low")
    assert client.job("low").attempts[0].charged is False
    served.until(lambda: states(client)["low"] is JobState.SUCCEEDED, "low is done")
    alone = served_of("alone")
    client = alone.start()
    submit(client, write_specs(low))
    alone.until(lambda: states(client)["low"] is JobState.SUCCEEDED, "low is done alone")
    files = [tmp_path / data / "artifacts/low/adapter_model.safetensors" for data in ("data", "alone")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_killed_at_any_moment_the_next_one_goes_on_and_nothing_is_lost_or_doubled(
    served_of: ServedOf, write_specs: WriteSpecs
) -> None:
    served = served_of()
    training = {"max_steps": 300, "save_steps": 10, "logging_steps": 50}
    specs = write_specs(*({"training": training} for _ in range(3)))
    for stop in range(4):
        client = served.start()
        # Whoever got no answer asks again, with the same key.
        assert submit(client, specs, key="burst") == ["job-0", "job-1", "job-2"]
        wait_for_step(served, client, "job-1", 20 * stop)
        assert served.end(signal.SIGKILL) == -signal.SIGKILL
    client = served.start()
    served.until(lambda: all(state is JobState.SUCCEEDED for state in states(client).values()), "all are done")
    assert len(states(client)) == 3
    for job in states(client):
        assert reasons(client, job).count("finished") == 1
        points = [point.step for point in client.metrics(job) if point.kind == "train"]
        assert points == sorted(set(points))
        assert points[-1] == 300


@pytest.mark.parametrize(
    "die_in",
    [
        # The first two are of the staging folder: an old one is discarded, the new one appears.
        pytest.param(("rename", 3, "/artifacts/"), id="before it is renamed to its place"),
        # The first is of the staging folder.
        pytest.param(("fsync", 2, "/artifacts$"), id="before the rename is durable"),
    ],
)
def test_killed_between_a_finished_adapter_and_the_journal_it_is_adopted_and_nothing_is_trained_twice(
    served_of: ServedOf, write_specs: WriteSpecs, die_in: tuple[str, int, str]
) -> None:
    served = served_of()
    client = served.start(die_in=die_in)
    submit(client, write_specs({}))
    assert served.process is not None
    assert served.process.wait(timeout=240) == -signal.SIGKILL
    trained = served.rows.read_text()
    client = served.start()
    served.until(lambda: client.job("job-0").state.is_terminal, "job-0 has ended")
    job = client.job("job-0")
    assert (job.state, job.attempt, job.progress.step) == (JobState.SUCCEEDED, 1, 4)
    assert "was found whole" in job.message
    assert served.rows.read_text() == trained
    assert [one.charged for one in job.attempts] == [False]
    assert verify(served.data_dir / "artifacts/job-0")["job"]["id"] == "job-0"
    assert client.artifacts("job-0").files


def test_terminated_it_saves_what_trains_and_says_so(served_of: ServedOf, write_specs: WriteSpecs) -> None:
    served = served_of()
    client = served.start()
    submit(client, write_specs({"training": {**LONG, "save_steps": 1_000_000}}))
    served.until(lambda: step(client, "job-0") > 10, "it trains")
    assert served.end(signal.SIGTERM) == 128 + signal.SIGTERM
    assert "1 job goes on when it is started again" in served.told()
    client = served.start()
    [saved, *_] = client.checkpoints("job-0").checkpoints
    assert saved.step > 10
    served.until(lambda: step(client, "job-0") > saved.step, "it goes on")
    assert "resumed" in reasons(client, "job-0")
    client.cancel("job-0")


def test_it_answers_before_torch_or_ray_is_loaded(tmp_path: Path) -> None:
    """What comes after is cut off: it is there that a cluster is joined."""
    code = f"""
import sys
from pathlib import Path
from rich.console import Console
from orchestrator import service
from orchestrator.client import Client

def told(self, interruption):
    url = "http" + console.file.getvalue().split("http")[1].split(",")[0]
    heavy = ("torch", "ray", "transformers", "datasets")
    print(Client(url).ready().status, [name for name in heavy if name in sys.modules])

service._Service.run = told
import io
console = Console(file=io.StringIO(), width=1000)
service.serve(service.ServeOptions(data_dir=Path({str(tmp_path / "data")!r}), port=0), console)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.strip() == "ok []"


def test_a_public_address_needs_tokens_and_a_second_service_is_refused(served_of: ServedOf, tmp_path: Path) -> None:
    public = served_of("public", "--host", "0.0.0.0")
    with pytest.raises(AssertionError, match="--token-file"):
        public.start()
    first, second = served_of(), served_of()
    first.start()
    with pytest.raises(AssertionError, match="is being written by process"):
        second.start()
