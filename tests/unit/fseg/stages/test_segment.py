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
