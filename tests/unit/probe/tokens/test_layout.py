"""Grids: which cell a token is, and which pixels a cell covers."""

from __future__ import annotations

import pytest
import torch

from probe.backbones.shared.cropping import fitted_square, processed_box
from probe.backbones.shared.square_tower import centred_on_receptive_fields
from probe.backbones.shared.tiled_layout import padded_canvas, tiled_grid
from probe.backbones.shared.unpadded_tiles import unpadded_tiles
from probe.errors import GridUnknown
from probe.tokens.layout import Grid, ImageLayout
from probe.tracing.trace import VisionLayout
from tests import zoo


def test_a_cell_covers_its_share_of_a_wide_image() -> None:
    grid = Grid.whole(2, 4, (100, 400))
    assert grid.cell_box(0, 0) == (0, 0, 100, 50)
    assert grid.cell_box(1, 3) == (300, 50, 400, 100)
    with pytest.raises(GridUnknown, match="2 rows and 4 columns"):
        grid.cell_box(2, 0)


def test_the_stock_processor_shows_the_central_square() -> None:
    _, processor = zoo.llava()
    assert processed_box(processor.image_processor, (100, 400)) == pytest.approx((150, 0, 250, 100))
    assert processed_box(processor.image_processor, (400, 100)) == pytest.approx((0, 150, 100, 250))


def test_tiles_have_a_newline_token_behind_each_row() -> None:
    # 40 x 80 fits the canvas 56 x 112 exactly: 4 rows of 8 cells, 16 base tokens before them.
    grid, newlines = unpadded_tiles((40, 80), [[56, 112], [112, 56], [112, 112]], tile=56, patch=14, first=16)
    assert (grid.rows, grid.cols) == (4, 8)
    assert grid.tokens[:9] == (16, 17, 18, 19, 20, 21, 22, 23, 25)
    assert newlines == (24, 33, 42, 51)
    assert grid.box == (0, 0, 80, 40)


def test_rows_of_padding_are_taken_off_the_tiles() -> None:
    # 20 x 80 on 56 x 112: shown at 28 x 112, 14 pixels of padding above and below, one row of cells (14 pixels) each: 2 rows are left.
    grid, newlines = unpadded_tiles((20, 80), [[56, 112]], tile=56, patch=14, first=16)
    assert (grid.rows, grid.cols, len(newlines)) == (2, 8, 2)
    assert grid.box == (0, 0, 80, 20)


def test_several_views_have_to_be_named() -> None:
    layout = ImageLayout((Grid.whole(1, 1, (2, 2), name="base"), Grid.whole(1, 2, (2, 2), name="tiles", first=1)), separators=(3,))
    assert layout.tokens == 4
    assert layout.grid("tiles").cols == 2
    with pytest.raises(GridUnknown, match=r"2 views: 'base' \(1 x 1\), 'tiles' \(1 x 2\)"):
        layout.grid()
    with pytest.raises(GridUnknown, match="No view 'tile'"):
        layout.grid("tile")


def test_a_padded_canvas_reaches_past_the_image() -> None:
    # 10 x 20 pixels fill 14 x 28 of the canvas 28 x 28: the canvas is as high as 20 pixels of the image.
    assert padded_canvas((10, 20), (28, 28), (14, 28)) == (0, 0, 20, 20)


def test_strided_convolutions_are_centred_on_the_first_unit_of_a_cell() -> None:
    # Cells of 4 units: a field's centre is half a unit into its cell, one and a half units before the cell's middle.
    grid = centred_on_receptive_fields(Grid.whole(1, 2, (4, 8)), stride=4)
    assert grid.box == (-1.5, -1.5, 6.5, 2.5)
    assert grid.cell_box(0, 1) == (2.5, -1.5, 6.5, 2.5)


def test_tokens_that_are_no_cells_are_counted_and_say_why() -> None:
    shown = Grid.whole(2, 2, (10, 10))
    layout = ImageLayout((), (0, 1, 2), "they mix all of the image", shown)
    assert layout.tokens == 3
    assert layout.view is shown
    with pytest.raises(GridUnknown, match="they mix all of the image"):
        layout.grid()


@pytest.mark.parametrize(("classes", "patches"), [("first", [1, 2]), ("last", [0, 1])])
def test_class_tokens_are_left_out_where_they_stand(classes: str, patches: list[int]) -> None:
    states = torch.arange(3.0)[:, None]
    assert VisionLayout(4, 2, None, "", classes).of_patches(states).flatten().tolist() == patches


def test_tiles_that_are_no_squares_are_counted_row_by_row_in_each() -> None:
    # Two tiles beside each other, each of one row of two cells above another.
    grid = tiled_grid(1, 2, 2, (20, 80), across=2)
    assert (grid.rows, grid.cols, grid.tokens) == (2, 4, (0, 1, 4, 5, 2, 3, 6, 7))
    grid = tiled_grid(2, 1, 1, (20, 80), across=3, first=5)
    assert (grid.rows, grid.cols, grid.tokens) == (2, 3, (5, 6, 7, 8, 9, 10))
    assert grid.cell_box(1, 0) == pytest.approx((0.0, 10.0, 80 / 3, 20.0))


def test_a_fitted_square_reaches_past_the_shorter_edge() -> None:
    # 100 x 200 pixels in a square of 40: 20 x 40 of them, 10 of padding above and below, which are 50 of the image's.
    assert fitted_square((100, 200), 40) == (0.0, -50.0, 200.0, 150.0)
    # At least 30 high: 5 of padding, 100 / 30 of the image's pixels each.
    assert fitted_square((100, 200), 40, least=30) == pytest.approx((0.0, -50 / 3, 200.0, 100 + 50 / 3))
