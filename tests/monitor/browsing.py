"""A real browser for tests: what it complains about, and where it wants to go, is written down."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.pictures import chromium

needs_browser = pytest.mark.skipif(chromium() is None, reason="no chromium on this machine (apt-get install chromium)")


@dataclass
class Visit:
    """A page that is open.

    Attributes:
        page: The browser's side.
        complaints: Errors and warnings of its console, and faults of its scripts.
        abroad: Requests that would have left this machine.
    """

    page: Page
    complaints: list[str] = field(default_factory=list)
    abroad: list[str] = field(default_factory=list)

    def wait(self, is_there: Callable[[], object], timeout: float = 10.0) -> float:
        """Wait until something holds; return the seconds it took."""
        began = time.monotonic()
        while not is_there():
            assert time.monotonic() - began < timeout, (
                f"not within {timeout:g} s: {self.page.inner_text('body')[:2000]}"
            )
            self.page.wait_for_timeout(50)
        return time.monotonic() - began

    def count(self, selector: str) -> int:
        """Elements that match and can be seen."""
        return self.page.locator(selector).locator("visible=true").count()

    def text(self, selector: str) -> str:
        """What the first match reads."""
        return self.page.locator(selector).first.inner_text()


@contextmanager
def browsing() -> Iterator[Browser]:
    """Run a browser until the block is left. No test beside it may run a loop on this thread."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visiting(browser: Browser, url: str, *, width: int = 1360, height: int = 900, **options: Any) -> Iterator[Visit]:
    """Open `url`; at the end nothing was asked of other machines, and neither page nor browser had complained."""
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    visit = Visit(context.new_page())

    def pass_on(route: Any) -> None:
        if urlsplit(route.request.url).hostname == "127.0.0.1":
            route.continue_()
        else:
            visit.abroad.append(route.request.url)
            route.abort()

    context.route("**/*", pass_on)
    visit.page.on("console", lambda said: said.type in ("error", "warning") and visit.complaints.append(said.text))
    visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    try:
        visit.page.goto(url)
        yield visit
        assert visit.complaints == [] and visit.abroad == []
    finally:
        context.close()
