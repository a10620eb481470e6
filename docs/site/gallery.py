"""Makes the pictures of docs/gallery.md by the code on that page: `python docs/site/gallery.py`."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

PAGE = Path(__file__).parents[1] / "gallery.md"
SIZE = {"width": 1280, "height": 800}
"""Of a screenshot, in pixels."""
KEYS = {"trace": "cmx", "result": ""}
"""What is pressed before a screenshot: a trace is compared with the cosine."""


def code(page: Path) -> str:
    """The Python of a page, from top to bottom."""
    return "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))


def take_screenshots(folder: Path) -> None:
    """A PNG beside each HTML file of the folder."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for path in folder.glob("*.html"):
            tab = browser.new_context(viewport=SIZE, color_scheme="light", offline=True).new_page()
            tab.goto(path.as_uri())
            tab.add_style_tag(content=".family { display: none }")  # it names the model's folder on this machine
            tab.get_by_role("radio", name="cat").last.click()
            for key in KEYS[path.stem]:
                tab.keyboard.press(key)
            tab.screenshot(path=path.with_suffix(".png"))
        browser.close()


def main() -> None:
    """Run the page's code in an empty folder, and keep its pictures with 128 colours: a third of the bytes."""
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        folder = Path(name)
        exec(compile(code(PAGE), str(PAGE), "exec"), {})
        take_screenshots(folder)
        kept = PAGE.with_suffix("")
        kept.mkdir(exist_ok=True)
        for path in folder.glob("*.png"):
            Image.open(path).convert("RGB").quantize(128).save(kept / path.name, optimize=True)


if __name__ == "__main__":
    main()
