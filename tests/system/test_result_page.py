"""A result's page in a real browser, offline: what it recomputes is what the pipeline computes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fseg
import fseg.glyphs
from fseg.drawing.page.content import STEPS, gathered
from fseg.evaluation.pages import write_pages
from fseg.evaluation.run.job import Job
from fseg.evaluation.run.runner import evaluate
from fseg.evidence import Evidence
from fseg.glyphs.make import write_voc
from fseg.result import Result
from fseg.sweep import Sweep
from probe.views.page.packing import pack
from probe.views.page.shell import page_script, resource
from tests.system.browser import Tab, needs_chromium, open_tab

pytestmark = [pytest.mark.slow, needs_chromium]

COMPUTED = "computed"
THRESHOLDS = {"low": (0.3, 0.1), "high": (0.9, 0.6), "between": (0.615, 0.335), "nothing left": (1.0, 0.9)}
KINDS = ("distance", "response", "guide", "prototype_mask", "refined")

RECOMPUTE = """async ([module, packed, values]) => {
    const loaded = await import("data:text/javascript;base64," + btoa(unescape(encodeURIComponent(module))));
    const { header, arrays } = await loaded.unpack(packed);
    const outcome = new loaded.Outcome(header, arrays);
    return values.map(([alpha, beta]) => {
        const { classes, background } = outcome.at({ alpha, beta });
        const plain = ([number, maps]) => [header.classes[number].name, Object.fromEntries(
            Object.entries(maps).map(([kind, map]) => [kind, map.length ? [...map] : map]))];
        return { background, classes: Object.fromEntries([...classes].map(plain)) };
    });
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Tab]:
    with open_tab() as opened:
        yield opened


@pytest.fixture(scope="module")
def segmenter() -> fseg.Segmenter:
    return fseg.Segmenter()


@pytest.fixture(scope="module")
def results(segmenter: fseg.Segmenter) -> dict[str, Result]:
    """One scene with the recipe's alpha and beta, and with others."""
    return swept(segmenter, {})


def swept(segmenter: fseg.Segmenter, changes: dict[str, object]) -> dict[str, Result]:
    recipe = segmenter.recipe.with_(changes)
    others = {name: recipe.with_({"respond.alpha": alpha, "respond.beta": beta}) for name, (alpha, beta) in THRESHOLDS.items()}
    return Sweep(segmenter, {COMPUTED: recipe, **others})(fseg.glyphs.scene(4, split="held-out").image, fseg.glyphs.CLASSES)


def recomputed(browser: Tab, result: Result, values: list[tuple[float, float]]) -> list[dict[str, Any]]:
    """What the page's script computes from a result at other alphas and betas."""
    page = browser.page.context.new_page()
    script = page_script(resource("page.js", "fseg.drawing.page"))
    found: list[dict[str, Any]] = page.evaluate(RECOMPUTE, [script, pack(*gathered(result)), values])
    page.close()
    return found


def undecided(e: Evidence) -> torch.Tensor:
    """The cells whose M_v the 16 bits of the cosines leave open.

    Each cosine is off by at most h = half a step, so the dot product of a unit feature with a prototype of summed norms s by at most h s, and its
    cosine, with a prototype of length p, by at most h s / p (1 + s / 2p).
    """
    assert e.features is not None
    assert e.guide is not None
    cells, guide = e.features.flatten(0, 1).double(), e.guide.flatten()
    unit = torch.nn.functional.normalize(cells, dim=-1)
    half = float((unit @ unit.T).max() - (unit @ unit.T).min()) / STEPS / 2
    cosines, bounds = [], []
    for side in (guide, ~guide):
        total = cells[side].sum(0)
        share = float(cells[side].norm(dim=-1).sum() / total.norm().clamp(min=1e-12))
        cosines.append(torch.cosine_similarity(cells, total[None], dim=-1))
        bounds.append(half * share * (1 + share / 2))
    return (cosines[0] - cosines[1]).abs() <= sum(bounds) + 1e-6  # the pipeline's own float32


