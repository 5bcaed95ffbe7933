"""The chat page in a real browser, and an eye on what it does behind its reader's back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, Request


class Visit:
    """One look at the page.

    Attributes:
        page: Playwright's.
        expected: Complaints of the browser that the test provokes, by a piece of their text.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.expected: list[str] = []
        self._complaints: list[str] = []
        self._foreign: list[str] = []
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self._complaints.append(str(error)))
        page.on("request", self._on_request)

    def ask(self, text: str) -> None:
        """Type a question and press Enter."""
        self.page.locator("#question").focus()
        self.page.keyboard.insert_text(text)
        self.page.keyboard.press("Enter")
        self.page.wait_for_selector("#send.busy")

    def wait_idle(self) -> None:
        """Wait until nothing is being answered."""
        self.page.wait_for_selector("#send:not(.busy)", timeout=90_000)

    def answer(self) -> str:
        """Return the words of the last answer."""
        return str(self.page.locator(".assistant .said").last.inner_text())

    def wait_text(self, length: int) -> None:
        """Wait until the last answer has so many letters."""
        script = "n => [...document.querySelectorAll('.assistant .said')].at(-1)?.innerText.length >= n"
        self.page.wait_for_function(script, arg=length, timeout=60_000)

    def settings(self, **values: object) -> None:
        """Fill in the settings."""
        self.page.keyboard.press("Alt+s")
        for name, value in values.items():
            self.page.fill(f"#settings-dialog [name={name}]", str(value))
        self.page.click("#settings-dialog button[type=submit]")

    def check(self) -> None:
        """See that the browser complained of nothing, and that nobody else was asked."""
        unexpected = [text for text in self._complaints if not any(each in text for each in self.expected)]
        assert not unexpected, unexpected
        assert not self._foreign, self._foreign

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._complaints.append(message.text)

    def _on_request(self, request: Request) -> None:
        if urlsplit(request.url).hostname not in ("127.0.0.1", None):
            self._foreign.append(request.url)


@contextmanager
def visit(browser: Browser, url: str, key: str, **options: Any) -> Iterator[Visit]:
    """Open the page in a fresh profile of a browser, and check at the end what it did."""
    options = {"viewport": {"width": 1280, "height": 800}, **options}
    context = browser.new_context(http_credentials={"username": "anyone", "password": key}, **options)
    visited = Visit(context.new_page())
    visited.page.goto(url)
    visited.page.wait_for_selector("#model-state .dot")
    try:
        yield visited
        visited.check()
    finally:
        context.close()
