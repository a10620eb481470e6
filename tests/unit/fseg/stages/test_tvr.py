from __future__ import annotations

import math

import pytest
import torch
from scipy import ndimage

import probe
from fseg.errors import NoMap
from fseg.stages import tvr
from fseg.stages.tvr import Respond
from tests.unit.fseg.fakes import FakeTrace, evidence


def test_distance_is_the_mean_cosine_over_the_layers():
    image = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[3.0, 4.0], [4.0, -3.0]]])  # two layers, two cells
    word = torch.tensor([[5.0, 0.0], [3.0, 4.0]])
    # cell 0: cosines 1 and 1; cell 1: cosines 0 and 0.
    torch.testing.assert_close(tvr.distance_map(image, word), torch.tensor([1.0, 0.0]))
    # and with the layers' words swapped, 3/5 and 3/5; 4/5 and 4/5.
    torch.testing.assert_close(tvr.distance_map(image, word.flip(0)), torch.tensor([0.6, 0.8]))


@pytest.mark.parametrize(
    ("class_token", "expected"),
    [("last", [0.0, 1.0]), ("first", [1.0, 0.0]), ("mean-feature", [0.9486833, 0.3162278]), ("mean-map", [0.5, 0.5])],
)
def test_the_class_token_of_a_split_name(class_token, expected):
    image = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    word = torch.tensor([[[3.0, 0.0], [0.0, 1.0]]])  # mean (1.5, 0.5), cosines 3 and 1 over the root of 10
    torch.testing.assert_close(tvr.class_distance(image, word, class_token), torch.tensor(expected))


@pytest.mark.parametrize(("peak", "expected"), [(0.2, 0.15), (0.8, 0.19), (-0.4, -0.3)])
def test_the_threshold_is_a_share_of_the_peak_below_a_ceiling(peak, expected):
    assert tvr.dynamic_threshold(torch.tensor([peak, -1.0]), 0.75, 0.19).item() == pytest.approx(expected)


def test_a_cell_at_the_threshold_is_suppressed():
    kept = tvr.suppress(torch.tensor([0.5, 0.25, 0.1]), torch.tensor(0.25))
    assert kept.tolist() == [0.5, 0.0, 0.0]


def test_a_map_below_zero_everywhere_is_suppressed_whole():
    distance = torch.tensor([-0.1, -0.2])
    assert tvr.suppress(distance, tvr.dynamic_threshold(distance, 0.75, 0.19)).tolist() == [0.0, 0.0]


def test_a_blob_has_lower_spatial_entropy_than_noise():
    blob = torch.zeros(12, 12)
    blob[3:7, 4:9] = 1.0
    noise = torch.rand(12, 12, generator=torch.Generator().manual_seed(0))
    low, high = tvr.spatial_entropy(torch.stack([blob, noise])).tolist()
    assert low == 0.0 < high


def test_two_equal_blobs_have_the_entropy_of_a_coin():
    pair = torch.zeros(1, 5, 5)
    pair[0, 0, 0] = pair[0, 4, 4] = 1.0
    assert tvr.spatial_entropy(pair).item() == pytest.approx(math.log(2))


def test_cells_that_touch_at_a_corner_are_one_component():
    diagonal = torch.zeros(1, 5, 5)
    diagonal[0, 1, 1] = diagonal[0, 2, 2] = 1.0
    assert tvr.spatial_entropy(diagonal).item() == 0.0


def test_a_map_where_nothing_stands_out_has_infinite_entropy():
    assert tvr.spatial_entropy(torch.full((1, 4, 4), 0.3)).item() == math.inf


def test_blobs_in_the_same_place_of_neighbouring_maps_stay_apart():
    maps = torch.zeros(3, 4, 4)
    maps[:, 1, 1] = 1.0
    maps[1, 3, 3] = 3.0
    # B subtracts the mean, 4/16 in the middle map: masses 0.75 and 2.75.
    expected = -sum(p * math.log(p) for p in (0.75 / 3.5, 2.75 / 3.5))
    assert tvr.spatial_entropy(maps).tolist() == pytest.approx([0.0, expected, 0.0])


