"""`probe.verify`: passes on models that are read rightly, and finds what is wrong in those that are not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import probe
from fseg.glyphs import llava_folder
from probe.backbones import ProcessedImage
from probe.backbones.llava import Llava
from probe.backbones.llava_next import LlavaNext
from probe.tokens.layout import Grid, ImageLayout
from tests import processors, zoo
from tests.contract.test_grids import noise_image
from tests.families.daily import daily
from tests.processors.native import NATIVE
from tests.processors.square import SQUARE
from tests.processors.tiled import TILED

CASES: dict[str, tuple[Callable[[], tuple[Any, Any]], dict[str, Any]]] = {
    "llava": (zoo.llava, {}),
    "llava-stretched": (zoo.llava, {"resize": "stretch", "tiles": False}),
    "llava-bfloat16": (zoo.llava, {"dtype": "bfloat16"}),
    "llava_next-tiles": (zoo.llava_next, {}),
    "llava_next-base": (zoo.llava_next, {"tiles": False}),
}


@pytest.mark.parametrize("name", CASES)
def test_models_that_are_read_rightly_pass(name: str) -> None:
    build, options = CASES[name]
    hf, processor = build()
    report = probe.verify(probe.load(model=hf, processor=processor, **options))
    assert report.passed, str(report)
    assert report.left_out == {}
    grids = [check.what for check in report.checks if check.what.startswith("Grid")]
    assert grids == (["Grid 'base', 4 x 4", "Grid 'tiles', 4 x 8"] if name == "llava_next-tiles" else ["Grid 'image', 4 x 4"])


@pytest.mark.parametrize("name", daily(["video_llava", "llava_next_video"]))
def test_families_laid_out_like_llava_can_be_stretched(name: str) -> None:
    hf, processor = (SQUARE | TILED)[name]()
    report = probe.verify(probe.load(model=hf, processor=processor, resize="stretch", tiles=False), noise_image("wide"), cells=2)
    assert report.passed, str(report)
    assert report.checks[-1].what == ("Grid 'image', 16 x 16" if name == "video_llava" else "Grid 'image', 24 x 24")


# What Hugging Face returns as projected tokens is not what the first block takes (molmo2); the tower is called twice (step3p7).
@pytest.mark.parametrize("name", daily(["molmo2", "step3p7"]))
def test_families_with_states_of_their_own_pass(name: str) -> None:
    hf, processor = TILED[name]()
    report = probe.verify(probe.load(model=hf, processor=processor), noise_image("wide"), cells=1)
    assert report.passed, str(report)


@pytest.mark.parametrize(
    "options", [pytest.param({}, id="processor", marks=pytest.mark.slow), pytest.param({"resize": "stretch", "tiles": False}, id="stretch")]
)
def test_the_embedded_model_passes(options: dict[str, Any]) -> None:
    report = probe.verify(probe.load(llava_folder(), **options), cells=20)
    assert report.passed, str(report)


WRONG: dict[str, Callable[[Grid], Tensor]] = {
    "transposed": lambda grid: _cells(grid).T,
    "mirrored": lambda grid: _cells(grid).flip(1),
    "upside down": lambda grid: _cells(grid).flip(0),
    "a column too far": lambda grid: _cells(grid).roll(1, 1),
    "a row too far": lambda grid: _cells(grid).roll(1, 0),
}


def _cells(grid: Grid) -> Tensor:
    return torch.tensor(grid.tokens).reshape(grid.rows, grid.cols)


@pytest.mark.parametrize("change", daily(WRONG, {"mirrored", "a column too far"}))
def test_a_wrong_grid_of_a_trained_model_fails(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = probe.load(llava_folder())
    right = model.backbone.layout

    def wrong(*given: Any) -> ImageLayout:
        layout = right(*given)
        assert layout is not None
        (grid,) = layout.grids
        return replace(layout, grids=(replace(grid, tokens=tuple(WRONG[change](grid).flatten().tolist())),))

    monkeypatch.setattr(model.backbone, "layout", wrong)
    report = probe.verify(model)
    (failed,) = [check for check in report.checks if not check.passed]
    assert failed.what == "Grid 'image', 14 x 14"
    assert failed.difference > 0.5


@pytest.mark.parametrize("name", [pytest.param("gemma3n", marks=pytest.mark.slow), "glm5_next", "qwen4_exp"])
def test_the_grid_of_residual_streams_is_painted_at_the_first_state(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hf, processor = (NATIVE | SQUARE)[name]()
    model, image = probe.load(model=hf, processor=processor), noise_image("wide")
    report = probe.verify(model, image, cells=2)
    assert report.passed, str(report)
    assert "Projected" in report.left_out
    assert report.checks[-1].what.startswith("Grid 'image'")
    right = model.backbone.layout

    def turned(given: ProcessedImage) -> ImageLayout:
        layout = right(given)
        assert layout is not None
        grid = layout.grid()
        return replace(layout, grids=(replace(grid, tokens=tuple(reversed(grid.tokens))),))

    monkeypatch.setattr(model.backbone, "layout", turned)
    assert [check.what for check in probe.verify(model, image, cells=2).checks if not check.passed] == [report.checks[-1].what]


def test_a_check_that_cannot_be_made_is_not_passed() -> None:
    # 4 x 4 cells on 6 x 6 pixels: none is two pixels wide.
    hf, processor = zoo.llava()
    report = probe.verify(probe.load(model=hf, processor=processor), Image.new("RGB", (6, 6)))
    assert all(check.passed for check in report.checks)
    assert not report.passed
    assert "FAIL  Grid 'image', 4 x 4 could not be checked: no cell lies on whole pixels of an image of 6 x 6" in str(report)


def _swapped(grid: Grid) -> Grid:
    """The same grid with its first two rows exchanged."""
    first, second, rest = grid.tokens[: grid.cols], grid.tokens[grid.cols : 2 * grid.cols], grid.tokens[2 * grid.cols :]
    return replace(grid, tokens=second + first + rest)


def test_two_rows_exchanged_in_the_layout_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = LlavaNext.layout

    def wrong(self: LlavaNext, image: ProcessedImage) -> ImageLayout:
        layout = right(self, image)
        assert layout is not None
        return replace(layout, grids=(layout.grids[0], _swapped(layout.grids[1])))

    monkeypatch.setattr(LlavaNext, "layout", wrong)
    hf, processor = zoo.llava_next()
    report = probe.verify(probe.load(model=hf, processor=processor), cells=32)
    assert [check.what for check in report.checks if not check.passed] == ["Grid 'tiles', 4 x 8"]
    assert "FAIL" in str(report)


QUICK = ("chameleon", "gemma3", "internvl", "mllama", "qwen2_5_vl")  # of each kind one; the others take half a minute


@pytest.mark.parametrize("name", daily(processors.FAMILIES, QUICK))
def test_a_saved_checkpoint_of_every_declared_family_passes(name: str, tmp_path: Path) -> None:
    report = probe.verify(probe.load(zoo.save(processors.build(name), tmp_path)), cells=1)
    assert report.passed, str(report)
    gridless = name in ("idefics2", "blip_2", "instructblip", "mllama")
    assert ("Grid" in report.left_out) == gridless
    assert any(check.what.startswith("Grid") for check in report.checks) != gridless


@pytest.mark.parametrize("name", daily(["llama4", "perception_lm", "janus", "fast_vlm", "got_ocr2", "chameleon"]))
def test_a_layout_turned_on_its_side_is_found_in_every_family(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hf, processor = processors.build(name)
    model = probe.load(model=hf, processor=processor)
    right = model.backbone.layout

    def wrong(*given: Any) -> ImageLayout:
        layout = right(*given)
        assert layout is not None
        return replace(layout, grids=tuple(_turned(grid) for grid in layout.grids))

    monkeypatch.setattr(model.backbone, "layout", wrong)
    report = probe.verify(model)
    assert not report.passed
    assert all(check.what.startswith("Grid") for check in report.checks if not check.passed)


def _turned(grid: Grid) -> Grid:
    """The same grid with its cells taken column by column."""
    return replace(grid, tokens=tuple(grid.tokens[row * grid.cols + col] for col in range(grid.cols) for row in range(grid.rows)))


def test_a_wrong_read_fails_and_float64_tells_it_from_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    right = probe.Trace.logits

    def wrong(self: probe.Trace, at: Any = None) -> Any:
        found = right(self, at)
        return found.map(found.data + 0.01)

    monkeypatch.setattr(probe.Trace, "logits", wrong)
    hf, processor = zoo.llava()
    report = probe.verify(probe.load(model=hf, processor=processor))
    (failed,) = [check for check in report.checks if not check.passed]
    assert failed.what == "Logits"
    assert failed.note == "in float64 it is 1.0e-02, so it is a bug"
    assert hf.dtype == torch.float32  # the repetition works on a copy


def test_a_family_without_a_layout_is_verified_but_for_its_grid(monkeypatch: pytest.MonkeyPatch, wide_image: Image.Image) -> None:
    monkeypatch.setattr(Llava, "layout", lambda *_: None)
    hf, processor = zoo.llava()
    report = probe.verify(probe.load(model=hf, processor=processor), wide_image)
    assert report.passed
    assert report.left_out == {"Grid": "llava does not say where its image tokens lie on the image"}
    assert hf.config._attn_implementation == "sdpa"
