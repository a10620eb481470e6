"""The SAM stage: what a SAM of one's own returns is checked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from fseg.errors import InvalidSam
from fseg.sam.base import SamMask
from fseg.stages.segment import Sam
from tests.unit.fseg.fakes import evidence

MASK = SamMask(torch.ones(4, 6), 0.5)


class Own:
    """A SAM that returns what it was made with."""

    def __init__(self, returned: Any) -> None:
        self.returned = returned

    def embed(self, image: Image.Image) -> None:
        return None

    def masks(self, embedding: None, prompts: Any) -> Any:
        self.prompts = prompts
        return self.returned


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, r"Own\.masks\(\) returned a NoneType"),
        ([torch.ones(4, 6)], r"returned a list\. It returns a list of fseg\.sam\.base\.SamMask"),
        ([MASK, MASK], r"returned 2 masks for 1 prompts"),
        ([SamMask(torch.ones(6, 4), 0.5)], r"logits of shape \(6, 4\) for an image of 4 x 6 pixels"),
    ],
)
def test_what_is_not_one_mask_for_each_prompt_is_refused(returned: Any, message: str) -> None:
    prompted = evidence(grid=(2, 3), image_size=(4, 6), points=((1.0, 1.0),))
    with pytest.raises(InvalidSam, match=message):
        Sam()(Own(returned), Image.new("RGB", (6, 4)), [prompted])


def test_the_score_of_the_mask_becomes_that_of_the_class() -> None:
    prompted = evidence(grid=(2, 3), image_size=(4, 6), points=((1.0, 1.0),))
    (scored,), (logits,) = Sam()(Own([MASK]), Image.new("RGB", (6, 4)), [prompted])
    assert scored.score == 0.5
    assert logits is not None
    assert logits.shape == (4, 6)


def test_the_recipe_says_whether_prompts_are_refined() -> None:
    prompted, own = evidence(grid=(2, 3), image_size=(4, 6), points=((1.0, 1.0),)), Own([MASK])
    for refine in (False, True):
        Sam(refine=refine)(own, Image.new("RGB", (6, 4)), [prompted])
        assert [prompt.refine for prompt in own.prompts] == [refine]


def _stuff_and_a_thing() -> tuple[Any, Any]:
    covered = torch.tensor([[True, True, True], [False, False, False]])
    sky = evidence((2, 3), (4, 6), "sky", refined=covered, points=((1.0, 0.0), (4.0, 1.0)), flags=("stuff",))
    return sky, evidence((2, 3), (4, 6), "kite", points=((5.0, 3.0),))


def test_the_points_of_the_others_are_negative_points_of_stuff_alone() -> None:
    own = Own([MASK, MASK])
    for negatives, expected in ((True, [((5.0, 3.0),), ()]), (False, [(), ()])):
        scored, _ = Sam(negatives=negatives)(own, Image.new("RGB", (6, 4)), _stuff_and_a_thing())
        assert [prompt.negatives for prompt in own.prompts] == expected
        assert [e.negatives for e in scored] == expected


def test_the_mask_of_stuff_is_united_with_its_refined_mask_at_the_size_of_the_image() -> None:
    nothing = SamMask(torch.full((4, 6), -2.0), 0.5)
    for unite in (True, False):
        _, (sky, kite) = Sam(unite=unite)(Own([nothing, nothing]), Image.new("RGB", (6, 4)), _stuff_and_a_thing())
        assert sky is not None
        assert kite is not None
        # two rows of cells over four rows of pixels, interpolated: 1, 0.75, 0.25, 0
        assert (sky > 0).all(1).tolist() == [unite, unite, False, False]
        assert torch.equal(kite, nothing.logits)
    united = torch.tensor([0.75]).logit()
    _, (sky, _) = Sam(unite=True)(Own([nothing, nothing]), Image.new("RGB", (6, 4)), _stuff_and_a_thing())
    assert sky is not None
    torch.testing.assert_close(sky[1], united.expand(6))
