"""Where each family's image tokens lie on the image: proved by painting over one cell of it and looking which token moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import probe
from probe.errors import LoadError
from tests import processors
from tests.families.daily import daily

SHAPES = {"wide": (96, 160), "tall": (200, 64), "small": (24, 20)}

# Tiles of 28 pixels with 7 to a patch; 2 x 2 patches are one token where there is a base view of 2 x 2, and in Qwen-VL (4 to a patch).
EXPECTED_GRIDS: dict[str, tuple[str, str, str]] = {
    "vipllava": ("image 4x4", "image 4x4", "image 4x4"),
    "internvl": ("tiles 4x6, base 2x2", "tiles 6x2, base 2x2", "image 2x2"),
    "aya_vision": ("tiles 4x6, base 2x2", "tiles 6x2, base 2x2", "image 2x2"),
    "cohere2_vision": ("tiles 4x6, base 2x2", "tiles 8x2, base 2x2", "image 2x2"),
    "ovis2": ("base 2x2, tiles 6x4", "base 2x2, tiles 2x8", "image 2x2"),
    "lfm2_vl": ("tiles 4x6, base 2x3", "tiles 6x2, base 5x1", "image 3x2"),
    "idefics3": ("tiles 6x8, base 2x2", "tiles 8x4, base 2x2", "tiles 8x8, base 2x2"),
    "smolvlm": ("tiles 4x6, base 2x2", "tiles 6x2, base 2x2", "tiles 6x6, base 2x2"),
    "qwen2_vl": ("image 4x7", "image 9x3", "image 3x2"),
    "qwen2_5_vl": ("image 4x7", "image 9x3", "image 3x2"),
    "qwen3_vl": ("image 4x7", "image 9x3", "image 3x2"),
    "glm4v": ("image 4x7", "image 9x3", "image 3x2"),
    "mistral3": ("image 4x6", "image 6x2", "image 2x2"),
    "pixtral": ("image 4x6", "image 6x2", "image 4x3"),
    "paligemma": ("image 4x4", "image 4x4", "image 4x4"),
    "gemma3": ("image 2x2", "image 2x2", "image 2x2"),
    "llava_onevision": ("base 4x4, tiles 6x10", "base 4x4, tiles 13x4", "base 4x4, tiles 4x4"),
    "llama4": ("tiles 4x6, base 2x2", "tiles 8x2, base 2x2", "image 2x2"),
    "perception_lm": ("base 2x2, tiles 4x6", "base 2x2, tiles 6x2", "base 2x2, tiles 6x4"),
    "janus": ("image 8x8", "image 8x8", "image 8x8"),
    "fast_vlm": ("image 4x4", "image 4x4", "image 4x4"),
    "got_ocr2": ("image 16x16", "image 16x16", "image 16x16"),
    "chameleon": ("image 4x4", "image 4x4", "image 4x4"),
}
TILED = sorted(name for name, (wide, _, _) in EXPECTED_GRIDS.items() if "tiles" in wide)
# An image that the tower sees in one view: below the size of a tile in families that cut tiles.
ONE_VIEW = {name: "small" if name in TILED else "wide" for name, grids in EXPECTED_GRIDS.items() if any("image" in grid for grid in grids)}


def opened(name: str) -> probe.Probe:
    hf, processor = processors.build(name)
    return probe.load(model=hf, processor=processor)


def noise_image(shape: str, seed: int = 0, times: int = 1) -> Image.Image:
    """Blocks of 4 x 4 pixels, each channel black or white, so that the opposite of a cell is far from it everywhere."""
    height, width = (times * edge for edge in SHAPES[shape])
    blocks = np.random.default_rng(seed).integers(0, 2, (height // 4, width // 4, 3), dtype=np.uint8) * 255
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC)


def shows(image: Image.Image, box: tuple[float, float, float, float]) -> bool:
    """Whether a box lies on the image, not on the padding around it."""
    return min(box) > -0.5 and box[2] < image.width + 0.5 and box[3] < image.height + 0.5


def inverted(image: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
    """The image with the pixels in a box turned to their opposites."""
    left, top, right, bottom = (max(round(edge), 0) for edge in box)
    pixels = np.array(image)
    pixels[top:bottom, left:right] = 255 - pixels[top:bottom, left:right]
    return Image.fromarray(pixels)


@pytest.mark.slow
def test_every_family_that_has_grids_has_them_written_down() -> None:
    assert set(EXPECTED_GRIDS) == {name for name in processors.FAMILIES if not opened(name).backbone.no_grid_reason}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", daily(EXPECTED_GRIDS))
def test_painting_a_cell_moves_its_own_token_most(name: str, shape: str) -> None:
    model = opened(name)
    report = probe.verify(model, noise_image(shape, times=4 if name == "got_ocr2" else 1), cells=2)
    assert report.passed, str(report)
    assert set(report.left_out) == (set() if model.modules.vision_blocks else {"Vision"})
    grids = [check.what for check in report.checks if check.what.startswith("Grid")]
    wanted = [grid.split(" ") for grid in EXPECTED_GRIDS[name][list(SHAPES).index(shape)].split(", ")]
    assert grids == [f"Grid {view!r}, {size.replace('x', ' x ')}" for view, size in wanted]


@pytest.mark.parametrize("name", daily(EXPECTED_GRIDS))
def test_the_image_span_is_every_image_token_of_the_layout(name: str) -> None:
    model = opened(name)
    encoding = model.encode(noise_image("wide"), "What is this?")
    (layout,) = encoding.tokens.layouts
    assert layout is not None
    places = (encoding.inputs["input_ids"][0] == model.modules.image_token_id).nonzero().flatten().tolist()
    assert list(encoding.tokens.span("image").positions) == places
    assert sorted(index for grid in layout.grids for index in grid.tokens) == sorted(set(range(len(places))) - set(layout.separators))
    assert encoding.tokens.text("question") == "What is this?"


@pytest.mark.parametrize("name", daily(EXPECTED_GRIDS))
def test_each_of_two_images_has_its_own_tokens(name: str) -> None:
    second = "wide" if name == "perception_lm" else "tall"  # its processor stacks images of as many tiles
    model, wide = opened(name), noise_image("wide")
    one = model.encode([wide, noise_image(second)], "What are these?")
    other = model.encode([wide, noise_image(second, seed=1)], "What are these?")
    assert [layout.tokens for layout in one.tokens.layouts if layout] == [len(image) for image in one.tokens.images]
    assert one.tokens.layouts[1].grids[0].image_size == SHAPES[second]  # type: ignore[union-attr]
    reads = probe.Hidden([0], at=("image 0", "image 1"))
    moved = (model.run(one, reads).hidden(layer=0).data - model.run(other, reads).hidden(layer=0).data)[0].norm(dim=-1)
    first = len(one.tokens.images[0])
    assert float(moved[:first].max()) < 1e-4  # a tower that takes all patches at once sums them in another order
    cells = [first + index for grid in one.tokens.layouts[1].grids for index in grid.tokens]  # type: ignore[union-attr]
    assert float(moved[cells].min()) > 1e-3


@pytest.mark.parametrize("name", daily(sorted(set(ONE_VIEW) - {"lfm2_vl", "fast_vlm", "chameleon"})))
def test_painting_a_cell_moves_its_own_patches_in_the_tower(name: str) -> None:
    model, image = opened(name), noise_image(ONE_VIEW[name], times=4 if name == "got_ocr2" else 1)

    def look(shown: Image.Image) -> tuple[torch.Tensor, Any, Any]:
        trace = model.run(model.encode(shown, "What?"), [probe.Vision([0]), probe.Projected()])
        patches = trace.vision(layer=0)
        return patches.grid().data[0], patches.layout.grid(), trace.projected().layout.grid()  # type: ignore[union-attr]

    before, patches, cells = look(image)
    inside = [box for box in (cells.cell_box(row, col) for row in range(cells.rows) for col in range(cells.cols)) if shows(image, box)]
    for box in (inside[0], inside[len(inside) // 2], inside[-1]):
        x0, y0, x1, y1 = box
        moved = (look(inverted(image, box))[0] - before).norm(dim=-1)
        left, top, right, bottom = patches.cell_box(*divmod(int(moved.argmax()), patches.cols))
        assert x0 < (left + right) / 2 < x1
        assert y0 < (top + bottom) / 2 < y1


@pytest.mark.parametrize("name", daily(processors.FAMILIES))
def test_an_answer_is_read_as_it_was_generated(name: str) -> None:
    model = opened(name)
    answer = model.generate(model.encode(noise_image("small"), "What is this?"), max_new_tokens=4, min_new_tokens=4)
    logits = model.run(answer, probe.Logits(at=None)).logits(None).data[0]
    written = answer.tokens.ids[answer.prompt_length :]
    assert len(written) == 4
    assert logits[answer.prompt_length - 1 : -1].argmax(dim=-1).tolist() == list(written)


def test_idefics_shows_one_view_where_its_processor_does_not_split(monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened("idefics3")
    monkeypatch.setattr(model.processor.image_processor, "do_image_splitting", False)
    report = probe.verify(model, noise_image("wide"), cells=3)
    assert report.passed, str(report)
    assert report.checks[-1].what == "Grid 'image', 2 x 2"


@pytest.mark.slow
def test_got_ocr_cuts_tiles_where_its_processor_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened("got_ocr2")
    monkeypatch.setattr(model.processor, "images_kwargs", {"crop_to_patches": True, "min_patches": 1, "max_patches": 6})
    report = probe.verify(model, noise_image("wide", times=4), cells=3)
    assert report.passed, str(report)
    assert [check.what for check in report.checks[-2:]] == ["Grid 'tiles', 32 x 48", "Grid 'base', 16 x 16"]


@pytest.mark.parametrize("name", TILED)
def test_tiles_are_not_left_out_in_silence(name: str) -> None:
    hf, processor = processors.build(name)
    with pytest.raises(LoadError, match="does not say how an image is laid out when it is resized directly"):
        probe.load(model=hf, processor=processor, tiles=False)
