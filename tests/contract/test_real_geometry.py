"""Where image tokens lie, at the default image settings of each family's own processor: painting a cell moves its own token most."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

import probe
from probe.verification.painting import check_grid, inner_cells
from tests.processors.native import NATIVE

# (height, width): a photograph, a wide strip, a tall one, and an image smaller than most processors' least size.
SHAPES = {"photograph": (480, 640), "wide": (100, 1000), "tall": (1000, 100), "small": (40, 56)}


@cache
def opened(name: str) -> probe.Probe:
    hf, processor = NATIVE[name]()
    return probe.load(model=hf, processor=processor)


def blocks(shape: str) -> Image.Image:
    """Noise of blocks of 4 x 4 pixels, each channel black or white: the opposite of a cell is far from it everywhere."""
    height, width = SHAPES[shape]
    noise = np.random.default_rng(0).integers(0, 2, (height // 4, width // 4, 3), dtype=np.uint8) * 255
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def project(model: probe.Probe, image: Image.Image) -> probe.Activation:
    """The image's tokens as the first block takes them."""
    return model.run(model.encode(image, "What is this?"), probe.Projected()).projected()


@pytest.mark.parametrize("name", NATIVE)
def test_painting_a_cell_moves_its_own_token_most(name: str) -> None:
    model = opened(name)
    for shape, (height, width) in SHAPES.items():
        image = blocks(shape)
        projected = project(model, image)
        assert projected.layout is not None
        grid = projected.layout.grid()
        assert grid.image_size == (height, width)
        assert len(grid.tokens) + len(projected.layout.separators) == projected.data.shape[1]
        # Cells are close to square on the image, so that a grid on its side could not pass; small images are enlarged.
        x0, y0, x1, y1 = grid.cell_box(0, 0)
        assert 0.6 < (x1 - x0) / (y1 - y0) < 1.7, shape
        cells = inner_cells(grid, np.random.default_rng(0), 4)
        assert cells
        check = check_grid(image, projected, grid, cells, lambda painted: project(model, painted))
        assert check.passed, f"{shape}: {check}"


WITH_VISION_GRIDS = [name for name in NATIVE if name not in ("muse_glimmer", "muse_spark", "inkling2", "gemma4_unified")]


@pytest.mark.parametrize("name", WITH_VISION_GRIDS)
def test_painting_a_cell_moves_its_own_patches_in_the_tower(name: str) -> None:
    model, image = opened(name), blocks("photograph")

    def look(shown: Image.Image) -> tuple[torch.Tensor, probe.Grid, probe.Grid]:
        trace = model.run(model.encode(shown, "What is this?"), [probe.Vision([0]), probe.Projected()])
        patches, cells = trace.vision(layer=0), trace.projected()
        assert patches.layout is not None
        assert cells.layout is not None
        return patches.grid().data[0], patches.layout.grid(), cells.layout.grid()

    before, patches, cells = look(image)
    for row, col in inner_cells(cells, np.random.default_rng(1), 4):
        x0, y0, x1, y1 = cells.cell_box(row, col)
        pixels = np.array(image)
        pixels[round(y0) : round(y1), round(x0) : round(x1)] = 255 - pixels[round(y0) : round(y1), round(x0) : round(x1)]
        moved = (look(Image.fromarray(pixels))[0] - before).norm(dim=-1)
        left, top, right, bottom = patches.cell_box(*divmod(int(moved.argmax()), patches.cols))
        assert x0 < (left + right) / 2 < x1
        assert y0 < (top + bottom) / 2 < y1
