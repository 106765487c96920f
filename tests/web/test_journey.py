"""A person's way through the pages, in a real browser on a real service with a tiny base."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from jobs.artifacts import verify
from orchestrator.client import Client
from tests.nursery import Nursery
from tests.orchestrator.served import Served
from tests.web.browsing import Visit, visit

# One service for all of them.
pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("web")]
SpecOf = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery) -> Iterator[tuple[Served, Client]]:
    folder = tmp_path_factory.mktemp("web") / "data"
    served = Served(folder, "--in-process", "--queue", "night=1:1", nursery=nursery)
    try:
        yield served, served.start()
    finally:
        served.close()


@pytest.fixture
def seen(service: tuple[Served, Client], browser: Browser) -> Iterator[Visit]:
    with visit(browser, service[0].url) as one:
        yield one
        one.check()


def _press(page: Page, name: str) -> None:
    """Walk to a control by the Tab key alone, and press Enter there."""
    for _ in range(150):
        page.keyboard.press("Tab")
        # In one call: what has the focus may be drawn anew between two.
        if page.evaluate("(one => one?.matches('button') && one.innerText.trim())(document.activeElement)") == name:
            page.keyboard.press("Enter")
            return
    raise AssertionError(f"the Tab key does not lead to {name!r}")


def _state(page: Page, state: str) -> None:
    expect(page.locator(".standing .state")).to_contain_text(state)


def _points(page: Page) -> int:
    chart = page.locator("figure.chart").first
    expect(chart).to_be_visible()
    return int(chart.get_attribute("data-points") or 0)


def test_from_a_running_pack_to_an_adapter(
    service: tuple[Served, Client], seen: Visit, spec_of: SpecOf, tmp_path: Path
) -> None:
    served, client = service
    short = {"max_steps": 4, "logging_steps": 1}
    sweep = {"parameters": {"training.learning_rate": {"values": [0.01, 0.001]}}}
    client.submit([spec_of("left"), spec_of("right"), spec_of("try", training=short, sweep=sweep)])
    page = seen.go("/")
    expect(page).to_have_url(f"{served.url}/ui/")
    # A running pack: both share the device, side by side in its memory and on the timeline.
    device = page.locator("article.device")
    for name in ("left", "right"):
        expect(device.locator(".strand", has_text=name)).to_be_visible()
        expect(page.locator(".timeline .bar", has_text=name)).to_be_visible()
    assert not seen.violations()
    # Its page: a curve that grows without reload.
    device.locator("table a", has_text="left").click()
    expect(page).to_have_url(f"{served.url}/ui/jobs/left")
    before = _points(page)
    expect(page.locator("figure.chart").first).not_to_have_attribute("data-points", str(before))
    # With no pointer over it, the legend tells the newest figures.
    expect(page.locator("figure.chart .u-value").first).to_have_text(re.compile(r"^\d+$"))
    assert _points(page) > before
    expect(page.locator("pre.log")).to_contain_text("step")
    assert not seen.violations()
    # Paused, resumed and cancelled by keyboard alone, and seen without reload.
    _press(page, "Pause")
    _state(page, "paused")
    _press(page, "Resume")
    _state(page, "running")
    _press(page, "Cancel…")
    expect(page.locator("dialog")).to_contain_text("Cancel left?")
    assert not seen.violations()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    _press(page, "Cancel…")
    _press(page, "Cancel")
    _state(page, "cancelled")
    # The sweep: what differs, best first, both curves.
    page.get_by_role("link", name="Sweeps").click()
    page.locator("main table a", has_text="try").click()
    expect(page.locator("main tbody tr .state", has_text="succeeded")).to_have_count(2)
    expect(page.locator("main thead")).to_contain_text("learning_rate")
    expect(page.locator("figure.chart .u-series")).to_have_count(3)
    assert not seen.violations()
    # An adapter that is what was published.
    page.locator("main table a", has_text="try-001").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download all").click()
    download.value.save_as(tmp_path / "adapter.tar")
    expect(page.get_by_text("4 files saved, sha256 verified.")).to_be_visible()
    with tarfile.open(tmp_path / "adapter.tar") as files:
        files.extractall(tmp_path, filter="data")
    assert verify(tmp_path / "try-001")["job"]["id"] == "try-001"
    expect(page.locator(".command pre")).to_contain_text("vllm serve")
    assert not seen.violations()
    client.cancel("right")


def test_lists_are_narrowed_sorted_and_steered_by_keyboard(
    service: tuple[Served, Client], seen: Visit, spec_of: SpecOf
) -> None:
    _, client = service
    # Of a queue that trains one at a time; none of them comes to its turn before it is cancelled.
    client.submit([spec_of("blocks", scheduling={"queue": "night", "priority": 9})])
    night, bulk = {"queue": "night"}, {"kind": "bulk"}
    client.submit([spec_of(f"bulk-{number}", scheduling=night, labels=bulk) for number in (1, 2, 3)])
    page = seen.go("/ui/jobs?sort=name&label=kind%3Dbulk")
    rows = page.locator("main tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text("bulk-1")
    expect(rows.first).to_contain_text("waiting")
    assert not seen.violations()
    _press(page, "Job▴")
    expect(rows.first).to_contain_text("bulk-3")
    expect(page).to_have_url(re.compile("sort=-name"))
    page.get_by_role("checkbox", name="Choose all rows shown").focus()
    page.keyboard.press("Space")
    expect(page.get_by_text("3 jobs chosen")).to_be_visible()
    page.get_by_role("button", name="Cancel 3…").press("Enter")
    expect(page.locator("dialog")).to_contain_text("Cancel 3 jobs?")
    _press(page, "Cancel")
    expect(page.get_by_text("3 jobs were asked to be cancelled.")).to_be_visible()
    expect(page.locator("main tbody .state", has_text="cancelled")).to_have_count(3)
    # Typed, not submitted: the list follows.
    page.get_by_label("Name or id").fill("bulk-2")
    expect(rows).to_have_count(1)
    page.get_by_label("Name or id").fill("no such job")
    expect(page.get_by_text("No job fits")).to_be_visible()
    assert not seen.violations()
    client.cancel("blocks")


def test_markup_is_text_everywhere(service: tuple[Served, Client], seen: Visit, spec_of: SpecOf) -> None:
    _, client = service
    evil = "<img src=x onerror=document.title='broken'><script>document.title='broken'</script>"
    # Names and labels take no such characters; what is in values, messages and logs is the file's own.
    client.submit([{**spec_of("hostile"), "datasets": [{"path": f"/nowhere/{evil}.jsonl"}]}])
    page = seen.go("/ui/jobs/hostile")
    _state(page, "failed")
    expect(page.locator(".standing")).to_contain_text("<img src=x onerror=")
    page.locator("details > summary").click()
    expect(page.locator("details pre")).to_contain_text("<script>document.title=")
    expect(page.locator("pre.log")).to_contain_text("<img src=x onerror=")
    for path, place in (("/ui/", ".few"), ("/ui/jobs?state=FAILED", "main table")):
        seen.go(path)
        expect(page.locator(place).last).to_contain_text("<img src=x")
    assert page.locator("main img, main script").count() == 0
    assert page.title() == "Jobs · Loraloom"
    for path in (f"/ui/jobs/{evil}", f"/ui/workers/{evil}", f"/ui/sweeps/{evil}", f"/ui/jobs?q={evil}&label={evil}"):
        seen.go(path)
        expect(page.locator("main h1")).to_be_visible()
        assert "broken" not in page.title()
        assert page.locator("main img, main script").count() == 0