def test_the_reference_mode_counts_the_mass_below_its_threshold_in_the_total():
    quiet = torch.zeros(1, 10, 10)
    quiet[0, 0, 0] = 0.0101  # mean 0.000106: B is 0.009994 and 0.000394
    quiet[0, 5, 5] = 0.0005
    share = 0.009994 / (0.009994 + 0.000394)
    assert tvr.spatial_entropy(quiet, "reference").item() == pytest.approx(-share * math.log(share), rel=1e-4)


def test_the_reference_mode_sees_nothing_in_a_map_below_its_threshold():
    faint = torch.zeros(1, 4, 4)
    faint[0, 0, 0] = 0.0005
    assert tvr.spatial_entropy(faint, "reference").item() == math.inf
    assert tvr.spatial_entropy(faint, "probability").item() == 0.0


def test_many_maps_at_once_have_the_entropy_of_each_alone(monkeypatch):
    monkeypatch.setattr(tvr, "_CELLS_AT_ONCE", 3 * 8 * 8)
    maps = torch.rand(8, 8, 8, generator=torch.Generator().manual_seed(1))
    alone = []
    for values in maps.double().numpy():
        above = (values - values.mean()).clip(min=0)
        labels, count = ndimage.label(above > 0, structure=[[1] * 3] * 3)
        masses = ndimage.sum(above, labels, range(1, count + 1))
        alone.append(-sum(p * math.log(p) for p in masses / masses.sum()))
    assert tvr.spatial_entropy(maps).tolist() == pytest.approx(alone)


def one_cell(*masses: float) -> torch.Tensor:
    """A row with one cell of each of these masses: one component each, all of entropy 0."""
    rows = torch.zeros(len(masses), 3, 3)
    rows[:, 1, 1] = torch.tensor(masses)
    return rows


def test_equal_entropies_go_to_the_larger_mass_then_to_the_earlier_row():
    rows = one_cell(0.2, 0.5, 0.2, 0.7)
    assert tvr.select_rows(rows, 4, drop_light_rows=False).tolist() == [3, 1, 0, 2]


def test_rows_below_the_median_mass_are_dropped_first():
    scattered = torch.zeros(1, 3, 3)
    scattered[0, 0, 0] = scattered[0, 2, 2] = 0.4
    rows = torch.cat([one_cell(0.1, 0.2, 0.9), scattered])  # masses 0.1, 0.2, 0.9, 0.8: median 0.5
    assert tvr.select_rows(rows, 3).tolist() == [2, 3]
    assert tvr.select_rows(rows, 3, drop_light_rows=False).tolist() == [2, 1, 0]


def test_sinks_are_dropped_when_asked():
    broad = torch.zeros(1, 3, 3)
    broad[0, 0, 0] = broad[0, 0, 1] = 0.1
    rows = torch.cat([one_cell(0.9), broad])
    assert tvr.select_rows(rows, 1, drop_light_rows=False).tolist() == [0]
    assert tvr.select_rows(rows, 1, drop_light_rows=False, drop_sinks=True).tolist() == [1]


def test_flat_rows_are_never_kept():
    assert tvr.select_rows(torch.ones(4, 3, 3)).tolist() == []


def test_the_attention_mask_is_what_exceeds_the_mean():
    attention = tvr.attention_map(torch.tensor([[[0.0, 0.2], [0.0, 0.0]], [[0.0, 0.2], [0.4, 0.0]]]))
    torch.testing.assert_close(attention, torch.tensor([[0.0, 0.2], [0.2, 0.0]]))
    assert tvr.attention_mask(attention).tolist() == [[False, True], [True, False]]


# Four cells, one layer band of two; the class token is (1, 0): cosines 1, 0.8, 0.6, 0 in both layers.
CELLS = torch.tensor([[2.0, 0.0], [4.0, 3.0], [3.0, 4.0], [0.0, 1.0]])
NAME = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
ROWS = torch.tensor([[[[0.1, 0.5, 0.1, 0.1]]]])  # one layer, one head, one token of S_1: looks at cell 1


