from __future__ import annotations

import pytest
import torch

from fseg.fusion_methods import distance as eq


def test_distance_is_the_mean_cosine_over_the_layers():
    image = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[3.0, 4.0], [4.0, -3.0]]])  # two layers, two cells
    word = torch.tensor([[5.0, 0.0], [3.0, 4.0]])
    # cell 0: cosines 1 and 1; cell 1: cosines 0 and 0.
    torch.testing.assert_close(eq.distance_map(image, word), torch.tensor([1.0, 0.0]))
    # and with the layers' words swapped, 3/5 and 3/5; 4/5 and 4/5.
    torch.testing.assert_close(eq.distance_map(image, word.flip(0)), torch.tensor([0.6, 0.8]))


@pytest.mark.parametrize(
    ("class_token", "expected"),
    [("last", [0.0, 1.0]), ("first", [1.0, 0.0]), ("mean-feature", [0.9486833, 0.3162278]), ("mean-map", [0.5, 0.5])],
)
def test_the_class_token_of_a_split_name(class_token, expected):
    image = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    word = torch.tensor([[[3.0, 0.0], [0.0, 1.0]]])  # mean (1.5, 0.5), cosines 3 and 1 over the root of 10
    torch.testing.assert_close(eq.class_distance(image, word, class_token), torch.tensor(expected))


@pytest.mark.parametrize(("peak", "expected"), [(0.2, 0.15), (0.8, 0.19), (-0.4, -0.3)])
def test_the_threshold_is_a_share_of_the_peak_below_a_ceiling(peak, expected):
    assert eq.dynamic_threshold(torch.tensor([peak, -1.0]), 0.75, 0.19).item() == pytest.approx(expected)


def test_a_cell_at_the_threshold_is_suppressed():
    kept = eq.suppress(torch.tensor([0.5, 0.25, 0.1]), torch.tensor(0.25))
    assert kept.tolist() == [0.5, 0.0, 0.0]


def test_a_map_below_zero_everywhere_is_suppressed_whole():
    distance = torch.tensor([-0.1, -0.2])
    assert eq.suppress(distance, eq.dynamic_threshold(distance, 0.75, 0.19)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("peak", "expected"), [(0.2, 0.15), (0.9, 0.19)])
def test_the_threshold_of_several_classes_is_one_scalar(peak, expected):
    responses = torch.tensor([[[0.0, peak]], [[0.1, 0.0]]])
    assert eq.dynamic_threshold(responses, 0.75, 0.19).item() == pytest.approx(expected)
