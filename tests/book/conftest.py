"""Shared by the book's tests: its pages, the built site, a server, and a headless Chromium."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from book_site import SITE, counts
from playwright.sync_api import BrowserContext, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = [
    "--no-sandbox",  # it works neither for root nor in most containers, and the pages are our own
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing can leave this machine
]
NO_BROWSER = (
    "no Chromium found, so the pages were not opened; get it with `apt-get install chromium` "
    "or name one in the environment variable CHROMIUM"
)


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Say nothing: the tests' output is for their results."""


@pytest.fixture(scope="session")
def site() -> dict[str, str]:
    """Address of the built site by scheme, ``http`` and ``file``."""
    assert (SITE / "index.html").exists(), "the book is not built, run `make book`"
    handler = partial(_QuietHandler, directory=str(SITE))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {"http": f"http://127.0.0.1:{server.server_port}", "file": SITE.as_uri()}
        server.shutdown()


@pytest.fixture(scope="session")
def browser() -> Iterator[BrowserContext]:
    """A headless Chromium with one cache; skips with a clear reason where there is none."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        pytest.skip(NO_BROWSER)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=OPTIONS)
        yield chromium.new_context(color_scheme="light")
        chromium.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was looked at, so that a test that looked at nothing is seen."""
    if counts:
        seen = ", ".join(f"{n} {what}" for what, n in sorted(counts.items()))
        terminalreporter.write_line(f"In Chromium: {seen}.")
