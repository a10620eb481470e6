"""A real browser, offline: what it complained of, and what it asked for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: apt-get install chromium (CONTRIBUTING.md)")


@dataclass
class Tab:
    """A tab, as Playwright has it, with all that the browser complained of or asked for."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url.split("#")[0]))

    def check_quiet(self, *files: Path) -> None:
        """Nothing was complained of, and nothing asked for but these files."""
        assert self.complaints == []
        assert {request for request in self.requests if not request.startswith(("blob:", "data:"))} <= {file.as_uri() for file in files}

    def check_widths(self, folder: Path, name: str) -> None:
        """Nothing is wider than a telephone, and each width has a picture to look at."""
        for width in (1280, 800, 400):
            self.page.set_viewport_size({"width": width, "height": 900})
            self.page.screenshot(path=folder / f"{name}-{width}.png", full_page=True)
            assert self.page.evaluate("document.documentElement.scrollWidth") == width


@contextmanager
def open_tab() -> Iterator[Tab]:
    """A tab of a browser that is offline."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield Tab(browser.new_context(viewport={"width": 1280, "height": 900}, offline=True).new_page())
        browser.close()
