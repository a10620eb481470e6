from __future__ import annotations

import pytest
import torch

from fseg.errors import InvalidClasses, NoMap
from fseg.stages.compose import Compose
from probe.tokens.layout import Grid
from probe.tracing.activation.pixels import upsample
from tests.unit.fseg.fakes import evidence

SIZE = (1, 3)


def relevant(distance: float, **values):
    return evidence(grid=(1, 1), image_size=SIZE, raw_distance=torch.full((1, 1), distance), **values)


def logits(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float32)


def test_a_map_is_brought_to_the_image_between_cell_centres():
    assert upsample(torch.tensor([[0.0, 1.0]]), Grid.whole(1, 2, (1, 4))).tolist() == [[0.0, 0.25, 0.75, 1.0]]


@pytest.mark.parametrize("grid", [Grid.whole(1, 2, (1, 4)), Grid.whole(1, 2, (1, 5), box=(0.0, 0.0, 4.0, 1.0))], ids=["whole", "part"])
def test_the_filter_between_cell_centres_is_a_choice(grid):
    values = torch.tensor([[0.0, 1.0]])
    # The second pixel lies a quarter of a cell behind the first cell's centre: the cells of value 1 are 3/4 and (the edge repeated) 7/4 away.
    # Keys' kernel, a = -3/4: 5/4 (3/4)^3 - 9/4 (3/4)^2 + 1 - 3/4 (7/4 - 1) (7/4 - 2)^2 = 29/128.
    assert upsample(values, grid, "nearest")[0, :4].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert upsample(values, grid, "bicubic")[0, 1:3].tolist() == pytest.approx([29 / 128, 99 / 128])


def test_the_filter_decides_between_overlapping_masks():
    # Four pixels on two cells. The third: 0.8 against 0.75 of 0.9 with bilinear, 0.8 against 0.9 with nearest.
    flat = evidence(grid=(1, 1), image_size=(1, 4), raw_distance=torch.tensor([[0.8]]))
    rising = evidence(grid=(1, 2), image_size=(1, 4), raw_distance=torch.tensor([[0.0, 0.9]]))
    masks = [logits(1.0, 1.0, 1.0, 1.0)] * 2
    assert Compose()([flat, rising], masks, (1, 4), [0, 1]).tolist() == [[1, 1, 1, 2]]
    assert Compose(resample="nearest")([flat, rising], masks, (1, 4), [0, 1]).tolist() == [[1, 1, 2, 2]]
    filled = Compose("argmax_response", "nearest")([flat, rising], [None, None], (1, 4), [0, 1])
    assert filled.tolist() == [[1, 1, 2, 2]]


def test_a_label_is_the_class_index_plus_one_inside_its_mask():
    labels = Compose()([relevant(0.5)], [logits(2.0, 0.0, -2.0)], SIZE, [6])
    assert labels.tolist() == [[7, 0, 0]]
    assert labels.dtype == torch.int64


def test_where_masks_overlap_the_larger_product_wins():
    # sigmoid(0.1) * 0.6 = 0.315 against sigmoid(3) * 0.3 = 0.286
    both = [relevant(0.6), relevant(0.3)]
    assert Compose()(both, [logits(0.1, -1.0, -1.0), logits(3.0, 3.0, -1.0)], SIZE, [0, 1]).tolist() == [[1, 2, 0]]


def test_a_tie_goes_to_the_first_class():
    assert Compose()([relevant(0.5), relevant(0.5)], [logits(1, 1, 1)] * 2, SIZE, [0, 1]).tolist() == [[1, 1, 1]]


def test_a_mask_holds_its_pixels_where_its_distance_is_negative():
    assert Compose()([relevant(-0.5)], [logits(1.0, 1.0, -1.0)], SIZE, [0]).tolist() == [[1, 1, 0]]


def test_a_class_without_a_mask_labels_nothing():
    assert Compose()([relevant(0.9), relevant(0.1)], [None, logits(1.0, 1.0, -1.0)], SIZE, [0, 1]).tolist() == [[2, 2, 0]]


def test_the_response_weighs_a_mask_where_the_fusion_left_no_distance():
    loud, quiet = (evidence(grid=(1, 1), image_size=SIZE, response=torch.full((1, 1), value)) for value in (0.9, 0.1))
    assert Compose()([quiet, loud], [logits(1, 1, 1)] * 2, SIZE, [0, 1]).tolist() == [[2, 2, 2]]


def test_a_class_without_any_map_cannot_be_weighed():
    with pytest.raises(NoMap, match="cat has no response map"):
        Compose()([evidence(grid=(1, 1), image_size=SIZE)], [logits(1, 1, 1)], SIZE, [0])


@pytest.mark.parametrize(("fill", "expected"), [("background", [[1, 0, 0]]), ("none", [[1, 255, 255]]), ("argmax_response", [[1, 1, 2]])])
def test_what_pixels_without_a_mask_become(fill, expected):
    left = evidence(grid=(1, 3), image_size=SIZE, raw_distance=torch.tensor([[0.9, -0.1, -0.2]]))
    right = evidence(grid=(1, 3), image_size=SIZE, raw_distance=torch.tensor([[0.1, -0.2, 0.4]]))
    assert Compose(fill)([left, right], [logits(1.0, -1.0, -1.0), None], SIZE, [0, 1]).tolist() == expected


def test_no_class_at_all_is_background():
    assert Compose()([], [], SIZE, []).tolist() == [[0, 0, 0]]
    assert Compose("argmax_response")([], [], SIZE, []).tolist() == [[255, 255, 255]]


def test_a_class_whose_label_means_unlabelled_is_refused():
    with pytest.raises(InvalidClasses, match="at most 254 classes"):
        Compose("none")([relevant(0.5)], [None], SIZE, [254])


def test_a_map_is_brought_to_where_its_grid_lies():
    values = torch.tensor([[0.0, 1.0]])
    seen = Grid.whole(1, 2, (1, 5), box=(0.0, 0.0, 4.0, 1.0))
    assert upsample(values, seen).tolist() == [[0.0, 0.25, 0.75, 1.0, 1.0]]  # nothing was seen of the last pixel
    between = Grid.at(((0.0, 1.0),), ((0.0, 2.0), (4.0, 6.0)), (0, 1), (1, 6))
    # no cell covers the third and the fourth pixel: they take the edge between both cells
    assert upsample(values, between).tolist() == [[0.0, 0.25, 0.5, 0.5, 0.75, 1.0]]
