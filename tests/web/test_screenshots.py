"""The same on SmolLM2: every page, light and dark, wide and narrow, written for a person to look at."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from playwright.sync_api import Browser, Page, expect
from transformers import AutoModelForCausalLM

from orchestrator.client import Client
from tests.orchestrator.served import Served, states
from tests.real_inputs import data_file, require, smollm2_dir
from tests.web.browsing import Visit, visit

pytestmark = [pytest.mark.slow, pytest.mark.real, pytest.mark.timeout(3000)]

SHOTS = Path("runs/screenshots")
LOOKS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
_DONE_MILLISECONDS = 900_000


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path / "data", "--in-process", "--queue", "night=1:1")
    yield made
    made.close()


def _spec(name: str, task: str, **more: Any) -> dict[str, Any]:
    training = {"max_steps": 400, "per_device_train_batch_size": 2, "max_length": 48, "logging_steps": 1}
    return {
        "name": name,
        "labels": {"team": "language", "task": task},
        "model": {"model_name_or_path": str(smollm2_dir()), "dtype": "float32"},
        "lora": {"r": 8, "target_modules": ["q_proj", "v_proj"], **more.pop("lora", {})},
        "datasets": [{"path": str(data_file(f"{task}.train.jsonl"))}],
        "val_size": 8,
        "training": {**training, "learning_rate": 5e-4, "save_steps": 20, **more.pop("training", {})},
        **more,
    }


def _specs() -> list[dict[str, Any]]:
    short = {"max_steps": 8, "eval_strategy": "steps", "eval_steps": 4}
    rates = {"values": [1e-3, 1e-4]}
    return [
        _spec("trec-coarse", "trec-coarse", lora={"r": 16}),
        _spec("sms-spam", "sms-spam"),
        _spec("sarcasm", "sarcasm", lora={"r": 4}),
        _spec("night-a", "trec-coarse", scheduling={"queue": "night"}),
        _spec("night-b", "sms-spam", scheduling={"queue": "night"}),
        _spec("lost-rows", "sarcasm", datasets=[{"path": "/nowhere/rows.jsonl"}]),
        _spec("rates", "trec-coarse", training=short, sweep={"parameters": {"training.learning_rate": rates}}),
    ]


def _shots(seen: Visit, pages: dict[str, str], look: str) -> list[str]:
    """Take them all, then say what is wrong with which."""
    found: list[str] = []
    for name, path in pages.items():
        page = seen.go(path)
        expect(page.locator("main h1")).to_be_visible()
        _is_settled(page)
        page.screenshot(path=SHOTS / f"{name}-{look}.png", full_page=True)
        width = page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
        if width[0] > width[1]:
            found.append(f"{name} at {look} is wider than the window: {width}")
        found += [f"{name} at {look}: {one}" for one in seen.violations()]
    return found


def _is_settled(page: Page) -> None:
    expect(page.locator("main .spinner")).to_have_count(0)
    page.evaluate("() => document.fonts.ready.then(() => true)")


def test_every_page_of_a_real_base_is_pictured_and_its_adapter_opens_in_peft(
    served: Served, browser: Browser, tmp_path: Path
) -> None:
    require()
    SHOTS.mkdir(parents=True, exist_ok=True)
    client: Client = served.start()
    found = client.submit(_specs())
    sweep = next(job.sweep_id for job in found.jobs if job.sweep_id)
    with visit(browser, served.url) as seen:
        page = seen.go("/ui/jobs/rates-001")
        expect(page.locator(".standing .state")).to_contain_text("succeeded", timeout=_DONE_MILLISECONDS)
        with page.expect_download() as download:
            page.get_by_role("button", name="Download all").click()
        download.value.save_as(tmp_path / "adapter.tar")
        seen.go(f"/ui/sweeps/{sweep}")
        rows = page.locator("main tbody tr .state", has_text="succeeded")
        expect(rows).to_have_count(2, timeout=_DONE_MILLISECONDS)
        # Two attempts of one job: its curves carry a mark.
        seen.go("/ui/jobs/sarcasm")
        page.get_by_role("button", name="Pause").click()
        expect(page.locator(".standing .state")).to_contain_text("paused", timeout=_DONE_MILLISECONDS)
        page.get_by_role("button", name="Resume").click()
        expect(page.locator(".standing .state")).to_contain_text("running", timeout=_DONE_MILLISECONDS)
        expect(page.locator(".history h3")).to_have_count(2)
        expect(page.locator(".standing")).to_contain_text("about", timeout=_DONE_MILLISECONDS)
        client.cancel("sms-spam")
        worker = client.cluster().workers[0].id
        pages = {
            "overview": "/ui/",
            "jobs": "/ui/jobs",
            "job-running": "/ui/jobs/sarcasm",
            "job-waiting": "/ui/jobs/night-b",
            "job-failed": "/ui/jobs/lost-rows",
            "job-succeeded": "/ui/jobs/rates-001",
            "sweeps": "/ui/sweeps",
            "sweep": f"/ui/sweeps/{sweep}",
            "worker": f"/ui/workers/{worker}",
            "missing": "/ui/jobs/nobody",
        }
        seen.check()
    wrong: list[str] = []
    for width, scheme in LOOKS:
        with visit(browser, served.url, width=width, scheme=scheme) as seen:
            wrong += _shots(seen, pages, f"{scheme}-{width}")
            seen.check()
    assert not wrong, "\n".join(wrong)
    assert states(client)["rates-001"] == "SUCCEEDED"
    with tarfile.open(tmp_path / "adapter.tar") as files:
        files.extractall(tmp_path, filter="data")
    base = AutoModelForCausalLM.from_pretrained(smollm2_dir(), local_files_only=True)
    opened = PeftModel.from_pretrained(base, str(tmp_path / "rates-001"))
    assert sum("lora_" in name for name, _ in opened.named_parameters()) == 2 * 2 * 30
