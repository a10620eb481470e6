from __future__ import annotations

import pickle

import pytest
import torch

import probe
from fseg.errors import InvalidBand, InvalidFusion, InvalidOption, UnknownFusion
from fseg.fusion_methods import registry
from fseg.fusion_methods.options import Options, band
from fseg.fusion_methods.registry import fusion, fusions, get_fusion
from fseg.stages.tvr import Respond
from tests.unit.fseg.fakes import FakeTrace, evidence


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    monkeypatch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))


def hidden(layers=(0, 0), **_):
    return [probe.Hidden(layers=band(layers), at=("image", "class"))]


def test_the_fusion_of_the_documents_runs_from_a_recipes_stage():
    @fusion("sharp", reads=lambda layers, **_: [probe.Hidden(layers=band(layers), at=("image", "class"))])
    def sharp(e, *, layers=(7, 13), power=2.0):
        image, word = e.hidden("image"), e.hidden("class")
        cosine = torch.cosine_similarity(image, word[:, -1:], dim=-1).mean(0)
        return e.fold(cosine.clamp(min=0) ** power)

    image = torch.tensor([[1.0, 0.0], [3.0, 4.0], [-1.0, 0.0], [0.0, 1.0]])
    word = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    trace = FakeTrace({"image": dict.fromkeys(range(9), image), "class": dict.fromkeys(range(9), word)})
    response = Respond("sharp", {"layers": (5, 6)})(evidence(trace=trace)).response
    torch.testing.assert_close(response, torch.tensor([[1.0, 0.36], [0.0, 0.0]]))


def test_keyword_defaults_are_the_options_and_reach_the_reads():
    received = {}

    @fusion("noting", reads=lambda **options: received.update(options) or [])
    def noting(e, *, layers=(1, 2), power=2.0):
        return torch.zeros(e.grid.shape)

    stage = Respond("noting", {"power": 3})
    assert dict(stage.options) == {"layers": (1, 2), "power": 3.0}
    assert received == {"layers": (1, 2), "power": 3.0}


def test_another_function_of_the_same_name_is_refused_naming_both():
    def other(e, *, layers=(7, 13)):
        return torch.zeros(e.grid.shape)

    with pytest.raises(InvalidFusion, match=r'"D" is fseg\.fusion_methods\.paper\.distance_alone already\. Give .*other another name'):
        fusion("D", reads=hidden)(other)


def test_the_same_function_defined_again_replaces_the_first():
    for value in (1.0, 2.0):

        @fusion("again", reads=hidden)
        def again(e, *, value=value):
            return torch.full(e.grid.shape, value)

    assert Respond("again")(evidence()).response[0, 0] == 2.0


def test_a_fusion_whose_option_has_no_default_is_refused():
    with pytest.raises(InvalidFusion, match="Not so: power"):

        @fusion("bad", reads=hidden)
        def bad(e, *, power):
            return torch.zeros(e.grid.shape)


def test_an_unknown_fusion_lists_those_registered():
    with pytest.raises(UnknownFusion, match=r'No fusion "sharp"\. Registered: D, D\*M_A, M_A'):
        get_fusion("sharp")
    assert {"D", "D*M_A", "M_A"} <= set(fusions())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param(torch.zeros(2, 3), r"shape \(2, 3\) as response of cat; the image has 2 x 2 cells", id="wrong shape"),
        pytest.param(torch.tensor([[0.0, float("nan")], [1.0, 1.0]]), "1 of 4 cells that are not finite in response", id="nan"),
        pytest.param(None, 'mapping that holds "response"', id="nothing"),
        pytest.param({"distance": torch.zeros(2, 2)}, 'mapping that holds "response"', id="no response"),
        pytest.param({"response": torch.zeros(2, 2), "guide": torch.zeros(2, 2)}, "returned 'response', 'guide'", id="another stage's map"),
    ],
)
def test_what_is_not_a_response_is_refused_by_the_fusions_name(value, message):
    @fusion("odd", reads=list)
    def odd(e):
        return value

    with pytest.raises(InvalidFusion, match=message):
        Respond("odd")(evidence())


def test_a_mapping_leaves_its_maps_and_flags():
    @fusion("rich", reads=list)
    def rich(e):
        return {"response": torch.ones(2, 2), "attention_mask": torch.ones(2, 2), "flags": ("odd",)}

    e = Respond("rich")(evidence())
    assert e.attention_mask.dtype == torch.bool
    assert e.flags == ("odd",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"layer": (7, 13)}, "no option 'layer'. Its options: layers, alpha, beta, class_token", id="unknown"),
        pytest.param({"alpha": "much"}, "alpha='much': takes a finite number", id="not a number"),
        pytest.param({"layers": 7}, r"layers=7: takes a list", id="not a band"),
        pytest.param({"class_token": "middle"}, "class_token='middle': takes 'last', 'first'", id="not a word"),
    ],
)
def test_a_wrong_option_is_refused_before_any_forward(options, message):
    with pytest.raises(InvalidOption, match=message):
        Respond("D", options)


def test_a_band_has_both_its_ends():
    assert list(band((7, 9))) == [7, 8, 9]


@pytest.mark.parametrize("layers", [(9, 7), (-2, 3), (7,), (7, 8, 9), (7, 8.0), 7, "79"])
def test_what_is_not_a_band_is_refused(layers):
    with pytest.raises(InvalidBand, match=r"a band is \(first, last\)"):
        band(layers)


def test_options_are_equal_by_value_and_survive_pickling():
    options = Options({"layers": [7, 13], "alpha": 0.75})
    assert options == Options({"alpha": 0.75, "layers": (7, 13)}) == pickle.loads(pickle.dumps(options))
    assert hash(options) == hash(Options({"alpha": 0.75, "layers": (7, 13)}))
