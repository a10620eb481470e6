"""Chameleon: the central square of the image, quantised into one word of the vocabulary for each cell."""

from __future__ import annotations

from probe.backbones.base import SHARING
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.cropping import processed_box
from probe.backbones.shared.discrete_images import DiscreteImages
from probe.backbones.shared.square_layout import square_grid
from probe.tokens.layout import ImageLayout


@register("chameleon")
class Chameleon(DiscreteImages):
    """The tokens of the image, row by row."""

    prefix = SHARING

    template = "<image>{question}"

    def layout(self, image: ProcessedImage) -> ImageLayout:
        box = processed_box(image.image_processor, image.size)
        return ImageLayout((square_grid(image.tokens_per_side, image.size, box=box),))
