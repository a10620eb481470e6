"""Grids and pixels for any image size, canvas of tiles and tower: cells, tokens and maps agree. `--hypothesis-profile=full` is the long form."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

import probe
from probe.backbones.llava_onevision import shrunk
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.shared.tiled_layout import tiled_grid, tiles_and_base
from probe.backbones.shared.unpadded_tiles import unpadded_tiles
from probe.errors import GridMismatch
from probe.inputs.images import open_image, resize_directly
from probe.tokens.layout import Grid
from probe.tracing.activation import Activation
from tests.processors import real

SIZES = st.tuples(st.integers(1, 300), st.integers(1, 300))
"""(height, width) of an image."""


@st.composite
def wholes(draw: st.DrawFn) -> Grid:
    """One view over any part of an image, and past it."""
    height, width = draw(SIZES)
    (top, bottom), (left, right) = (
        sorted(draw(st.lists(st.integers(-20, edge + 20), min_size=2, max_size=2, unique=True))) for edge in (height, width)
    )
    rows, cols = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    return Grid.whole(rows, cols, (height, width), box=(float(left), float(top), float(right), float(bottom)))


@st.composite
def stretched(draw: st.DrawFn) -> Grid:
    """Tiles of which the cells cover a part."""
    rows, cols, side = draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 6))
    return tiled_grid(rows, cols, side, draw(SIZES), covered=draw(st.floats(0.5, 1.0)))


@st.composite
def towers(draw: st.DrawFn) -> tuple[Grid, int, int]:
    """The unpadded tiles of LLaVA-1.6 with any tower, its edge and its patch."""
    patch = draw(st.integers(2, 16))
    edge = draw(st.integers(patch, 6 * patch))
    canvases = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4, unique=True))
    grid, _ = unpadded_tiles(draw(SIZES), [[edge * rows, edge * cols] for rows, cols in canvases], edge, patch, 0)
    assume(grid.rows and grid.cols)
    return grid, edge, patch


@st.composite
def fewer(draw: st.DrawFn) -> Grid:
    """Tiles shrunk to fewer cells."""
    grid, _, _ = draw(towers())
    down, across = (shrunk(grid.intervals(axis), draw(st.integers(1, count))) for axis, count in ((0, grid.rows), (1, grid.cols)))
    return Grid.at(down, across, tuple(range(len(down) * len(across))), grid.image_size)


GRIDS = st.one_of(wholes(), stretched(), towers().map(lambda tower: tower[0]), fewer())


def edges(grid: Grid) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """(start, end) of each row and of each column, from the cells' boxes."""
    rows = [grid.cell_box(row, 0) for row in range(grid.rows)]
    cols = [grid.cell_box(0, col) for col in range(grid.cols)]
    return [(box[1], box[3]) for box in rows], [(box[0], box[2]) for box in cols]


@given(GRIDS)
def test_cells_lie_side_by_side_from_edge_to_edge_of_the_grid(grid: Grid) -> None:
    assert grid.cell_box(grid.rows - 1, grid.cols - 1)[2:] == pytest.approx(grid.box[2:])
    for spans, first, last in zip(edges(grid), grid.box[:2][::-1], grid.box[2:][::-1], strict=True):
        assert spans[0][0] == pytest.approx(first)
        assert spans[-1][1] == pytest.approx(last)
        assert all(start < end for start, end in spans)
        assert all(one[1] <= other[0] + 1e-9 for one, other in pairwise(spans))


@given(st.one_of(wholes(), towers().filter(lambda tower: tower[1] % tower[2] == 0).map(lambda tower: tower[0])))
def test_cells_that_are_whole_patches_leave_nothing_out(grid: Grid) -> None:
    for spans in edges(grid):
        assert all(one[1] == pytest.approx(other[0]) for one, other in pairwise(spans))


