from __future__ import annotations

import math

import pytest
import torch
from scipy import ndimage

from fseg.fusion_methods import attention


def test_a_blob_has_lower_spatial_entropy_than_noise():
    blob = torch.zeros(12, 12)
    blob[3:7, 4:9] = 1.0
    noise = torch.rand(12, 12, generator=torch.Generator().manual_seed(0))
    low, high = attention.spatial_entropy(torch.stack([blob, noise])).tolist()
    assert low == 0.0 < high


def test_two_equal_blobs_have_the_entropy_of_a_coin():
    pair = torch.zeros(1, 5, 5)
    pair[0, 0, 0] = pair[0, 4, 4] = 1.0
    assert attention.spatial_entropy(pair).item() == pytest.approx(math.log(2))


def test_cells_that_touch_at_a_corner_are_one_component():
    diagonal = torch.zeros(1, 5, 5)
    diagonal[0, 1, 1] = diagonal[0, 2, 2] = 1.0
    assert attention.spatial_entropy(diagonal).item() == 0.0


def test_a_map_where_nothing_stands_out_has_infinite_entropy():
    assert attention.spatial_entropy(torch.full((1, 4, 4), 0.3)).item() == math.inf


def test_blobs_in_the_same_place_of_neighbouring_maps_stay_apart():
    maps = torch.zeros(3, 4, 4)
    maps[:, 1, 1] = 1.0
    maps[1, 3, 3] = 3.0
    # B subtracts the mean, 4/16 in the middle map: masses 0.75 and 2.75.
    expected = -sum(p * math.log(p) for p in (0.75 / 3.5, 2.75 / 3.5))
    assert attention.spatial_entropy(maps).tolist() == pytest.approx([0.0, expected, 0.0])


def test_more_than_the_mean_may_be_subtracted():
    pair = torch.zeros(1, 5, 5)
    pair[0, 0, 0], pair[0, 4, 4] = 1.0, 3.0  # the mean is 0.16
    for factor, small, large in ((1.0, 0.84, 2.84), (2.0, 0.68, 2.68)):
        shares = small / (small + large), large / (small + large)
        assert attention.spatial_entropy(pair, mean_factor=factor).item() == pytest.approx(-sum(p * math.log(p) for p in shares))
    assert attention.spatial_entropy(pair, mean_factor=7.0).item() == 0.0  # 1 - 1.12: the small blob is gone
    near = torch.zeros(5, 5)
    near[0, 0], near[4, 4] = 0.5, 3.0  # the mean is 0.14, which the small blob exceeds unless it is taken four times
    rows = torch.stack([pair[0], near])
    assert attention.select_rows(rows, 1, drop_light_rows=False).tolist() == [1]
    assert attention.select_rows(rows, 2, drop_light_rows=False, mean_factor=7.0).tolist() == [0, 1]  # both 0: the heavier first


def test_the_reference_mode_counts_the_mass_below_its_threshold_in_the_total():
    quiet = torch.zeros(1, 10, 10)
    quiet[0, 0, 0] = 0.0101  # mean 0.000106: B is 0.009994 and 0.000394
    quiet[0, 5, 5] = 0.0005
    share = 0.009994 / (0.009994 + 0.000394)
    assert attention.spatial_entropy(quiet, "reference").item() == pytest.approx(-share * math.log(share), rel=1e-4)


def test_the_reference_mode_sees_nothing_in_a_map_below_its_threshold():
    faint = torch.zeros(1, 4, 4)
    faint[0, 0, 0] = 0.0005
    assert attention.spatial_entropy(faint, "reference").item() == math.inf
    assert attention.spatial_entropy(faint, "probability").item() == 0.0


def test_many_maps_at_once_have_the_entropy_of_each_alone(monkeypatch):
    monkeypatch.setattr(attention, "CELLS_AT_ONCE", 3 * 8 * 8)
    maps = torch.rand(8, 8, 8, generator=torch.Generator().manual_seed(1))
    alone = []
    for values in maps.double().numpy():
        above = (values - values.mean()).clip(min=0)
        labels, count = ndimage.label(above > 0, structure=[[1] * 3] * 3)
        masses = ndimage.sum(above, labels, range(1, count + 1))
        alone.append(-sum(p * math.log(p) for p in masses / masses.sum()))
    assert attention.spatial_entropy(maps).tolist() == pytest.approx(alone)


def one_cell(*masses: float) -> torch.Tensor:
    """A row with one cell of each of these masses: one component each, all of entropy 0."""
    rows = torch.zeros(len(masses), 3, 3)
    rows[:, 1, 1] = torch.tensor(masses)
    return rows


def test_equal_entropies_go_to_the_larger_mass_then_to_the_earlier_row():
    rows = one_cell(0.2, 0.5, 0.2, 0.7)
    assert attention.select_rows(rows, 4, drop_light_rows=False).tolist() == [3, 1, 0, 2]


def test_rows_below_the_median_mass_are_dropped_first():
    scattered = torch.zeros(1, 3, 3)
    scattered[0, 0, 0] = scattered[0, 2, 2] = 0.4
    rows = torch.cat([one_cell(0.1, 0.2, 0.9), scattered])  # masses 0.1, 0.2, 0.9, 0.8: median 0.5
    assert attention.select_rows(rows, 3).tolist() == [2, 3]
    assert attention.select_rows(rows, 3, drop_light_rows=False).tolist() == [2, 1, 0]


def test_sinks_are_dropped_when_asked():
    broad = torch.zeros(1, 3, 3)
    broad[0, 0, 0] = broad[0, 0, 1] = 0.1
    rows = torch.cat([one_cell(0.9), broad])
    assert attention.select_rows(rows, 1, drop_light_rows=False).tolist() == [0]
    assert attention.select_rows(rows, 1, drop_light_rows=False, drop_sinks=True).tolist() == [1]


def test_flat_rows_are_never_kept():
    assert attention.select_rows(torch.ones(4, 3, 3)).tolist() == []


def test_the_attention_mask_is_what_exceeds_the_mean():
    seen = attention.attention_map(torch.tensor([[[0.0, 0.2], [0.0, 0.0]], [[0.0, 0.2], [0.4, 0.0]]]))
    torch.testing.assert_close(seen, torch.tensor([[0.0, 0.2], [0.2, 0.0]]))
    assert attention.attention_mask(seen).tolist() == [[False, True], [True, False]]
