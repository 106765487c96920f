"""Pages of a service without a scheduler: rights, empty places, streams that break, a service that goes."""

from __future__ import annotations

from playwright.sync_api import Browser, expect

from orchestrator.api.app import build_app
from orchestrator.api.server import HttpServer
from orchestrator.api.tokens import Tokens
from tests.orchestrator.api.conftest import ALICE, BOB, Serve, serve, spec, tokens
from tests.web.browsing import visit

__all__ = ["serve", "tokens"]


def test_a_token_is_asked_for_kept_in_the_tab_and_decides_what_is_offered(
    serve: Serve, tokens: Tokens, browser: Browser
) -> None:
    served = serve(tokens=tokens)
    with served.http(headers={"Authorization": f"Bearer {ALICE}"}) as http:
        http.post("/jobs", json=[spec("day"), spec("late", scheduling={"queue": "night"})]).raise_for_status()
    with visit(browser, served.url) as seen:
        page = seen.go("/ui/jobs/day")
        expect(page.get_by_role("heading", name="Token")).to_be_visible()
        assert not seen.violations()
        page.get_by_label("Token").fill("x" * 30)
        page.keyboard.press("Enter")
        expect(page.get_by_text("The service does not know this token.")).to_be_visible()
        page.get_by_label("Token").fill(BOB)
        page.keyboard.press("Enter")
        # At the page that was asked for, without the right to act there.
        expect(page.get_by_role("heading", name="day")).to_be_visible()
        expect(page.get_by_text("The token bob has no right to act in the queue default.")).to_be_visible()
        expect(page.get_by_role("button", name="Cancel…")).to_have_count(0)
        seen.go("/ui/jobs/late")
        page.get_by_role("button", name="Priority…").click()
        page.get_by_label("Priority (higher is placed first)").fill("7")
        page.keyboard.press("Enter")
        expect(page.get_by_text("late is in queue night with priority 7.")).to_be_visible()
        assert served.journal.job("late").priority == 7
        stored = page.evaluate("() => [Object.values(sessionStorage), Object.values(localStorage), document.cookie]")
        assert stored == [[BOB], [], ""]
        # Events come over a stream that carries the token.
        served.run("late")
        expect(page.locator(".standing .state")).to_contain_text("running")
        page.get_by_role("button", name="Leave").click()
        expect(page.get_by_role("heading", name="Token")).to_be_visible()
        assert page.evaluate("() => sessionStorage.length") == 0
        seen.check()


def test_a_chosen_theme_outlives_the_page(serve: Serve, browser: Browser) -> None:
    with visit(browser, serve().url, scheme="light") as seen:
        page = seen.go("/ui/jobs")
        background = "() => getComputedStyle(document.body).backgroundColor"
        expect(page.get_by_text("There are no jobs yet")).to_be_visible()
        light = page.evaluate(background)
        page.get_by_role("button", name="Show in dark colours").press("Enter")
        dark = page.evaluate(background)
        assert light != dark
        assert not seen.violations()
        page.reload()
        expect(page.get_by_role("button", name="Show in light colours")).to_be_visible()
        assert page.evaluate(background) == dark
        seen.check()


def test_a_stream_that_broke_goes_on_behind_the_last_event(serve: Serve, browser: Browser) -> None:
    served = serve()
    with served.http() as http:
        http.post("/jobs", json=[spec("first"), spec("second")])
    with visit(browser, served.url) as seen:
        asked: list[str | None] = []
        seen.page.on(
            "request",
            lambda one: asked.append(one.headers.get("last-event-id")) if one.url.endswith("/stream") else None,
        )
        page = seen.go("/ui/jobs")
        expect(page.locator("main tbody tr")).to_have_count(2)
        served.run("first")
        expect(page.locator("main tbody .state", has_text="running")).to_have_count(1)
        last = served.journal.last_sequence()
        port = served.server.port
        served.server.stop()
        expect(page.get_by_text("No connection to the service")).to_be_visible()
        app = build_app(served.journal, lambda: None, data_dir=served.data_dir)
        with HttpServer(app, port=port):
            served.run("second")
            expect(page.locator("main tbody .state", has_text="running")).to_have_count(2)
            expect(page.get_by_text("No connection to the service")).to_have_count(0)
            # The job was placed and admitted, in two events: the connection may have broken between them.
            assert asked[-1] in (str(last - 1), str(last))


def test_what_is_not_there_and_a_service_that_goes(serve: Serve, browser: Browser) -> None:
    served = serve()
    with visit(browser, served.url) as seen:
        page = seen.go("/ui/jobs")
        expect(page.get_by_text("There are no jobs yet")).to_be_visible()
        assert not seen.violations()
        for path, text in (
            ("/ui/jobs/nobody", "No such job"),
            ("/ui/sweeps/none", "No such sweep"),
            ("/ui/workers/w99", "This worker is not there"),
            ("/ui/elsewhere/x", "There is no such page"),
            ("/ui/", "No worker at the moment"),
        ):
            seen.go(path)
            expect(page.get_by_text(text).first).to_be_visible()
            assert not seen.violations()
        seen.check()
        served.server.stop()
        expect(page.get_by_text("No connection to the service")).to_be_visible()
        # What was known stays.
        expect(page.get_by_text("No worker at the moment")).to_be_visible()
        assert not seen.violations()