def check_alike(found: dict[str, Any], expected: Result) -> int:
    """D, D_f and M^_f are equal in every bit; M_v and M_r in every cell that is decided. The cells that were compared."""
    compared = 0
    for name in expected.present:
        e, maps = expected.evidence[name], found["classes"][name]
        for kind in KINDS:
            wanted = getattr(e, kind).flatten().numpy()
            differs = np.array(maps[kind], dtype=wanted.dtype) != wanted
            open_ = undecided(e).numpy() if kind in ("prototype_mask", "refined") and e.guide.any() else np.zeros_like(differs)
            assert not (differs & ~open_).any(), (name, kind)
            assert open_.mean() < 0.02, (name, kind)
            compared += int((~open_).sum())
    return compared


def test_the_script_recomputes_equations_4_to_12_as_the_pipeline_does(browser: Tab, results: dict[str, Result]) -> None:
    result = results[COMPUTED]
    assert len(result.present) == 4
    assert any(not results["nothing left"].evidence[name].guide.any() for name in result.present)
    values = [(0.75, 0.2), *THRESHOLDS.values()]
    for found, expected in zip(recomputed(browser, result, values), results.values(), strict=True):
        assert check_alike(found, expected) > 0.98 * 4 * len(KINDS) * 14 * 14


def test_another_fusion_and_other_masks_are_recomputed_by_the_recipe(browser: Tab, segmenter: fseg.Segmenter) -> None:
    changes = {"respond.fusion": "D", "refine.mask": "M_v", "refine.beta": 0.3, "refine.fallback": True}
    others = swept(segmenter, changes)
    assert others["high"].recipe.refine.beta == 0.3  # set apart from respond.beta, it stays
    values = [(0.75, 0.2), *THRESHOLDS.values()]
    for found, expected in zip(recomputed(browser, others[COMPUTED], values), others.values(), strict=True):
        check_alike(found, expected)


def test_the_page_shows_each_step_and_asks_no_network(browser: Tab, results: dict[str, Result], tmp_path: Path) -> None:
    tab, result = browser.page, results[COMPUTED]
    path = result.page(tmp_path / "result.html")
    assert path.stat().st_size < 1_000_000
    tab.goto(path.as_uri())
    tab.wait_for_selector(".panels canvas")
    assert "as they were computed" in tab.locator(".notes").inner_text()
    assert tab.locator("tr", has_text="gear").locator(".answer").inner_text() == result.evidence["gear"].answer
    tab.get_by_role("radio", name="gear", exact=True).click()
    e = result.evidence["gear"]
    assert f"M_r, the refined mask (Eq. 12): {int(e.refined.sum())} cells" in captions(tab)
    # With the pointer on a cell, each step's value there is the tensor's.
    row, col = divmod(int(e.raw_distance.argmax()), e.grid.cols)
    point(tab, e, row, col)
    assert read(tab) == pytest.approx({kind: float(values[row, col]) for kind, values in e.maps().items()}, rel=1e-6)
    # The sliders move: the maps are those of the pipeline at that alpha and beta, and what needs SAM says that it is not.
    alpha, beta = THRESHOLDS["between"]
    for name, value in (("alpha", alpha), ("beta", beta)):
        tab.locator(f"input[name={name}]").fill(str(value))
    moved = results["between"].evidence["gear"]
    assert int(moved.refined.sum()) != int(e.refined.sum())
    assert f"M_r, the refined mask (Eq. 12): {int(moved.refined.sum())} cells" in captions(tab)
    assert "SAM's mask (Eq. 13), at alpha 0.75, beta 0.2" in captions(tab)
    row, col = next(divmod(int(cell), e.grid.cols) for cell in (moved.distance != e.distance).flatten().nonzero()[0])
    point(tab, e, row, col)
    assert read(tab) == pytest.approx({kind: float(values[row, col]) for kind, values in moved.maps().items()}, rel=1e-6)
    # The address says it all: opened anew, the page is the same.
    tab.keyboard.press("t")
    address, seen = tab.url, captions(tab)
    assert "class=gear&alpha=0.615&beta=0.335" in address
    assert "theme=dark" in address
    tab.goto("about:blank")
    tab.goto(address)
    tab.wait_for_selector(".panels canvas")
    assert (tab.url, captions(tab)) == (address, seen)
    with tab.expect_download() as download:
        tab.keyboard.press("p")
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")
    browser.check_widths(tmp_path, "dark")
    # By keys alone: back to what was computed, and to the next class.
    for key in ("t", "r", "ArrowRight"):
        tab.keyboard.press(key)
    assert "alpha" not in tab.url
    assert "class=scissors" in tab.url
    browser.check_widths(tmp_path, "light")
    browser.check_quiet(path)


