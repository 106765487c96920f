"""Five hundred hostile submissions to a service that trains: every one is answered, and nobody else feels it."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from rich.console import Console

from jobs.records import JobState
from orchestrator.run import RunOptions, run
from tests.jobs.texts import BLOWS_UP_SECONDS
from tests.orchestrator.conftest import WriteSpecs
from tests.orchestrator.hostile_bodies import bodies
from tests.orchestrator.served import Served, states

COUNT = 500
MOST_MORE_BYTES = 100 * 2**20


@pytest.mark.slow
def test_five_hundred_hostile_submissions_hurt_nobody(
    write_specs: WriteSpecs, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    outside = tmp_path / "outside" / "secret.jsonl"
    outside.parent.mkdir()
    outside.write_text('{"text": "secret"}\n')
    training = {"max_steps": 400, "save_steps": 100, "logging_steps": 100}
    specs = write_specs({"name": "neighbour", "scheduling": {"packing": "exact"}, "training": training})
    run(RunOptions(specs=(specs,), output_dir=tmp_path / "alone", in_process=True, workers=1), Console(quiet=True))
    good = yaml.safe_dump(
        {
            "name": "hostile",
            # Not there: what is taken in does not train, but is looked into.
            "model": {"model_name_or_path": str(tmp_path / "nowhere")},
            "datasets": [{"path": str(rows)}],
        },
        sort_keys=False,
    )
    hostile = bodies(COUNT, good=good, outside=outside)
    assert len(hostile) == COUNT
    base = yaml.safe_load(specs.read_text())["model"]["model_name_or_path"]
    served = Served(tmp_path / "data", "--in-process", "--root", str(rows.parent), "--root", base)
    try:
        client = served.start()
        client.submit(specs.read_text(), key="neighbour")
        served.until(lambda: client.job("neighbour").progress.step > 10, "the neighbour trains")
        assert served.process is not None
        process = psutil.Process(served.process.pid)
        before = process.memory_info().rss
        seconds: list[tuple[float, str]] = []
        codes: dict[int, int] = {}
        with httpx.Client(base_url=f"{served.url}/api/v1", timeout=2 * BLOWS_UP_SECONDS, trust_env=False) as http:
            for one in hostile:
                began = time.perf_counter()
                answer = http.post("/jobs", content=one.content, headers={"Content-Type": one.media_type})
                seconds.append((time.perf_counter() - began, one.what))
                codes[answer.status_code] = codes.get(answer.status_code, 0) + 1
                assert answer.status_code in (201, 400, 413, 415, 422), f"{one.what}: {answer.text[:1000]}"
                if answer.status_code != 201:
                    assert answer.headers["content-type"] == "application/problem+json"
                    assert "secret" not in answer.text.replace(str(outside), "").replace(outside.name, "")
        worst, what = max(seconds)
        more = process.memory_info().rss - before
        print(f"\n{COUNT} answered {codes}; the slowest in {worst:.2f} s ({what}); memory {more / 2**20:+.0f} MiB")
        assert worst < BLOWS_UP_SECONDS
        assert more < MOST_MORE_BYTES
        served.until(lambda: all(state.is_terminal for state in states(client).values()), "all have ended")
        ended = states(client)
        assert ended.pop("neighbour") is JobState.SUCCEEDED
        assert len(ended) >= codes[201] > 0
        assert set(ended.values()) == {JobState.FAILED}
    finally:
        served.close()
    adapters = [tmp_path / "alone/artifacts/neighbour", tmp_path / "data/artifacts/neighbour"]
    alone, beside = ((folder / "adapter_model.safetensors").read_bytes() for folder in adapters)
    assert alone == beside
