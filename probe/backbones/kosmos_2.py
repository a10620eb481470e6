"""Kosmos-2: a mask says where the image tokens are, no token id does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from probe.backbones.base import Backbone
from probe.backbones.registry import register
from probe.backbones.shared.resampled import QUERIES


@register("kosmos-2", "kosmos-2.5")
class Kosmos2(Backbone):
    """Discovery finds image tokens by their id, so these are not found."""

    no_grid_reason = QUERIES
    template = "Question: {question} Answer:"
    marks_images = False
    image_limit = 1
    equal_prompts_reason = "it counts padding in the positions of new tokens"
    image_mask = "image_embeds_position_mask"
    unreadable: ClassVar[Mapping[str, str]] = {
        "Projected": "no token id marks its image tokens. Read Hidden(0, at=[...]) at the positions of image_embeds_position_mask instead."
    }
