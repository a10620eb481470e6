"""Rows: the masks of many at once are those that the stages give one at a time."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

import fseg
from fseg.calibrate.rows import Row, Thresholds, band_distance, bands, layers_of, refined_masks
from fseg.errors import InvalidOption
from fseg.fusion_methods.distance import dynamic_threshold, suppress
from fseg.fusion_methods.paper import reliable_response
from fseg.stages.vgm import Refine, guidance, prototype_mask

ROWS, COLS = 3, 5


def alone(distance: Tensor, attention: Tensor, features: Tensor, pair: tuple[float, float], refine: Refine) -> Tensor:
    """M_r of each class by the stages' own functions."""
    kept = [suppress(one, dynamic_threshold(one, *pair)) for one in distance]
    responses = torch.stack(
        [reliable_response(one.reshape(ROWS, COLS), mask.reshape(ROWS, COLS)) for one, mask in zip(kept, attention, strict=True)]
    )
    winner = guidance(responses, dynamic_threshold(responses, *pair))
    masks = []
    for label in range(1, len(distance) + 1):
        guide = winner == label
        near = prototype_mask(features.reshape(ROWS, COLS, -1), guide)
        refined = {"M_v": near, "M^_f": guide, "both": near & guide}[refine.mask]
        masks.append((guide if refine.fallback and not refined.any() else refined).flatten())
    return torch.stack(masks)


@pytest.mark.parametrize(("mask", "fallback"), list(product(("both", "M_v", "M^_f"), (False, True))))
@pytest.mark.parametrize("seed", range(5))
def test_masks_of_many_rows_are_those_of_the_stages(mask: str, fallback: bool, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    cells = ROWS * COLS
    distance = torch.rand(3, cells, generator=rng) * 0.8 - (0.1 if seed else 0.85)  # of seed 0, no cosine is above 0
    attention = torch.rand(3, cells, generator=rng) > 0.3
    features = torch.randn(cells, 8, generator=rng)
    refine = Refine(mask=mask, fallback=fallback)
    pairs = Thresholds((0.0, 0.5, 0.75, 1.0), (0.0, 0.2, 0.45, 2.0)).pairs()
    together = refined_masks(distance, attention, features @ features.T, pairs, refine)
    for pair, masks in zip(pairs, together, strict=True):
        assert torch.equal(masks, alone(distance, attention, features, pair, refine)), pair


def test_a_guide_over_all_cells_leaves_no_prototype_outside() -> None:
    distance = torch.full((1, 4), 0.5)
    features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.9, 0.0], [-1.0, 0.0]])
    (mask,) = refined_masks(distance, torch.ones(1, 4, dtype=torch.bool), features @ features.T, [(0.5, 0.2)], Refine())
    assert mask.tolist() == [[True, True, True, False]]  # closer to the mean inside than 0, the cosine to no prototype


def test_bands_are_all_pairs_of_first_and_last() -> None:
    assert len(bands(33)) == 33 * 34 // 2
    assert (7, 13) in bands(33)


def test_a_band_is_the_mean_of_its_layers() -> None:
    distances = torch.tensor([[[1.0], [2.0], [6.0]]])
    assert band_distance(distances, (1, 2)).tolist() == [[4.0]]


def test_a_row_sets_both_stages_that_have_the_threshold() -> None:
    changed = fseg.get_recipe("glyphs").with_({"refine.beta": 0.9})
    recipe = Row((2, 5), 0.6, 0.3).of(changed, "mine")
    assert (recipe.name, layers_of(recipe)) == ("mine", (2, 5))
    assert (recipe.respond.options["alpha"], recipe.respond.options["beta"]) == (0.6, 0.3)
    assert (recipe.refine.alpha, recipe.refine.beta) == (0.6, 0.3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"alphas": ()}, "at least one alpha"),
        ({"betas": ()}, "at least one beta"),
        ({"alphas": (1.5,)}, "alpha=1.5"),
        ({"betas": (-0.1,)}, "beta=-0.1"),
        ({"betas": (float("nan"),)}, "beta=nan"),
    ],
)
def test_thresholds_that_no_recipe_takes_are_refused(values: dict[str, tuple[float, ...]], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        Thresholds(**values)
