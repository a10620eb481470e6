"""Images that no token id marks in the sequence: before it, beside it, or at positions given by a mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from probe.backbones.base import Backbone, register


@register("git")
class Git(Backbone):
    """The tower's states, class token included, stand before the text."""

    def leading(self, model: Any, inputs: Mapping[str, Any]) -> int:
        pixels = inputs["pixel_values"]
        frames = pixels.shape[1] if pixels.ndim == 5 else 1
        patch = model.config.vision_config.patch_size
        return int(frames * ((pixels.shape[-2] // patch) * (pixels.shape[-1] // patch) + 1))


@register("blip", "idefics")
class Beside(Backbone):
    """Blocks attend across to the tower's states."""

    unreadable: ClassVar[Mapping[str, str]] = {
        "Projected": "the picture is not in the sequence: blocks attend across to it. Read Vision() instead."
    }


@register("kosmos-2", "kosmos-2.5")
class Kosmos(Backbone):
    """The positions of the image tokens come as a mask."""

    unreadable: ClassVar[Mapping[str, str]] = {
        "Projected": "no token id marks its image tokens. Read Hidden(0, at=[...]) at the positions of image_embeds_position_mask instead."
    }


@register("emu3")
class Quantised(Backbone):
    """The picture becomes words of the vocabulary."""

    unreadable: ClassVar[Mapping[str, str]] = {
        "Vision": "convolutions turn the picture into words of the vocabulary; there is no tower of blocks. Read Projected() instead."
    }
