"""The page in a real browser, offline: what it shows is what the model computed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import fseg.glyphs
import probe
from tests import zoo
from tests.system.browser import Tab, needs_chromium, open_tab

pytestmark = [pytest.mark.slow, needs_chromium]


@dataclass
class Shown:
    """A page in the browser, and its trace."""

    trace: probe.Trace
    path: Path
    browsed: Tab

    @property
    def tab(self) -> Any:
        return self.browsed.page

    @property
    def complaints(self) -> list[str]:
        return self.browsed.complaints

    @property
    def readout(self) -> dict[str, str]:
        return dict(self.tab.locator(".readout").evaluate("element => ({...element.dataset})"))

    def point(self, row: int, col: int, panel: int = 0) -> float:
        """The value that is read with the pointer on a cell."""
        grid = self.trace.tokens[0].layouts[0].grid()
        x0, y0, x1, y1 = grid.cell_box(row, col)
        canvas = self.tab.locator(".panels canvas").nth(panel)
        across, down = canvas.evaluate("canvas => [canvas.clientWidth, canvas.clientHeight]")
        canvas.hover(position={"x": 2 + (x0 + x1) / 2 * across / grid.image_size[1], "y": 2 + (y0 + y1) / 2 * down / grid.image_size[0]})
        assert self.readout["cell"] == str(row * grid.cols + col)
        return float(self.readout["value"])


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    image = fseg.glyphs.scene(1).image
    model = probe.load(fseg.glyphs.llava_folder(), resize="stretch", tiles=False)
    answer = model.encode(image, "Is there a cat?").with_answer("yes, it contains a cat. <script>document.title = 'run'</script>")
    trace = model.run(answer, [probe.Attention("all", query="answer", key="image"), probe.Hidden("all", at=("image", "answer"))])
    likely = model.lens(trace.hidden(("image", "answer")), top=3)
    path = probe.views.page(trace, image, to=tmp_path_factory.mktemp("page") / "page.html", likely=likely, tokens=64)
    with open_tab() as browsed:
        browsed.page.goto(path.as_uri())
        browsed.page.wait_for_selector(".matrix canvas")
        yield Shown(trace, path, browsed)


def test_the_widget_shows_the_same_in_an_element_of_a_notebook(shown: Shown) -> None:
    image = fseg.glyphs.scene(1).image
    widget = probe.views.widget(shown.trace, image, tokens=64)
    tab, complaints = shown.tab.context.new_page(), []
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.set_content(f"<style>{widget._css}</style><div id=cell></div>")
    tab.evaluate(
        """async ([module, packed]) => {
            const loaded = await import("data:text/javascript;base64," + btoa(unescape(encodeURIComponent(module))));
            const el = document.getElementById("cell");
            await loaded.default.render({ model: { get: () => packed }, el });
        }""",
        [widget._esm, widget.packed],
    )
    tab.wait_for_selector(".matrix canvas")
    assert tab.locator("#cell [role=radio]").count() == shown.tab.locator("[role=radio]").count()
    assert "body" not in widget._css  # a notebook's own page is left as it is
    assert complaints == []
    tab.close()


def test_the_page_shows_what_was_read_and_asks_no_network(shown: Shown, tmp_path: Path) -> None:
    tab, trace = shown.tab, shown.trace
    assert shown.path.stat().st_size < 1_000_000
    # A token is clicked: it is the query.
    cat = trace.tokens[0].word("cat").positions[0]
    tab.get_by_role("radio", name="cat", exact=True).click()
    assert f"a={cat}.attention." in tab.url
    # The slider goes to block 6; the page's value is the tensor's, within 1/255 of its range.
    tab.locator("label", has_text="Layer").locator("input").fill("6")
    place = trace.tokens[0].resolve("answer").index(cat)
    rows = trace.attention(layer=6).grid().data[0, :, place]  # (head, row, col)
    row, col = divmod(int(rows[0].argmax()), rows.shape[-1])
    assert shown.point(row, col) == pytest.approx(float(rows[0, row, col]), abs=float(rows[0].max() - rows[0].min()) / 255)
    assert "likeliest there" in tab.locator(".readout").inner_text()
    # Sorted by mass, the first map is the head that looks at the image most.
    tab.locator("label", has_text="Order").locator("select").select_option("mass")
    mass = trace.attention().data[:, 0, :, place].sum(-1)  # (layer, head)
    tab.locator(".matrix canvas").click(position={"x": 10, "y": 10})
    assert shown.readout["map"] == str(int(mass.argmax()))
    block, head = divmod(int(mass.argmax()), mass.shape[1])
    assert f"block {block}, head {head}" in tab.locator("figcaption").inner_text()
    # A second panel shows the cosine to the same word, by keys alone.
    tab.keyboard.press("c")
    tab.keyboard.press("m")
    layer = int(re.search(rf"b={cat}\.cosine\.(\d)\.", tab.url)[1])
    image, word = trace.hidden("image", layer=layer).data[0], trace.hidden(cat, layer=layer).data[0]
    cosine = torch.cosine_similarity(image, word, dim=-1).reshape(rows.shape[1:])
    assert shown.point(row, col, panel=1) == pytest.approx(float(cosine[row, col]), abs=float(cosine.max() - cosine.min()) / 255)
    # The address says it all: opened anew, the page is the same.
    tab.keyboard.press("t")
    address = tab.url
    assert "theme=dark" in address
    tab.goto("about:blank")
    tab.goto(address)
    tab.wait_for_selector(".matrix canvas")
    assert tab.url == address
    assert tab.locator("figcaption").all_inner_texts()[1] == f"cosine to “cat”, hidden state {layer}"
    with tab.expect_download() as download:
        tab.keyboard.press("p")
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")
    shown.browsed.check_widths(tmp_path, "page")
    assert tab.title() != "run"
    shown.browsed.check_quiet(shown.path)


def test_pages_with_less_in_them_open_without_complaint(shown: Shown, wide_image: Image.Image, tmp_path: Path) -> None:
    hf, processor = zoo.llava()
    model = probe.load(model=hf, processor=processor)
    answer = model.encode(wide_image, "Is there a cat?").with_answer("yes, a cat")
    bare = probe.load(model=hf).run(answer.inputs, probe.Attention([1, 2], query=-1, key="image"))
    states, logits = (model.run(answer, read) for read in (probe.Hidden([3], at=("image", "answer")), probe.Logits(at=-1)))
    for trace, said in ((bare, "on the image"), (states, "hidden state 3"), (logits, "")):
        shown.tab.goto(probe.views.page(trace, wide_image, to=tmp_path / "page.html", overwrite=True).as_uri())
        shown.tab.wait_for_selector(".controls button")
        for key in ("ArrowLeft", "ArrowDown", "h", "m", "s", "c", "x", "o", "t"):
            shown.tab.keyboard.press(key)
        assert said in shown.tab.locator(".readout").inner_text()
    assert shown.complaints == []


def test_without_javascript_there_is_a_sentence_and_the_overlay(shown: Shown) -> None:
    context = shown.tab.context.browser.new_context(java_script_enabled=False, offline=True)
    tab = context.new_page()
    tab.goto(shown.path.as_uri())
    assert "needs JavaScript" in tab.locator("noscript").inner_text()
    assert "<script>document.title" in tab.locator("noscript").inner_text()
    assert tab.locator("noscript img").evaluate("image => image.naturalWidth") > 100
