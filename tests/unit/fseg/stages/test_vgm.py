from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import probe
from fseg.errors import InvalidOption
from fseg.evidence import Evidence
from fseg.stages import vgm
from fseg.stages.vgm import Refine
from tests.unit.fseg.fakes import FakeTrace, evidence


def seen(response: list[list[float]], features: torch.Tensor | None = None, name: str = "cat"):
    values = torch.tensor(response)
    shape = (values.shape[0], values.shape[1])
    features = torch.ones(*shape, 1) if features is None else features
    return evidence(grid=shape, image_size=shape, name=name, response=values, trace=FakeTrace(features=features))


def test_guidance_is_the_class_of_the_largest_response():
    responses = torch.tensor([[[0.9, 0.3, 0.0]], [[0.2, 0.8, 0.1]]])
    assert vgm.guidance(responses, torch.tensor(0.19)).tolist() == [[1, 2, 0]]


def test_ties_go_to_the_background_and_then_to_the_lower_class():
    responses = torch.tensor([[[0.5, 0.9]], [[0.5, 0.9]]])
    assert vgm.guidance(responses, torch.tensor(0.5)).tolist() == [[0, 1]]


def test_equation_9_suppresses_a_class_below_the_background_everywhere():
    # the background is min(0.75 * 0.8, 0.19) = 0.19: the dog's 0.18 never reaches it
    cat, dog = Refine()([seen([[0.8, 0.0], [0.0, 0.0]]), seen([[0.0, 0.18], [0.0, 0.18]], name="dog")])
    assert cat.guide.tolist() == [[True, False], [False, False]]
    assert cat.flags == ()
    assert not dog.guide.any()
    assert not dog.refined.any()
    assert dog.flags == ("suppressed",)


def test_equation_9_suppresses_a_class_that_another_one_beats_everywhere():
    cat, dog = Refine()([seen([[0.8, 0.7]]), seen([[0.7, 0.6]], name="dog")])
    assert cat.guide.all()
    assert dog.flags == ("suppressed",)


def test_the_same_class_alone_is_not_suppressed():
    (dog,) = Refine()([seen([[0.0, 0.18], [0.0, 0.18]], name="dog")])  # the background is 0.75 * 0.18 now
    assert dog.guide.tolist() == [[False, True], [False, True]]


