from __future__ import annotations

import pytest
import torch
from PIL import Image

import probe
from fseg.errors import InvalidFusion, NotScoped
from tests import zoo
from tests.unit.fseg.fakes import FakeTrace, evidence

STATES = {
    "image": {layer: torch.full((4, 3), float(layer)) for layer in range(6)},
    "class": {layer: torch.zeros(2, 3) for layer in range(6)},
}


def test_a_stage_sees_the_layers_of_its_own_reads_in_a_trace_that_holds_more():
    e = evidence(trace=FakeTrace(STATES)).scoped([probe.Hidden(layers=range(2, 4), at=("image", "class"))])
    assert e.hidden("image")[:, 0, 0].tolist() == [2.0, 3.0]
    assert e.hidden("class").shape == (2, 2, 3)


def test_evidence_without_a_scope_sees_every_layer():
    assert evidence(trace=FakeTrace(STATES)).hidden("image").shape == (6, 4, 3)


def test_all_layers_in_a_read_are_all_layers_of_the_trace():
    assert evidence(trace=FakeTrace(STATES)).scoped([probe.Hidden(layers="all", at="image")]).hidden("image").shape == (6, 4, 3)


def test_a_place_outside_the_reads_names_the_reads():
    e = evidence(trace=FakeTrace(STATES)).scoped([probe.Hidden(layers=2, at="image")])
    with pytest.raises(NotScoped, match=r"cat: the hidden state at 'class' .* at=\('image',\)"):
        e.hidden("class")


def test_states_are_float32_whatever_the_model_computed_in():
    e = evidence(trace=FakeTrace({"image": {0: torch.ones(4, 3, dtype=torch.bfloat16)}}))
    assert e.hidden("image").dtype == torch.float32


def test_attention_rows_are_the_mean_over_heads():
    rows = torch.tensor([[[[0.0, 1.0]], [[1.0, 0.0]]]])  # one layer, two heads, one query, two keys
    e = evidence(trace=FakeTrace(rows=rows)).scoped([probe.Attention(layers="all", query="description", key="image", heads="all")])
    assert e.attention_rows("description", "image").tolist() == [[[0.5, 0.5]]]
    assert e.attention_heads("description", "image").shape == (1, 2, 1, 2)


def test_heads_that_were_averaged_cannot_be_told_apart():
    e = evidence(trace=FakeTrace(rows=torch.ones(1, 2, 1, 2))).scoped([probe.Attention("all", "description", "image", heads="mean")])
    with pytest.raises(NotScoped, match="heads='all'"):
        e.attention_heads("description", "image")


def test_a_class_that_was_not_traced_says_so():
    with pytest.raises(NotScoped, match="cat: no activations were read for this class: the answer is no"):
        evidence(present=False).hidden("image")


def test_a_map_is_folded_row_by_row():
    assert evidence(grid=(2, 3)).fold(torch.arange(6.0)).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_tensor_that_does_not_fold_names_both_sizes():
    with pytest.raises(InvalidFusion, match=r"\(3, 4\) does not fold onto 2 x 2 cells"):
        evidence().fold(torch.zeros(3, 4))


def test_maps_are_those_that_there_are():
    e = evidence(response=torch.ones(2, 2), raw_distance=torch.zeros(2, 2))
    assert list(e.maps()) == ["raw_distance", "response"]


def test_a_flag_stands_once():
    assert evidence(flags=("a",)).flagged("b", "a").flags == ("a", "b")


@pytest.fixture(scope="module")
def traced() -> probe.Trace:
    """Every position at layers 1 and 3, the image at 2 as well, and two layers of the vision tower."""
    hf, processor = zoo.llava()
    model = probe.load(model=hf, processor=processor, resize="stretch")
    reads = [probe.Hidden([1, 3]), probe.Hidden(2, at="image"), probe.Vision([0, 1])]
    return model.run(model.encode(Image.new("RGB", (20, 20)), "Is there a cat?"), reads)


def test_a_read_of_every_position_is_a_read_of_each(traced: probe.Trace) -> None:
    e = evidence(grid=(4, 4), trace=traced).scoped([probe.Hidden([1, 3])])
    for layer, states in zip((1, 3), e.hidden("image"), strict=True):
        assert torch.equal(states, traced.hidden("image", layer=layer).data[0])
    assert e.hidden("question").shape[0] == 2
    assert (
        e.scoped([probe.Hidden([1, 3]), probe.Hidden(2, at="image")]).hidden("image").shape[0] == 1
    )  # as Trace: reads that name it come first


def test_all_layers_of_every_position_are_not_those_that_another_stage_named() -> None:
    hf, processor = zoo.llava()
    model = probe.load(model=hf, processor=processor, resize="stretch")
    reads = [probe.Hidden("all"), probe.Hidden(2, at="image")]
    trace = model.run(model.encode(Image.new("RGB", (20, 20)), "Is there a cat?"), reads)
    assert evidence(trace=trace).scoped(reads[:1]).hidden("image").shape[0] == trace.depth[0]


def test_one_layer_of_the_tower_has_to_be_chosen_without_a_scope_too(traced: probe.Trace) -> None:
    with pytest.raises(NotScoped, match=r"cat: layers 0, 1 of the vision tower were read\. Choose one"):
        evidence(trace=traced).vision()
    features = evidence(trace=traced).scoped([probe.Vision(1)]).vision()
    assert torch.equal(features.flatten(0, 1), traced.vision(1).data[0])
