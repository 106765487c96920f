"""A real browser on a service's pages, which notes whatever it asks for and whatever goes wrong in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.machine import program

AXE = Path(__file__).parent / "vendor" / "axe.js"
PATIENCE_MILLISECONDS = 120_000
expect.set_options(timeout=PATIENCE_MILLISECONDS)
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium() -> str:
    """Path of a Chromium."""
    return program("chromium", "chromium-browser", "google-chrome", mend="make chromium")


@contextmanager
def open_browser() -> Iterator[Browser]:
    """One Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=_ARGUMENTS, timeout=PATIENCE_MILLISECONDS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """A tab on one service."""

    url: str
    context: BrowserContext
    page: Page
    hosts: set[str] = field(default_factory=set)
    """All that anything was asked of."""
    wrong: list[str] = field(default_factory=list)
    """Uncaught errors, refusals of the content policy, other complaints of the console."""

    def go(self, path: str) -> Page:
        """Open an address of the service."""
        self.page.goto(self.url + path, wait_until="domcontentloaded")
        return self.page

    def violations(self) -> list[str]:
        """What axe-core finds serious or worse on the page as it is."""
        # Evaluated by the debugger, so that the page's own policy stays as it is.
        self.page.evaluate(AXE.read_text(encoding="utf-8"))
        found = self.page.evaluate("axe.run({resultTypes: ['violations']})")
        return [
            f"{one['id']} ({one['impact']}): {[node['target'] for node in one['nodes']][:5]} "
            f"{one['nodes'][0].get('failureSummary', '')[:300]}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]

    def check(self) -> None:
        """Nothing has left the machine, and nothing went wrong."""
        assert self.hosts <= {urlsplit(self.url).netloc}, self.hosts
        assert not self.wrong, "\n".join(self.wrong)


@contextmanager
def visit(browser: Browser, url: str, *, width: int = 1280, scheme: str = "light") -> Iterator[Visit]:
    """A fresh tab."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
    )
    context.set_default_timeout(PATIENCE_MILLISECONDS)
    page = context.new_page()
    one = Visit(url, context, page)
    page.on("request", lambda request: one.hosts.add(urlsplit(request.url).netloc) if _leaves(request.url) else None)
    page.on("pageerror", lambda error: one.wrong.append(f"error: {error}"))
    page.on(
        "console",
        lambda message: one.wrong.append(f"{message.type}: {message.text}") if _is_wrong(message.text) else None,
    )
    try:
        yield one
    finally:
        context.close()


def _leaves(url: str) -> bool:
    return urlsplit(url).scheme not in ("blob", "data")


def _is_wrong(text: str) -> bool:
    return any(one in text for one in ("Content Security Policy", "TrustedHTML", "Uncaught"))