def test_prototypes_are_the_means_inside_and_outside():
    features = torch.tensor([[[1.0, 0.0], [3.0, 2.0]], [[0.0, 4.0], [0.0, 8.0]]])
    inside, outside = vgm.prototypes(features, torch.tensor([[True, True], [False, False]]))
    torch.testing.assert_close(inside, torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(outside, torch.tensor([0.0, 6.0]))


# The guide holds the top row; of it the right cell looks like the bottom row, and of the bottom row the left cell like the top left.
FEATURES = torch.tensor([[[9.0, 0.0], [0.0, 1.0]], [[1.0, 0.1], [0.0, 9.0]]])
RESPONSE = [[0.8, 0.8], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("mask", "refined"),
    [
        ("M_v", [[True, False], [True, False]]),
        ("M^_f", [[True, True], [False, False]]),
        ("both", [[True, False], [False, False]]),
    ],
)
def test_table_6s_masks(mask, refined):
    (cat,) = Refine(mask=mask)([seen(RESPONSE, FEATURES)])
    assert cat.prototype_mask.tolist() == [[True, False], [True, False]]
    assert cat.guide.tolist() == [[True, True], [False, False]]
    assert cat.refined.tolist() == refined


def test_a_suppressed_class_has_no_prototype_mask():
    features = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    _, dog = Refine(mask="M_v")([seen([[0.8, 0.0]], features), seen([[0.0, 0.0]], features, name="dog")])
    assert not dog.prototype_mask.any()


def test_an_empty_refined_mask_stays_empty_unless_the_guide_is_to_stand_in():
    # one cell inside and many outside that are all the same: nothing is closer to p+ than to p-
    same = torch.ones(2, 2, 1)
    (strict,) = Refine()([seen([[0.8, 0.0], [0.0, 0.0]], same)])
    assert strict.guide.any()
    assert not strict.refined.any()
    (lenient,) = Refine(fallback=True)([seen([[0.8, 0.0], [0.0, 0.0]], same)])
    assert lenient.refined.tolist() == [[True, False], [False, False]]
    assert lenient.flags == ("fallback",)


def test_patches_that_a_family_merges_into_one_token_are_averaged():
    patches = torch.tensor([[[1.0], [3.0], [5.0], [5.0]], [[1.0], [3.0], [5.0], [5.0]]])
    trace = FakeTrace(features=patches, image_size=(10, 40))
    assert evidence(grid=(1, 2), image_size=(10, 40), trace=trace).vision_on_grid().tolist() == [[[2.0], [5.0]]]
    assert torch.equal(evidence(grid=(2, 4), image_size=(10, 40), trace=trace).vision_on_grid(), patches)


def test_patches_that_lie_across_cells_count_by_the_area_that_they_share():
    """Three patches below two cells: a cell has one patch and half of the next."""
    trace = FakeTrace(features=torch.tensor([[[3.0], [6.0], [9.0]]]), image_size=(4, 12))
    assert evidence(grid=(1, 2), image_size=(4, 12), trace=trace).vision_on_grid().flatten().tolist() == pytest.approx([4.0, 8.0])


def test_a_cell_that_lies_on_no_patch_takes_the_nearest():
    trace = FakeTrace(features=torch.tensor([[[3.0], [6.0]]]), image_size=(4, 8))
    beyond = probe.Grid.whole(1, 2, (4, 16), box=(6.0, 0.0, 16.0, 4.0))  # the patches end at 8
    e = replace(evidence(trace=trace), grid=beyond)
    assert e.vision_on_grid().flatten().tolist() == [6.0, 6.0]


def test_a_class_that_is_absent_keeps_its_position():
    absent = evidence(name="dog", present=False)
    result = Refine()([absent, seen([[0.8, 0.0]])])
    assert result[0] is absent
    assert result[1].guide.tolist() == [[True, False]]


def test_reads_name_the_vision_layer():
    assert Refine(vision_layer=-1).reads() == [probe.Vision(layers=-1)]


def test_an_unknown_mask_lists_those_there_are():
    with pytest.raises(InvalidOption, match=r"refine\.mask='M_r': takes 'M_v', 'M\^_f', 'both'"):
        Refine(mask="M_r")


@pytest.mark.parametrize("epsilon", [0.0, 1e-12, 1e-6])
def test_a_guide_of_all_cells_leaves_no_prototype_outside_whatever_epsilon_is(epsilon):
    features = torch.tensor([[[1.0, 0.0], [1.0, 1.0]], [[1.0, -1.0], [-1.0, 0.0]]])
    every = torch.ones(2, 2, dtype=torch.bool)
    assert vgm.prototypes(features, every, epsilon)[1].tolist() == [0.0, 0.0]
    # The mean inside is (0.5, 0): the cosines to it are 1, 0.7, 0.7 and -1, and those to nothing are 0.
    assert vgm.prototype_mask(features, every, epsilon).tolist() == [[True, True], [True, False]]


def test_an_unknown_kind_of_features_lists_those_there_are():
    with pytest.raises(InvalidOption, match=r"refine\.features='tower': takes 'vision', 'projected'"):
        Refine(features="tower")


def test_classes_of_one_image_share_their_features(monkeypatch):
    pooled, plain = [], Evidence.vision_on_grid
    monkeypatch.setattr(Evidence, "vision_on_grid", lambda e: pooled.append(e.name) or plain(e))
    features = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    named = [("cat", [[0.8, 0.0]]), ("dog", [[0.0, 0.8]])]
    together = Refine()([seen(response, features, name) for name, response in named])
    assert pooled == ["cat"]
    assert [e.refined.tolist() for e in together] == [[[True, False]], [[False, True]]]
    Refine()([seen(response, features.clone(), name) for name, response in named])  # of another session
    assert pooled == ["cat", "cat", "dog"]
