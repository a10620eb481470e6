from __future__ import annotations

import pytest
import torch

from fseg.errors import InvalidOption, NoMap
from fseg.stages import prompts
from fseg.stages.prompts import Prompt
from probe.tokens.layout import Grid
from tests.unit.fseg.fakes import evidence


def mask(*rows: str) -> torch.Tensor:
    return torch.tensor([[cell == "#" for cell in row] for row in rows])


# A grid of 2 rows and 4 columns over an image 100 pixels high and 40 wide: cells 50 high and 10 wide.
WIDE = mask("..##", "...#")


def test_a_box_lies_on_the_right_pixels_of_an_image_that_is_not_square():
    assert prompts.bounding_box(WIDE, Grid.whole(2, 4, (100, 40))) == (20.0, 0.0, 39.0, 99.0)


def test_a_box_of_one_cell_covers_that_cell():
    assert prompts.bounding_box(mask("....", ".#.."), Grid.whole(2, 4, (100, 40))) == (10.0, 50.0, 19.0, 99.0)


def test_a_point_lies_on_the_right_pixel_of_an_image_that_is_not_square():
    # cells (0, 2), (0, 3), (1, 3): mean row 1/3, mean col 8/3
    (point,) = Prompt()(evidence(grid=(2, 4), image_size=(100, 40), refined=WIDE)).points
    assert point == pytest.approx(((8 / 3 + 0.5) * 10 - 0.5, (1 / 3 + 0.5) * 50 - 0.5))


def test_the_centre_of_a_cell_of_one_pixel_is_that_pixel():
    assert prompts.to_pixel(3, 5, Grid.whole(24, 24, (24, 24))) == (5.0, 3.0)


@pytest.mark.parametrize(("image_size", "grid"), [((1, 1), (24, 24)), ((7, 500), (24, 24))])
def test_prompts_stay_inside_an_image_smaller_than_the_grid(image_size, grid):
    corners = torch.zeros(grid, dtype=torch.bool)
    corners[0, 0:2] = corners[-1, -2:] = True
    prompted = Prompt()(evidence(grid=grid, image_size=image_size, refined=corners))
    height, width = image_size
    x0, y0, x1, y1 = prompted.box
    assert 0 <= x0 <= x1 <= width - 1
    assert 0 <= y0 <= y1 <= height - 1
    assert len(prompted.points) == 2
    assert all(0 <= x <= width - 1 and 0 <= y <= height - 1 for x, y in prompted.points)


def test_each_component_gives_a_point_and_cells_that_touch_at_a_corner_are_one():
    cells = mask("#..#", ".#.#", "....")
    found = prompts.components(cells)
    assert [component.tolist() for component in found] == [[[0, 0], [1, 1]], [[0, 3], [1, 3]]]


def test_a_lone_cell_gives_no_point_but_belongs_to_the_box():
    prompted = Prompt()(evidence(grid=(3, 4), image_size=(3, 4), refined=mask("##..", "....", "...#")))
    assert prompted.points == ((0.5, 0.0),)
    assert prompted.box == (0.0, 0.0, 3.0, 2.0)


def test_the_largest_component_is_kept_where_all_are_small():
    prompted = Prompt(min_patches=4)(evidence(grid=(3, 4), image_size=(3, 4), refined=mask("#...", "....", "..##")))
    assert prompted.points == ((2.5, 2.0),)


def test_a_point_outside_its_component_can_be_snapped_into_it():
    ring = mask("###", "#.#", "###")
    raw = Prompt()(evidence(grid=(3, 3), image_size=(3, 3), refined=ring))
    snapped = Prompt(snap=True)(evidence(grid=(3, 3), image_size=(3, 3), refined=ring))
    assert raw.points == ((1.0, 1.0),)
    assert snapped.points == ((1.0, 0.0),)  # the first of the four nearest cells


@pytest.mark.parametrize(("kind", "points", "box"), [("point", 1, False), ("box", 0, True), ("both", 1, True)])
def test_table_4s_kinds(kind, points, box):
    prompted = Prompt(kind)(evidence(grid=(2, 4), image_size=(100, 40), refined=WIDE))
    assert (len(prompted.points), prompted.box is not None) == (points, box)


def test_an_empty_mask_gives_no_prompt_and_says_so():
    prompted = Prompt()(evidence(refined=torch.zeros(2, 2, dtype=torch.bool)))
    assert (prompted.points, prompted.box, prompted.flags) == ((), None, ("no-prompt",))