def expected(spans: list[tuple[float, float]], pixels: int) -> list[float]:
    """For each pixel the index of the row whose middle its centre is on, and what lies between two middles in proportion."""
    coordinates = []
    for centre in (pixel + 0.5 for pixel in range(pixels)):
        cell = next((i for i, (start, end) in enumerate(spans) if start - 1e-9 <= centre <= end + 1e-9), None)
        coordinate = math.nan if cell is None else cell + (centre - sum(spans[cell]) / 2) / (spans[cell][1] - spans[cell][0])
        coordinates.append(min(max(coordinate, 0), len(spans) - 1) if cell is not None else math.nan)
    return coordinates


@given(GRIDS)
def test_a_map_in_pixels_has_each_cells_value_where_the_cell_lies(grid: Grid) -> None:
    down, across = (torch.tensor(expected(spans, pixels)) for spans, pixels in zip(edges(grid), grid.image_size, strict=True))
    rows, cols = torch.meshgrid(torch.arange(grid.rows), torch.arange(grid.cols), indexing="ij")
    pixels = Activation(torch.stack([rows, cols]).float(), ("layer", "row", "col"), view=grid).to_pixels()
    assert pixels.shape == {"layer": 2, "height": grid.image_size[0], "width": grid.image_size[1]}
    wanted = torch.stack(torch.broadcast_tensors(down[:, None], across[None, :]))
    wanted = torch.where(wanted.isnan().any(0), torch.nan, wanted)
    assert torch.allclose(pixels.data, wanted, atol=1e-3, equal_nan=True)


@cache
def opened(name: str) -> probe.Probe:
    hf, processor = {"granite": real.llava_next, "onevision": real.llava_onevision}[name]()
    return probe.load(model=hf, processor=processor)


@pytest.mark.parametrize("name", ["granite", "onevision"])
@given(size=st.tuples(st.integers(1, 3000), st.integers(1, 3000)))
def test_every_token_of_an_image_has_one_place_in_its_layout(name: str, size: tuple[int, int]) -> None:
    model = opened(name)
    (counted,) = model.processor._get_num_multimodal_tokens(image_sizes=[size])["num_image_tokens"]
    layout = model.backbone.layout(ProcessedImage(model.model, model.processor, size, {}, 0))
    assert layout is not None
    assert sorted([*layout.separators, *(token for grid in layout.grids for token in grid.tokens)]) == list(range(counted))
    assert layout.check(counted, name) is layout
    for wrong in (counted - 1, counted + 1):
        with pytest.raises(GridMismatch, match=f"= {counted} image tokens for this image, but input_ids has {wrong}"):
            layout.check(wrong, name)


@given(
    rows=st.integers(0, 5),
    cols=st.integers(0, 5),
    side=st.integers(1, 9),
    size=SIZES,
    base=st.sampled_from(["first", "last"]),
    covered=st.floats(0.5, 1),
)
def test_tiles_and_their_base_view_share_no_token(
    rows: int, cols: int, side: int, size: tuple[int, int], base: Any, covered: float
) -> None:
    layout = tiles_and_base(rows, cols, side, size, base=base, covered=covered)
    tiles = rows * cols + 1 if rows * cols > 1 else 1
    assert sorted(token for grid in layout.grids for token in grid.tokens) == list(range(tiles * side**2))


@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    mode=st.sampled_from(["RGB", "L", "RGBA", "LA", "P", "1", "CMYK", "I;16", "I", "F", "YCbCr", "HSV"]),
    orientation=st.integers(0, 9),
)
def test_an_image_keeps_its_height_and_width(size: tuple[int, int], mode: str, orientation: int) -> None:
    height, width = size
    image = Image.new(mode, (width, height))
    image.getexif()[0x0112] = orientation
    upright = (height, width) if orientation in (5, 6, 7, 8) else (width, height)
    assert open_image(image).size == upright
    assert open_image(np.zeros((height, width, 3), np.uint8)).size == (width, height)
    assert open_image(torch.zeros(3, height, width)).size == (width, height)
    assert resize_directly(open_image(image), (7, 9)).size == (9, 7)