def traced(rows: torch.Tensor = ROWS) -> FakeTrace:
    return FakeTrace({"image": {7: CELLS, 8: CELLS}, "class": {7: NAME, 8: NAME}}, rows=rows)


OPTIONS = {"layers": (7, 8), "alpha": 0.75, "beta": 0.5}  # tau = min(0.75, 0.5)


def test_the_papers_fusion_is_the_distance_inside_the_attention_mask():
    e = Respond("D*M_A", OPTIONS)(evidence(trace=traced()))
    torch.testing.assert_close(e.raw_distance, torch.tensor([[1.0, 0.8], [0.6, 0.0]]))
    torch.testing.assert_close(e.distance, torch.tensor([[1.0, 0.8], [0.6, 0.0]]))
    assert e.attention_mask.tolist() == [[False, True], [False, False]]
    torch.testing.assert_close(e.response, torch.tensor([[0.0, 0.8], [0.0, 0.0]]))
    assert e.flags == ()


def test_table_5s_other_rows_are_each_factor_alone():
    alone = Respond("D", {**OPTIONS, "beta": 0.7})(evidence(trace=traced()))
    torch.testing.assert_close(alone.response, torch.tensor([[1.0, 0.8], [0.0, 0.0]]))
    assert alone.attention is None
    mask = Respond("M_A", OPTIONS)(evidence(trace=traced()))
    assert mask.response.tolist() == [[0.0, 1.0], [0.0, 0.0]]
    assert mask.raw_distance is not None


def test_without_a_description_the_attention_mask_is_everywhere_and_flagged():
    e = Respond("D*M_A", OPTIONS)(evidence(trace=traced(torch.zeros(1, 1, 0, 4))))
    assert e.attention is None
    assert e.attention_mask.all()
    assert torch.equal(e.response, e.distance)
    assert e.flags == ("no-description",)


def test_a_description_that_looks_nowhere_is_flagged():
    e = Respond("D*M_A", OPTIONS)(evidence(trace=traced(torch.full((1, 1, 2, 4), 0.25))))
    assert e.attention_mask.all()
    assert e.flags == ("no-attention",)


def test_the_reference_mode_ranks_the_rows_of_single_heads():
    heads = torch.tensor([[[[0.9, 0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 0.1]]]])  # their mean looks at cell 0 as well
    e = Respond("D*M_A", {**OPTIONS, "entropy": "reference", "top_k": 1, "drop_light_rows": False})(evidence(trace=traced(heads)))
    torch.testing.assert_close(e.attention, torch.tensor([[0.9, 0.0], [0.0, 0.0]]))


def test_reads_follow_the_options():
    band, rows = Respond("D*M_A", {"layers": (7, 9)}).reads()
    assert band == probe.Hidden(layers=(7, 8, 9), at=("image", "class"))
    assert rows == probe.Attention(layers="all", query="description", key="image", heads="mean")
    assert Respond("D*M_A", {"entropy": "reference"}).reads()[1].heads == "all"
    assert len(Respond("D").reads()) == 1


def test_the_synonym_with_the_largest_peak_gives_the_map():
    sofa = evidence(asked_as="sofa", raw_distance=torch.tensor([[0.3, 0.3], [0.3, 0.3]]))
    couch = evidence(asked_as="couch", raw_distance=torch.tensor([[0.0, 0.4], [0.0, 0.0]]))
    assert tvr.best_synonym([sofa, couch]).asked_as == "couch"


def test_synonyms_without_a_distance_are_compared_by_their_response():
    sofa, couch = (evidence(asked_as=name, response=torch.full((2, 2), peak)) for name, peak in (("sofa", 0.9), ("couch", 0.1)))
    assert tvr.best_synonym([couch, sofa]).asked_as == "sofa"


def test_synonyms_without_any_map_cannot_be_compared():
    with pytest.raises(NoMap, match="run the respond stage"):
        tvr.best_synonym([evidence(), evidence()])
