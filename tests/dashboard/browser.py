"""Debian's Chromium, driven by Playwright, which tells of all that went wrong in a page."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from shutil import which
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

DESK, PHONE = (1280, 900), (360, 740)


@dataclass
class Screen:
    """One page of a browser. troubles: what its console, its scripts and its requests have complained of."""

    page: Page
    troubles: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.clock.install()
        self.page.on(
            "console", lambda said: self.troubles.append(said.text) if said.type in {"error", "warning"} else None
        )
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("requestfailed", lambda request: self.troubles.append(f"{request.url}: {request.failure}"))
        self.page.on(
            "response", lambda got: self.troubles.append(f"{got.url}: {got.status}") if got.status >= 400 else None
        )

    def a_moment_later(self) -> None:
        """Let the page's clock go on by as long as it waits before it fetches itself anew."""
        self.page.clock.fast_forward(5_000)

    def fetched_anew(self) -> None:
        """Wait until what the page shows has been fetched once more."""
        self.page.evaluate(
            "() => { document.addEventListener('htmx:after:swap', () => { window.swapped = true; }, {once: true}); }"
        )
        self.a_moment_later()
        self.page.wait_for_function("() => window.swapped")
        self.page.evaluate("() => { delete window.swapped; }")


@contextmanager
def running_browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=which("chromium"),
            args=["--no-sandbox"],  # it may be root's
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def screen(browser: Browser, *, size: tuple[int, int] = DESK, **context: Any) -> Iterator[Screen]:
    """A page of a browser with no memory. context: as Playwright's `new_context` takes it."""
    made: BrowserContext = browser.new_context(viewport={"width": size[0], "height": size[1]}, **context)
    made.set_default_timeout(20_000)
    try:
        yield Screen(made.new_page())
    finally:
        made.close()
