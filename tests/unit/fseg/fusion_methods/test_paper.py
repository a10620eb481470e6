from __future__ import annotations

import pytest
import torch

import probe
from fseg.errors import InvalidOption
from fseg.stages.tvr import Respond
from tests.unit.fseg.fakes import FakeTrace, evidence

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


def test_the_state_before_the_class_token_may_stand_for_it():
    trace = FakeTrace({"image": {7: CELLS, 8: CELLS}, "before class": {7: NAME.flip(0), 8: NAME.flip(0)}})
    stage = Respond("D", {**OPTIONS, "class_token": "before"})
    assert stage.reads() == [probe.Hidden(layers=(7, 8), at=("image", "before class"))]
    # The last of the two states is now (0, 1): cosines 0, 0.6, 0.8, 1.
    torch.testing.assert_close(stage(evidence(trace=trace)).raw_distance, torch.tensor([[0.0, 0.6], [0.8, 1.0]]))


def test_reads_follow_the_options():
    band, rows = Respond("D*M_A", {"layers": (7, 9)}).reads()
    assert band == probe.Hidden(layers=(7, 8, 9), at=("image", "class"))
    assert rows == probe.Attention(layers="all", query="description", key="image", heads="mean")
    assert Respond("D*M_A", {"entropy": "reference"}).reads()[1].heads == "all"
    assert len(Respond("D").reads()) == 1
    assert Respond("D*M_A", {"rows": "before"}).reads()[1].query == ("before description",)
    with pytest.raises(InvalidOption, match="rows='after': takes 'at', 'before'"):
        Respond("D*M_A", {"rows": "after"})
