"""LLaVA-like models with every kind of tower, and towers whose edge is no multiple of their patch: painted cells move their own tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image

import probe
from probe.errors import GridMismatch, GridUnknown
from tests import zoo
from tests.families.daily import daily
from tests.families.tiny import VISION
from tests.processors import build, real
from tests.processors.offline import Pair

STRETCHED: dict[str, Any] = {"resize": "stretch", "tiles": False}
SPACING = 6
"""Cells that are painted at once lie this far apart, so that none moves the tokens around another."""

# Model, how it is loaded, (height, width) of the image, whether its tiles are shrunk.
REAL: dict[str, tuple[Any, dict[str, Any], tuple[int, int]]] = {
    "llava-full": (lambda: real.llava("full"), {}, (480, 640)),
    "llava-default": (lambda: real.llava("default"), {}, (480, 640)),
    "llava-full-stretch": (lambda: real.llava("full"), STRETCHED, (480, 640)),
    "llava-default-stretch": (lambda: real.llava("default"), STRETCHED, (480, 640)),
    "llava_next-full-stretch": (lambda: real.llava_next("full"), STRETCHED, (480, 640)),
    "llava_next-default-stretch": (lambda: real.llava_next("default"), STRETCHED, (480, 640)),
    "granite-tiles": (real.llava_next, {}, (700, 1500)),
    "granite-tall": (real.llava_next, {}, (1400, 400)),
    "onevision-tiles": (real.llava_onevision, {}, (768, 1152)),
    "onevision-shrunk": (real.llava_onevision, {}, (1152, 1536)),
}
UNEVEN = [
    "aya_vision",
    "cohere2_vision",
    "gemma3",
    "idefics3",
    "internvl",
    "llama4",
    "llava_onevision",
    "ovis2",
    "paligemma",
    "smolvlm",
    "vipllava",
]


def opened(pair: Pair, **options: Any) -> probe.Probe:
    return probe.load(model=pair[0], processor=pair[1], **options)


def blocks(size: tuple[int, int], seed: int, edge: int = 4) -> Image.Image:
    """Squares of pixels, each channel black or white."""
    height, width = size
    coarse = np.random.default_rng(seed).integers(0, 2, (-(-height // edge), -(-width // edge), 3), dtype=np.uint8) * 255
    return Image.fromarray(np.kron(coarse, np.ones((edge, edge, 1), dtype=np.uint8))[:height, :width])


def painted(image: Image.Image, boxes: list[tuple[float, float, float, float]]) -> Image.Image:
    """The pixels in these boxes a fifth of the way to their opposites: little enough that tokens move as far as they see of it."""
    pixels = np.array(image)
    for box in boxes:
        left, top, right, bottom = (max(round(edge), 0) for edge in box)
        inside = pixels[top:bottom, left:right].astype(np.float64)
        pixels[top:bottom, left:right] = (inside + 0.2 * (255 - 2 * inside)).round()
    return Image.fromarray(pixels)


def astray(model: probe.Probe, size: tuple[int, int], starts: int | None, images: int) -> Iterator[str]:
    """The cells of every view whose painting moves a token near them more than their own.

    Args:
        starts: how many sets of cells are painted; None: as many as it takes to paint every cell.
        images: over how many images the movements are summed, since chance can be on one image.
    """

    def look(image: Image.Image) -> Any:
        return model.run(model.encode(image, "What is this?"), probe.Projected()).projected()

    shown = [blocks(size, seed) for seed in range(images)]
    before = [look(image) for image in shown]
    for grid in before[0].layout.grids:
        offsets = [(row, col) for row in range(SPACING) for col in range(SPACING)]
        for first_row, first_col in offsets[:: len(offsets) // starts] if starts else offsets:
            cells = [(row, col) for row in range(first_row, grid.rows, SPACING) for col in range(first_col, grid.cols, SPACING)]
            boxes = {cell: grid.cell_box(*cell) for cell in cells}
            seen = {cell: box for cell, box in boxes.items() if min(box) > -0.5 and box[2] < size[1] + 0.5 and box[3] < size[0] + 0.5}
            after = [look(painted(image, list(seen.values()))).data for image in shown]
            moved = sum((new - old.data)[0].norm(dim=-1) for new, old in zip(after, before, strict=True))
            folded = moved[list(grid.tokens)].reshape(grid.rows, grid.cols)  # type: ignore[index]
            for row, col in seen:
                near = folded[max(row - 3, 0) : row + 3, max(col - 3, 0) : col + 3]
                if folded[row, col] < near.max():
                    yield f"{grid.name} {row}, {col}"


@pytest.mark.parametrize("name", daily(REAL, REAL.keys() - {"onevision-shrunk"}))
def test_painted_cells_move_their_own_tokens_at_the_real_geometry(name: str) -> None:
    build_pair, options, size = REAL[name]
    assert list(astray(opened(build_pair(), **options), size, starts=2, images=3 if "shrunk" in name else 1)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_every_cell_moves_its_own_token_at_the_real_geometry(name: str) -> None:
    build_pair, options, size = REAL[name]
    assert list(astray(opened(build_pair(), **options), size, starts=None, images=3 if "shrunk" in name else 1)) == []


@pytest.mark.parametrize(("strategy", "tokens", "rows", "top"), [("full", 729, 27, 0.0), ("default", 728, 26, 14.0)])
def test_a_siglip_tower_has_no_class_token_to_count_or_to_drop(strategy: str, tokens: int, rows: int, top: float) -> None:
    # 768 x 1152 pixels are shown at 384 x 384, of which 378 x 378 lie in patches: of 14 x 14 there, 28 x 42 in the image.
    for options in ({}, STRETCHED):
        encoding = opened(real.llava(strategy), **options).encode(Image.new("RGB", (1152, 768)), "What is this?")
        (layout,) = encoding.tokens.layouts
        assert layout is not None
        assert len(encoding.tokens.span("image")) == layout.tokens == tokens
        grid = layout.grid()
        assert (grid.rows, grid.cols) == (rows, 27)
        assert grid.box == pytest.approx((0, 2 * top, 1152 * 378 / 384, 768 * 378 / 384))


def test_each_tile_has_its_own_unseen_edge() -> None:
    # One row of two tiles of 384 x 384 on an image of 384 x 768: the cells of the second tile begin at 384, not at 378.
    encoding = opened(real.llava_next()).encode(Image.new("RGB", (768, 384)), "What is this?")
    tiles = encoding.tokens.layouts[0].grid("tiles")  # type: ignore[union-attr]
    assert tiles.cell_box(0, 26) == pytest.approx((364, 0, 378, 14))
    assert tiles.cell_box(0, 27) == pytest.approx((384, 0, 398, 14))
    assert tiles.box == pytest.approx((0, 0, 762, 378))


@pytest.mark.parametrize("strategy", ["full", "default"])
def test_painted_patches_move_in_the_tower_where_they_lie(strategy: str) -> None:
    model, image = opened(real.llava(strategy)), blocks((480, 640), 0)

    def look(shown: Image.Image) -> Any:
        return model.run(model.encode(shown, "What?"), probe.Vision([0])).vision(layer=0).grid()

    before = look(image)
    assert (before.view.rows, before.view.cols) == (27, 27)
    for cell in ((0, 0), (13, 5), (26, 26)):
        moved = (look(painted(image, [before.view.cell_box(*cell)])).data - before.data)[0].norm(dim=-1)
        assert divmod(int(moved.argmax()), 27) == cell


def test_tiles_that_hugging_face_cannot_fold_are_refused() -> None:
    with pytest.raises(GridMismatch, match=r"27 x 27 cells, but vision_feature_select_strategy='default' leaves 728 tokens"):
        opened(real.llava_next("default")).encode(Image.new("RGB", (768, 384)), "What is this?")


TOWERS: dict[str, tuple[Any, int]] = {
    "clip": (hf.CLIPVisionConfig(**VISION), 1),
    "siglip": (hf.SiglipVisionConfig(**VISION), 0),
    "dinov2": (hf.Dinov2Config(**VISION), 1),
    "dinov2-registers": (hf.Dinov2WithRegistersConfig(**VISION, num_register_tokens=4), 5),
}


@pytest.mark.parametrize("options", [{}, STRETCHED], ids=["processor", "stretch"])
@pytest.mark.parametrize("strategy", ["full", "default"])
@pytest.mark.parametrize("tower", daily(TOWERS, ("clip",)))
def test_class_and_register_tokens_are_counted_where_the_tower_has_them(tower: str, strategy: str, options: dict[str, Any]) -> None:
    config, extra = TOWERS[tower]
    report = probe.verify(opened(real.llava(strategy, config, extra), **options), blocks((96, 160), 0))
    assert report.passed, str(report)
    assert report.checks[-1].what == ("Grid 'image', 3 x 4" if (extra, strategy) == (0, "default") else "Grid 'image', 4 x 4")


@pytest.mark.parametrize("name", daily(UNEVEN))
def test_what_a_tile_has_behind_its_last_patch_is_in_no_cell(name: str) -> None:
    # Tiles of 34 pixels hold 4 patches of 7.
    model = opened(build(name, tile=34))
    report = probe.verify(model, blocks((96, 160), 0), cells=8)
    assert report.passed, str(report)


def test_what_lies_between_tiles_is_not_seen() -> None:
    model = opened(build("internvl", tile=34))
    encoding = model.encode(blocks((68, 102), 0), "What is this?")
    tiles = model.run(encoding, probe.Projected()).projected().grid("tiles")
    assert tiles.view is not None
    assert (tiles.view.rows, tiles.view.cols) == (4, 6)  # 2 x 3 tiles
    unseen = torch.isnan(tiles.sel(feature=0).to_pixels().data[0])
    columns = unseen.all(0).nonzero().flatten().tolist()
    assert columns == [*range(28, 34), *range(62, 68), *range(96, 102)]


def test_an_image_too_narrow_for_a_cell_of_the_tiles_has_a_base_view() -> None:
    # 2 of 2000 pixels are less than one row of the 4 x 8 cells on two tiles, and all four rows are padding.
    model = opened(zoo.llava_next())
    projected = model.run(model.encode(Image.new("RGB", (2000, 2)), "What is this?"), probe.Projected()).projected()
    assert projected.shape["token"] == 16
    assert projected.grid("base").shape["row"] == 4
    with pytest.raises(GridUnknown, match="'tiles' has 0 x 8 cells: the image is too narrow"):
        projected.grid("tiles")
