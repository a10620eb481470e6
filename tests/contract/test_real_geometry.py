"""Where image tokens lie, at the default image settings of each family's own processor: painting a cell moves its own token most."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

import probe
from probe.backbones.registry import BACKBONES
from probe.verification.painting import PAINTINGS, check_grid, image_tokens, inner_cells, paint_cell
from tests.families import FAMILIES
from tests.families.daily import DAILY, daily
from tests.processors.native import NATIVE
from tests.processors.square import SQUARE
from tests.processors.tiled import TILED

REAL = {**NATIVE, **SQUARE, **TILED}
# Over 5 seconds: many tiles, large squares, convolutions over all pixels.
SLOW = {
    *("aya_vision", "granite_docling", "idefics3", "internvl", "llava_next", "llava_next/siglip", "llava_next_video", "llava_onevision"),
    *("perception_lm", "qianfan_ocr", "smolvlm", "step3p7", "unlimited_ocr"),
    *("chameleon", "deepseek_vl_hybrid", "emu3", "gemma3", "qwen3_5", "shieldgemma2"),
}
PAINTED_ELSEWHERE = {"apertus1p5", "hy_v4_vl"}  # which came with transformers 5.24: test_newer_families
NAMES = daily(REAL, DAILY - SLOW)
# (height, width): a photograph, a wide strip, a tall one, and an image smaller than most processors' least size.
SHAPES = {"photograph": (480, 640), "wide": (100, 1000), "tall": (1000, 100), "small": (40, 56)}
BLOCKS = ((14.0, 6.0, 28.0, 20.0), (28.0, 20.0, 42.0, 34.0))
"""Pixels of the small image, for grids whose cells are less than 3 pixels across there: each such block holds a whole cell, and half of others."""


@cache
def opened(name: str) -> probe.Probe:
    hf, processor = REAL[name]()
    return probe.load(model=hf, processor=processor)


def blocks(shape: str) -> Image.Image:
    """Noise of blocks of 4 x 4 pixels, each channel black or white: the opposite of a cell is far from it everywhere."""
    height, width = SHAPES[shape]
    noise = np.random.default_rng(0).integers(0, 2, (height // 4, width // 4, 3), dtype=np.uint8) * 255
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def project(name: str, image: Image.Image) -> tuple[probe.Activation, probe.ImageLayout]:
    """The image's tokens as the first block takes them, and where they lie."""
    tokens = image_tokens(opened(name), image)
    assert tokens.layout is not None
    return tokens, tokens.layout


Project = Callable[[Image.Image], probe.Activation]


def test_every_family_that_declares_a_grid_is_painted_here() -> None:
    declared = {name.split("/")[-1] for name, backbone in BACKBONES.items() if backbone().has_grid}
    assert declared & set(FAMILIES) - PAINTED_ELSEWHERE == {name for name in REAL if "/" not in name}


@pytest.mark.parametrize("name", NAMES)
def test_painting_a_cell_moves_its_own_token_most(name: str) -> None:
    for shape, size in SHAPES.items():
        image = blocks(shape)
        projected, layout = project(name, image)
        tokens = [*layout.separators, *(token for grid in layout.grids for token in grid.tokens)]
        assert sorted(tokens) == list(range(projected.data.shape[1]))
        for grid in layout.grids:
            assert grid.image_size == size
            count = 1 if name in SLOW else 4 if name in NATIVE else 2  # in each shape
            paint_some_cells(image, projected, grid, lambda painted: project(name, painted)[0], count)
        if name in NATIVE:  # their cells are close to square on the image, so that a grid on its side could not pass
            x0, y0, x1, y1 = layout.grid().cell_box(0, 0)
            assert 0.6 < (x1 - x0) / (y1 - y0) < 1.7, shape


def paint_some_cells(image: Image.Image, before: probe.Activation, grid: probe.Grid, again: Project, count: int) -> None:
    x0, y0, x1, y1 = grid.cell_box(0, 0)
    if min(x1 - x0, y1 - y0) < 3 and image.height == SHAPES["small"][0]:
        for block in BLOCKS:
            x, y = middle_of_what_moves(image, before, grid, again, block)
            assert block[0] <= x <= block[2]
            assert block[1] <= y <= block[3]
        return
    cells = inner_cells(grid, np.random.default_rng(0), count)
    assert cells
    check = check_grid(image, before, grid, cells, again)
    assert check.passed, f"{image.size}: {check}"


def middle_of_what_moves(
    image: Image.Image, before: probe.Activation, grid: probe.Grid, again: Project, block: tuple[float, float, float, float]
) -> tuple[float, float]:
    """The middle of the cell whose token changes most when a block of pixels is painted over, in pixels (x, y)."""
    shares = torch.zeros(len(grid.tokens))
    for grey, amount in PAINTINGS:
        change = (again(paint_cell(image, block, grey, amount)).data - before.data)[0].norm(dim=-1)[list(grid.tokens)]
        shares += change / change.max()
    left, top, right, bottom = grid.cell_box(*divmod(int(shares.argmax()), grid.cols))
    return (left + right) / 2, (top + bottom) / 2


NO_TOWER = {
    "muse_glimmer",
    "muse_spark",
    "inkling2",
    "gemma4_unified",
    "emu3",
    "fuyu",
    "inkling_mm_model",
    "gemma3n",
    "chameleon",
    "fast_vlm",
}
WITH_VISION_GRIDS = daily((name for name in {**NATIVE, **SQUARE} if name not in NO_TOWER), DAILY - SLOW)


@pytest.mark.parametrize("name", WITH_VISION_GRIDS)
def test_painting_a_cell_moves_its_own_patches_in_the_tower(name: str) -> None:
    model, image = opened(name), blocks("photograph")

    def look(shown: Image.Image) -> tuple[torch.Tensor, probe.Grid, probe.Grid]:
        encoding = model.encode(shown, "What is this?")
        patches = model.run(encoding, probe.Vision([0])).vision(layer=0)
        (cells,) = encoding.tokens.layouts
        assert patches.layout is not None
        assert cells is not None
        return patches.grid().data[0], patches.layout.grid(), cells.grid()

    before, patches, cells = look(image)
    for row, col in inner_cells(cells, np.random.default_rng(1), 4):
        x0, y0, x1, y1 = cells.cell_box(row, col)
        pixels = np.array(image)
        pixels[round(y0) : round(y1), round(x0) : round(x1)] = 255 - pixels[round(y0) : round(y1), round(x0) : round(x1)]
        moved = (look(Image.fromarray(pixels))[0] - before).norm(dim=-1)
        left, top, right, bottom = patches.cell_box(*divmod(int(moved.argmax()), patches.cols))
        assert x0 < (left + right) / 2 < x1
        assert y0 < (top + bottom) / 2 < y1