def test_a_result_without_any_class_has_its_page(browser: Tab, segmenter: fseg.Segmenter, tmp_path: Path) -> None:
    result = segmenter(fseg.glyphs.scene(1).image, ["star", "</script><script>document.title = 'run'</script>"])
    assert result.present == ()
    path = result.page(tmp_path / "none.html")
    browser.page.goto(path.as_uri())
    browser.page.wait_for_selector(".panels canvas")
    for key in ("ArrowRight", "a", "B", "r", "o", "t"):
        browser.page.keyboard.press(key)
    assert "is absent" in browser.page.locator(".readout").inner_text()
    assert browser.page.title() != "run"
    assert browser.complaints == []


def test_a_fusion_that_needs_the_model_says_so(browser: Tab, segmenter: fseg.Segmenter, tmp_path: Path) -> None:
    recipe = segmenter.recipe.with_({"respond.fusion": "relative"})
    result = Sweep(segmenter, {"relative": recipe})(fseg.glyphs.scene(1).image, ["cat"])["relative"]
    browser.page.goto(result.page(tmp_path / "relative.html").as_uri())
    browser.page.wait_for_selector(".panels canvas")
    browser.page.keyboard.press("b")
    assert "The fusion 'relative' needs the model" in " ".join(browser.page.locator(".notes").all_inner_texts())
    assert browser.complaints == []


def test_a_notebook_shows_the_same_in_a_frame(browser: Tab, results: dict[str, Result]) -> None:
    tab = browser.page.context.new_page()
    tab.set_content(results[COMPUTED].show()._repr_html_())
    tab.frame_locator("iframe").locator(".panels canvas").first.wait_for()
    tab.close()
    assert browser.complaints == []


def captions(tab: Any) -> list[str]:
    return list(tab.locator("figcaption").all_inner_texts())


def read(tab: Any) -> dict[str, float]:
    return dict(json.loads(tab.locator(".readout").get_attribute("data-values")))


def point(tab: Any, e: Evidence, row: int, col: int) -> None:
    """The pointer on a cell of the first image."""
    x0, y0, x1, y1 = e.grid.cell_box(row, col)
    height, width = e.grid.image_size
    canvas = tab.locator(".panels canvas").first
    across, down = canvas.evaluate("canvas => [canvas.clientWidth, canvas.clientHeight]")
    canvas.hover(position={"x": 2 + (x0 + x1) / 2 * across / width, "y": 2 + (y0 + y1) / 2 * down / height})
    assert tab.locator(".readout").get_attribute("data-cell") == str(row * e.grid.cols + col)


def test_the_index_of_a_run_sorts_its_classes_and_leads_to_the_worst_images(browser: Tab, tmp_path: Path) -> None:
    write_voc(tmp_path / "data", count=3, split="held-out")
    recipe = fseg.get_recipe("glyphs")
    job = Job("glyphs", tmp_path / "data", {recipe.name: recipe})
    results = evaluate(job, tmp_path / "run")
    index = write_pages(job, tmp_path / "run", results, 2)
    tab = browser.page
    tab.goto(index.as_uri())
    tab.wait_for_selector("table canvas")
    images, classes = (tab.locator("table").nth(number) for number in (0, 1))
    assert images.locator("canvas").count() == 4  # the ground truth and the prediction of each
    known = {name: iou for name, iou in results["classes"].items() if iou is not None}
    first = classes.locator("tr").nth(1)
    assert first.locator("td").first.inner_text() == min(known, key=known.__getitem__)
    tab.get_by_role("button", name="IoU", exact=True).click()
    tab.get_by_role("button", name="class", exact=True).click()
    assert first.locator("td").first.inner_text() == min(results["classes"])
    best = max(known, key=known.__getitem__)
    assert classes.locator("tr", has_text=best).locator("td").nth(1).inner_text() == f"{100 * known[best]:.1f}"
    address = tab.url
    assert "classes=0" in address
    tab.goto("about:blank")
    tab.goto(address)
    tab.wait_for_selector("table canvas")
    assert tab.url == address
    browser.check_widths(tmp_path, "index")
    images.locator("a").first.click()
    tab.wait_for_selector(".panels canvas")
    assert "/run/pages/" in tab.url
    assert browser.complaints == []
    assert all(request.startswith(("file:", "blob:", "data:")) for request in browser.requests)
