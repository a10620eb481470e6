from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import probe
from fseg.errors import UnknownFusion
from fseg.fusion_methods import registry
from fseg.fusion_methods.declaration import product
from fseg.fusion_methods.registry import fusion, get_fusion
from fseg.recipe import Recipe
from fseg.stages.tvr import Respond
from tests.unit.fseg.fakes import evidence
from tests.unit.fseg.fusion_methods.test_paper import OPTIONS, traced


@pytest.fixture(autouse=True)
def left() -> Iterator[None]:
    """A fusion "left" for one test: 4 in the upper left cell, 2 in the others."""
    before = dict(registry.REGISTRY)

    @fusion("left", reads=lambda layers, width: [probe.Hidden(layers=layers, at="image")], questions=lambda **_: ("What?",))
    def left(e, *, layers=(1, 2), width=3):
        return {"response": torch.tensor([[4.0, 2.0], [2.0, 2.0]]), "attention": torch.full((2, 2), 0.5), "flags": ("left",)}

    yield
    registry.REGISTRY.clear()
    registry.REGISTRY.update(before)


def test_the_first_response_is_weighted_by_shares_of_the_others_peaks():
    e = Respond("D*left", OPTIONS)(evidence(trace=traced()))
    torch.testing.assert_close(e.distance, torch.tensor([[1.0, 0.8], [0.6, 0.0]]))
    torch.testing.assert_close(e.response, torch.tensor([[1.0, 0.4], [0.3, 0.0]]))
    assert e.attention.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert e.flags == ("left",)


def test_d_times_m_a_is_the_papers_fusion():
    both = product("both", [get_fusion("D"), get_fusion("M_A")])
    again = {f"M_A_{name}": value for name, value in OPTIONS.items()}
    options = both.options({**OPTIONS, **again})
    e = both(evidence(trace=traced()), options)
    paper = Respond("D*M_A", OPTIONS)(evidence(trace=traced()))
    assert torch.equal(e.response, paper.response)
    assert torch.equal(e.attention_mask, paper.attention_mask)


def test_an_option_that_an_earlier_factor_has_is_called_after_its_fusion():
    stage = Respond("D*M_A*left", {"layers": (3, 4), "left_layers": (5, 6), "width": 7})
    assert dict(stage.options)["left_layers"] == (5, 6)
    assert stage.reads()[0] == probe.Hidden(layers=(3, 4), at=("image", "class"))
    assert stage.reads()[-1] == probe.Hidden(layers=(5, 6), at="image")
    assert stage.questions() == {"What?": (probe.Hidden(layers=(5, 6), at="image"),)}


def test_a_share_of_the_depth_in_a_product_becomes_layers():
    stage = Respond("D*relative", {"layers": (0.25, 0.5), "relative_layers": (0.5, 1.0)}).at_depth(8)
    assert (stage.options["layers"], stage.options["relative_layers"]) == ((2, 4), (4, 8))
    assert Respond("lens").at_depth(8).options["layers"] == (0, 8)


def test_a_product_is_one_key_of_a_recipe_and_of_its_toml():
    recipe = Recipe("mine", "glyphs").with_({"respond.fusion": "D*heads", "respond.heads": [[3, 0], [4, 0]], "respond.layers": (3, 4)})
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert 'fusion = "D*heads"' in recipe.to_toml()


@pytest.mark.parametrize("name", ["D*", "*D", "D*nothing", "D**left"])
def test_a_factor_that_is_not_registered_is_refused(name: str):
    with pytest.raises(UnknownFusion, match=r"Registered: D, D\*M_A, M_A, .*names joined by \"\*\" are a product"):
        get_fusion(name)
