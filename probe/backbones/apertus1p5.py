"""Apertus 1.5: the image's own aspect ratio, quantised into tokens of the vocabulary; a token of another id between its rows."""

from __future__ import annotations

from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.discrete_images import DiscreteImages
from probe.tokens.layout import Grid, ImageLayout


@register("apertus1p5")
class Apertus1p5(DiscreteImages):
    """The image is stretched to whole cells, each of which is a word of the vocabulary.

    The convolutions pad on the right and below, so what a cell sees lies up to half a cell to its lower right.
    """

    def layout(self, image: ProcessedImage) -> ImageLayout:
        rows, cols = (edge // image.image_processor.spatial_factor for edge in image.inputs["image_sizes"][image.index].tolist())
        return ImageLayout((Grid.whole(rows, cols, image.size),))
