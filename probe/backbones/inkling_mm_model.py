"""Inkling: one token for each square of pixels of the image as it is, padded to the right and below to whole squares."""

from __future__ import annotations

from math import ceil, floor

from probe.backbones.base import SHARING, Backbone
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.tiled_layout import padded_canvas
from probe.tokens.layout import Grid, ImageLayout


@register("inkling_mm_model")
class Inkling(Backbone):
    """A last column is padding alone where the image's width is a whole number of squares."""

    prefix = SHARING
    counts_cached = True  # the relative positions of its attention

    def layout(self, image: ProcessedImage) -> ImageLayout:
        filled, edge = _resized(image), image.image_processor.size["height"]
        rows, cols = ceil(filled[0] / edge), filled[1] // edge + 1
        box = padded_canvas(image.size, (rows * edge, cols * edge), filled)
        return ImageLayout((Grid.whole(rows, cols, image.size, box=box),))


def _resized(image: ProcessedImage) -> tuple[int, int]:
    """(height, width) of the image that the processor divides; it is resized where `rescale_image_frac` is set."""
    share, longest = image.image_processor.rescale_image_frac, image.image_processor.rescale_image_max_upscaled_long_edge
    if share is None:
        return image.size
    wanted, before = max(image.size) * share, max(image.size)
    scale = (wanted if longest is None else min(wanted, max(longest, before))) / before
    return floor(image.size[0] * scale + 0.5), floor(image.size[1] * scale + 0.5)