def test_prompts_before_refining_are_refused():
    with pytest.raises(NoMap, match="cat has no refined mask"):
        Prompt()(evidence())


def test_an_unknown_kind_lists_those_there_are():
    with pytest.raises(InvalidOption, match="takes 'point', 'box', 'both'"):
        Prompt("mask")


def test_a_point_of_a_component_that_is_too_small_is_flagged():
    lone = evidence(grid=(2, 4), image_size=(2, 4), refined=mask("#...", "...."))
    assert (Prompt(min_patches=10_000)(lone).points, Prompt(min_patches=10_000)(lone).flags) == (((0.0, 0.0),), ("few-patches",))
    assert Prompt(min_patches=1)(lone).flags == ()
    assert Prompt("box", min_patches=10_000)(lone).flags == ()


def test_points_and_boxes_lie_where_the_grid_lies():
    """A 384 / 14 tower sees 378 of 384 pixels: the last of 27 columns ends at 378."""
    seen = Grid.whole(27, 27, (384, 384), box=(0.0, 0.0, 378.0, 378.0))
    assert prompts.to_pixel(0, 26, seen) == (370.5, 6.5)
    assert prompts.to_pixel(0, 26, Grid.whole(27, 27, (384, 384))) == pytest.approx((376.39, 6.61), abs=0.01)
    corner = torch.zeros(27, 27, dtype=torch.bool)
    corner[26, 26] = True
    assert prompts.bounding_box(corner, seen) == (364.0, 364.0, 377.0, 377.0)


def test_points_and_boxes_of_cells_that_reach_past_the_image_stay_inside_it():
    """Cells of 20 pixels over an image of 30 that is padded to 40, below and to the right."""
    padded = Grid.whole(2, 2, (30, 30), box=(0.0, 0.0, 40.0, 40.0))
    assert prompts.to_pixel(1, 1, padded) == (29.0, 29.0)
    assert prompts.bounding_box(mask("..", ".#"), padded) == (20.0, 20.0, 29.0, 29.0)


def test_points_lie_between_cells_of_different_widths():
    """Columns over 0 to 10 and 20 to 40: halfway between their middles is 17.5."""
    uneven = Grid.at(((0.0, 10.0),), ((0.0, 10.0), (20.0, 40.0)), (0, 1), (10, 40))
    assert prompts.to_pixel(0, 0.5, uneven) == (17.0, 4.5)


BLOCK = mask(".......", ".#####.", ".#####.", ".#####.", ".......")


def test_the_points_of_stuff_are_spread_over_the_inside_of_its_mask() -> None:
    # the inside of the block is row 2, columns 2 to 4: the cell at the mean first, then its two ends
    assert prompts.spread(BLOCK, 3).tolist() == [[2, 3], [2, 2], [2, 4]]


def test_a_mask_without_enough_inside_gives_the_cells_that_it_has() -> None:
    line = mask("###..")
    assert sorted(prompts.spread(line, 8).tolist()) == [[0, 0], [0, 1], [0, 2]]


def test_a_mask_that_fills_the_grid_is_inside_up_to_the_edge_of_the_image() -> None:
    chosen = prompts.spread(torch.ones(5, 5, dtype=torch.bool), 5).tolist()
    assert chosen[0] == [2, 2]
    assert sorted(chosen[1:]) == [[0, 0], [0, 4], [4, 0], [4, 4]]


@pytest.mark.parametrize(("share", "points", "flags"), [(0.42, 3, ("stuff",)), (0.43, 1, ())])
def test_a_class_is_stuff_above_its_share_of_the_grid(share: float, points: int, flags: tuple[str, ...]) -> None:
    block = evidence(grid=(5, 7), image_size=(50, 70), refined=BLOCK)  # 15 of 35 cells: 0.4286
    prompted = Prompt(stuff_share=share, stuff_points=3)(block)
    assert (len(prompted.points), prompted.flags, prompted.box) == (points, flags, (10.0, 10.0, 59.0, 39.0))


def test_stuff_that_is_prompted_by_its_box_is_told_apart_too() -> None:
    block = evidence(grid=(5, 7), image_size=(50, 70), refined=BLOCK)
    assert Prompt("box", stuff_share=0.1)(block).flags == ("stuff",)
    full = evidence(grid=(2, 2), image_size=(20, 20), refined=torch.ones(2, 2, dtype=torch.bool))
    assert Prompt()(full).flags == ()  # the paper knows no stuff
